"""doctor: every fault is seen, told with its next step, and mended only where nothing can be lost."""

from __future__ import annotations

import json
import os
import re
import shutil
import sqlite3
from contextlib import closing

import pytest
from click.testing import CliRunner
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import PERMISSION_DENIED

from entrypoints.__main__ import cli
from skippy.tracking.outbox import Outbox, tag_values
from skippy.tracking.promotions import INTENT_TAG
from skippy.upkeep.doctor import examine
from skippy.upkeep.findings import carry_out

GONE = f"{os.uname().nodename}:999999999:1.0"


def kinds(tracker, **options) -> list[str]:
    return [finding.kind for finding in examine(tracker, **options)]


def promote(tracker, number: int, before: int | None = None) -> None:
    tracker.promotions.promote(
        "skippy", number, reason="r", report_uri="u", figures={}, expected_champion=before, by="ada"
    )


def stale_run(tracker) -> str:
    tags = {"skippy.stage": "train", "skippy.process": GONE}
    return tracker.client.create_run(tracker.store.experiment_id, tags=tags).info.run_id


def half_promotion(tracker, version) -> None:
    version()
    promote(tracker, 1)
    version()
    event = {"action": "promote", "version": 2, "replaced": 1, "at": "t", "by": "ada", "reason": "r",
             "report_uri": "u", "figures": {}}  # fmt: skip
    tracker.client.set_registered_model_tag("skippy", INTENT_TAG, json.dumps(event))
    tracker.client.set_registered_model_alias("skippy", "champion", "2")


def undelivered(tracker) -> str:
    with tracker.stage("svd", name="s", note="n", config={}) as run:
        pass
    outbox = Outbox(tracker.store, run.run_id)
    outbox.keep(tag_values({"late": "yes"}))
    os.close(outbox._lock)
    return run.run_id


def orphan(tracker) -> None:
    run = tracker.client.create_run(tracker.store.experiment_id)
    model = tracker.client.create_logged_model(
        tracker.store.experiment_id, name="v4", source_run_id=run.info.run_id
    )
    folder = tracker.store.root / "mlartifacts" / "models" / model.model_id / "artifacts"
    folder.mkdir(parents=True)
    (folder / "half").write_bytes(bytes(1000))
    tracker.client.set_terminated(run.info.run_id, "KILLED")


def done_workspace(tracker) -> None:
    (tracker.store.unfinished / "train-1.done").mkdir(parents=True)


FAULTS = {
    "stale run": lambda tracker, version: stale_run(tracker),
    "half a promotion": half_promotion,
    "undelivered": lambda tracker, version: undelivered(tracker),
    "orphaned weights": lambda tracker, version: orphan(tracker),
    "leftover workspace": lambda tracker, version: done_workspace(tracker),
}


@pytest.mark.parametrize("kind", FAULTS)
def test_a_fault_is_found_and_mended_and_then_nothing_is_wrong(tracker, version, kind) -> None:
    FAULTS[kind](tracker, version)
    (finding,) = examine(tracker)
    assert (finding.kind, finding.is_fault) == (kind, True)
    assert finding.where
    assert "skippy doctor --fix" in finding.next_step
    mended, refused = carry_out([finding])
    assert (mended, refused) == ([finding], [])
    assert kinds(tracker) == []


def test_a_mended_promotion_is_the_one_that_was_meant(tracker, version) -> None:
    half_promotion(tracker, version)
    carry_out(examine(tracker))
    assert tracker.registry.aliases("skippy") == {"champion": 2, "previous": 1}


def test_what_was_kept_arrives(tracker) -> None:
    run_id = undelivered(tracker)
    carry_out(examine(tracker))
    assert tracker.runs.read(run_id).tags["late"] == "yes"


def test_a_healthy_store_with_a_champion_has_no_finding(tracker, version) -> None:
    version()
    promote(tracker, 1)
    with tracker.stage("svd", name="s", note="n", config={}):
        assert kinds(tracker, rehash=True) == [], "a living run is none either"


def test_weights_that_are_gone_are_told_and_the_alias_that_wants_them_is_left_alone(tracker, version) -> None:
    made = version()
    promote(tracker, 1)
    shutil.rmtree(tracker.models.resolve(made.uri).path)
    (finding,) = examine(tracker)
    assert finding.kind == "version without weights"
    assert "The alias champion points at it." in finding.what
    assert finding.where == "models:/skippy/1"
    assert made.run_id in finding.next_step
    assert carry_out([finding]) == ([], [])
    assert tracker.registry.aliases("skippy") == {"champion": 1}


def test_altered_weights_are_seen_where_they_are_hashed_again_and_only_there(tracker, version) -> None:
    path = tracker.models.resolve(version().uri).path / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    assert kinds(tracker) == []
    (finding,) = examine(tracker, rehash=True)
    assert finding.kind == "altered weights"
    assert "model.safetensors" in finding.what
    assert finding.act is None


def test_weights_of_another_version_are_seen(tracker, version) -> None:
    first, second = version(adapter_digest="a1"), version(adapter_digest="a2")
    here, there = (tracker.models.resolve(one.uri).path for one in (first, second))
    shutil.rmtree(here)
    shutil.copytree(there, here)
    (finding,) = examine(tracker, rehash=True)
    assert "not those of this version" in finding.what
    assert finding.where.startswith("models:/skippy/1")


def test_an_alias_of_nothing_is_told(tracker, version) -> None:
    version()
    with closing(sqlite3.connect(tracker.store.root / "mlflow.db")) as database, database:
        database.execute(
            "INSERT INTO registered_model_aliases (alias, version, name) VALUES ('champion', 7, 'skippy')"
        )
    (finding,) = examine(tracker)
    assert (finding.kind, finding.where) == ("alias of nothing", "skippy@champion")
    assert "version 7" in finding.what


def test_unfinished_work_is_a_note_and_stays(opened) -> None:
    folder = opened.store.unfinished / "train-1"
    folder.mkdir(parents=True)
    (folder / "checkpoint").write_bytes(bytes(2000))
    said = CliRunner().invoke(cli, ["doctor", "--fix"])
    assert said.exit_code == 0
    assert "note: unfinished work, 2 kB" in said.output
    assert "let skippy gc remove it once it is old" in said.output
    assert "nothing is wrong" in said.output
    assert (folder / "checkpoint").exists()


def test_the_exit_code_tells(opened) -> None:
    run_id = stale_run(opened)
    said = CliRunner().invoke(cli, ["doctor"])
    assert said.exit_code == 1
    assert "fault: stale run. The run says RUNNING, but the process ended" in said.output
    assert run_id in said.output
    assert "1 fault" in said.output
    said = CliRunner().invoke(cli, ["doctor", "--fix", "--json"])
    assert said.exit_code == 0
    (row,) = json.loads(said.output)
    assert (row["kind"], row["is_mended"]) == ("stale run", True)
    assert CliRunner().invoke(cli, ["doctor"]).output == "nothing is wrong\n"


def test_a_repair_that_the_store_refuses_is_told_and_the_fault_stays(opened, monkeypatch) -> None:
    stale_run(opened)

    def refuse(*_: object) -> None:
        raise MlflowException("Permission denied", error_code=PERMISSION_DENIED)

    monkeypatch.setattr(opened.client, "set_terminated", refuse)
    said = CliRunner().invoke(cli, ["doctor", "--fix"])
    assert said.exit_code == 1
    assert "fault: stale run." in said.output
    assert "refused: " in said.output
    assert "1 fault" in said.output


@pytest.mark.parametrize(
    ("revision", "told"),
    [("ffffffffffff", "a newer mlflow wrote it"), ("451aebb31d03", "mlflow db upgrade sqlite:///")],
)
def test_a_store_of_another_mlflow_is_told_and_not_opened(tracker, version, revision, told) -> None:
    path = tracker.models.resolve(version().uri).path.parent / "MLmodel"
    path.write_text(re.sub("mlflow_version: .*", "mlflow_version: 9.9.9", path.read_text()))
    with closing(sqlite3.connect(tracker.store.root / "mlflow.db")) as database, database:
        database.execute("UPDATE alembic_version SET version_num = ?", (revision,))
    said = CliRunner().invoke(cli, ["doctor", "--fix"])
    assert said.exit_code == 1
    assert "fault: other mlflow." in said.output
    assert f"schema {revision}" in said.output
    assert "its newest model was made by mlflow 9.9.9" in said.output
    assert told in said.output

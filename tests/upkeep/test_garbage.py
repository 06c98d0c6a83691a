"""gc and disk: what can go, what protects the rest, and where the bytes are."""

from __future__ import annotations

import os
import re

import pytest
from click.testing import CliRunner

from entrypoints.__main__ import cli
from skippy.errors import RegistryError
from skippy.tracking.orphans import bytes_under, find_orphans
from skippy.upkeep.findings import carry_out
from skippy.upkeep.garbage import find_garbage
from skippy.upkeep.usage import measure, totals


def evaluated(tracker, uri: str, digest: str) -> str:
    with tracker.stage("eval", name="e", note="n", config={}) as run:
        run.set_tags({"skippy.model_uri": uri, "skippy.model_digest": digest})
    return run.run_id


def compared(tracker, *evaluations: str) -> str:
    with tracker.stage("compare", name="c", note="n", config={}) as run:
        run.set_tags({"skippy.eval_runs": ",".join(evaluations)})
    return run.run_id


def promote(tracker, number: int) -> None:
    tracker.promotions.promote(
        "skippy", number, reason="r", report_uri="u", figures={}, expected_champion=None, by="ada"
    )


def test_what_an_alias_a_report_or_a_run_needs_is_kept_and_the_rest_can_go(tracker, version) -> None:
    for digest in ("d1", "d2", "d3", "d4", "d5"):
        version(digest=digest)
    promote(tracker, 1)
    report = compared(
        tracker, evaluated(tracker, "models:/skippy/2", "?"), evaluated(tracker, "elsewhere", "d3")
    )
    with tracker.stage("train", name="t", note="n", config={}, base_digest="d4") as built:
        pass
    kept = {item.where: item.kept_by for item in find_garbage(tracker, days=0)}
    assert kept == {
        "models:/skippy/1": ("alias champion",),
        "models:/skippy/2": (f"the report of compare run {report[:8]}",),
        "models:/skippy/3": (f"the report of compare run {report[:8]}",),
        "models:/skippy/4": (f"it is the base of run {built.run_id[:8]}",),
        "models:/skippy/5": (),
    }
    young = [item.kept_by[-1] for item in find_garbage(tracker, days=7)]
    assert young == ["0.0 days old, younger than 7 (--days)"] * 5


def test_a_report_protects_its_models_also_where_its_evaluations_were_deleted(tracker, version) -> None:
    version(digest="d1")
    evaluation = evaluated(tracker, "models:/skippy/1", "d1")
    report = {"arms": {"v4": {"evaluations": [{"model_uri": "models:/skippy/1", "model_digest": "d1"}]}}}
    with tracker.stage("compare", name="c", note="n", config={}) as run:
        run.set_tags({"skippy.eval_runs": evaluation})
        run.log_json(report, "report/report.json")
    tracker.client.delete_run(evaluation)
    (item,) = find_garbage(tracker, days=0)
    assert item.kept_by == (f"the report of compare run {run.run_id[:8]}",)
    tracker.client.delete_run(run.run_id)
    (item,) = find_garbage(tracker, days=0)
    assert item.can_go, "the twin: without the report"


def test_a_deletion_that_is_killed_between_version_and_weights_is_ended_by_the_next_merge(
    tracker, version, monkeypatch
) -> None:
    place = tracker.models.resolve(version().uri).path
    with monkeypatch.context() as patch:
        patch.setattr("skippy.tracking.promotions.remove_weights", lambda *_: None)  # as if killed before it
        tracker.promotions.remove_version("skippy", 1)
    assert place.exists()
    (orphan,) = find_orphans(tracker.store)
    assert orphan.is_safe
    kept = tracker.models.resolve(version().uri).path
    assert not place.exists()
    assert kept.exists()


def test_a_deletion_that_is_killed_before_it_began_deletes_nothing(tracker, version, monkeypatch) -> None:
    """The twin: the version is still there, and so are its weights after the next merge."""
    place = tracker.models.resolve(version().uri).path

    def die(*_: object) -> None:
        raise SystemExit

    with monkeypatch.context() as patch:
        patch.setattr(tracker.client, "delete_model_version", die)
        with pytest.raises(SystemExit):
            tracker.promotions.remove_version("skippy", 1)
    version()
    assert place.exists()
    assert find_orphans(tracker.store) == []


def test_only_yes_deletes_and_only_what_can_go(opened, version) -> None:
    first, second = version(digest="d1"), version(digest="d2")
    promote(opened, 1)
    place = opened.models.resolve(second.uri).path
    dry = CliRunner().invoke(cli, ["gc", "--days", "0"])
    assert dry.output.startswith(f"store {opened.store.uri}\n")
    told = dry.output.splitlines()[-2:]
    assert re.fullmatch(r"can go: 1 thing, 10\.\d kB; skippy gc --yes deletes it for good", told[0])
    assert re.fullmatch(r"kept: 1 thing, 10\.\d kB; the last column says why", told[1])
    assert place.exists()
    said = CliRunner().invoke(cli, ["gc", "--days", "0", "--yes"])
    assert said.exit_code == 0
    assert [line.partition(",")[0] for line in said.output.splitlines()[-3:]] == [
        "deleted: 1 thing", "can go: nothing", "kept: 1 thing"
    ]  # fmt: skip
    assert not place.exists()
    assert [one.version for one in opened.registry.versions("skippy")] == [1]
    assert opened.models.resolve(first.uri).path.is_dir()


def test_a_version_that_becomes_champion_meanwhile_is_not_deleted(tracker, version) -> None:
    version()
    items = find_garbage(tracker, days=0)
    promote(tracker, 1)
    gone, ((_, error),) = carry_out(items)
    assert gone == []
    assert isinstance(error, RegistryError)
    assert "An alias protects this version" in str(error)
    assert tracker.models.resolve("models:/skippy@champion").path.is_dir()


def test_a_version_without_a_card_is_kept(tracker, version) -> None:
    made = version()
    (tracker.models.resolve(made.uri).path / "skippy.json").unlink()
    (item,) = find_garbage(tracker, days=0)
    assert "has no card that can be read" in " ".join(item.kept_by)


@pytest.mark.parametrize(("days", "can_go"), [(0, True), (7, False)])
def test_unfinished_work_goes_when_it_is_old(tracker, days, can_go) -> None:
    folder = tracker.store.unfinished / "train-1"
    folder.mkdir(parents=True)
    items = find_garbage(tracker, days=days)
    assert [item.can_go for item in items] == [can_go]
    carry_out(items)
    assert folder.exists() != can_go


def test_hard_links_count_once(tracker, version, tmp_path) -> None:
    made = version()
    weights = tracker.models.resolve(made.uri).path
    before = totals(measure(tracker))
    folder = tracker.store.unfinished / "train-1"
    folder.mkdir(parents=True)
    os.link(weights / "model.safetensors", folder / "again")
    (folder / "more").write_bytes(bytes(300))
    rows = measure(tracker)
    assert totals(rows) == before | {"workspace": 300}
    assert bytes_under(folder) == 10_300, "the twin: alone, it counts"
    (row,) = [row for row in rows if row["kind"] == "model"]
    assert row["what"].startswith("models:/skippy/1")
    assert row["nbytes"] > 10_000


def test_disk_says_where_the_bytes_are(opened, version) -> None:
    version()
    said = CliRunner().invoke(cli, ["disk"])
    assert "in all" in said.output
    assert "models:/skippy/1 v4" in said.output
    assert "database" in said.output
    assert said.output.splitlines()[-1] == "skippy gc says which of these can go, and what protects the rest"
    cut = CliRunner().invoke(cli, ["disk", "--limit", "1"]).output
    assert re.search(r"\nand \d+ smaller; --limit \d+ shows all\n", cut)
    assert "smaller" not in said.output

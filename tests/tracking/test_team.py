"""A team on one server: who may what, ten trainers at once, weights in parts, nothing secret where it can be read."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import boto3
import pytest
from mlflow.server.auth.client import AuthServiceClient

from skippy.config import SvdConfig
from skippy.errors import ServerError, TrackingError
from skippy.stages import svd
from skippy.tracking.members import add_member
from skippy.tracking.orphans import remove_weights
from skippy.tracking.store import open_tracker
from skippy.tracking.tags import Tag
from tests.team_server import BUCKET, KEYS, ROOT, Team, team_server

TRAINERS, POINTS = 10, 60


@pytest.fixture(scope="module")
def team():
    """A team's server, artifacts in S3."""
    with team_server() as running:
        yield running


def enter(team: Team, who: tuple[str, str], monkeypatch: pytest.MonkeyPatch, root: Path):
    for name, value in team.as_member(who).items():
        monkeypatch.setenv(name, value)
    return open_tracker(root)


def register(tracker, checkpoint: Path, name: str) -> int:
    with (
        tracker.stage("merge", name="merge", note="n", config={}) as run,
        tracker.models.draft(run, "v4") as draft,
    ):
        draft.weights_dir.mkdir()
        for path in checkpoint.iterdir():
            (draft.weights_dir / path.name).write_bytes(path.read_bytes())
        return draft.register(name, {"variant": "v4"}).version


def promote(tracker, name: str, version: int):
    return tracker.promotions.promote(
        name, version, reason="r", report_uri="u", figures={}, expected_champion=None
    )


def test_who_may_only_read_cannot_promote_and_is_told_what_to_do(
    team, checkpoint, monkeypatch, tmp_path
) -> None:
    version = register(enter(team, team.ada, monkeypatch, tmp_path), checkpoint, "shared")
    bob = enter(team, team.bob, monkeypatch, tmp_path)
    assert [each.version for each in bob.registry.versions("shared")] == [version], "he may look"
    with pytest.raises(TrackingError, match="does not permit this to this user") as refusal:
        promote(bob, "shared", version)
    assert "EDIT" in refusal.value.expected
    assert refusal.value.found == "bob"
    assert "ask the server's administrator for EDIT" in refusal.value.next_step
    assert bob.registry.alias("shared", "champion") is None
    ada = enter(team, team.ada, monkeypatch, tmp_path)
    assert promote(ada, "shared", version).aliases == ("champion",), "the twin: who may write can"


def test_who_may_train_but_not_edit_the_model_is_told_the_same(
    team, checkpoint, monkeypatch, tmp_path
) -> None:
    version = register(enter(team, team.ada, monkeypatch, tmp_path), checkpoint, "guarded")
    admin = enter(team, team.admin, monkeypatch, tmp_path)
    carol = ("carol", add_member(admin.store, "carol", may_write=False))
    AuthServiceClient(team.url).grant_user_permission(
        "carol", "experiment", admin.store.experiment_id, "EDIT"
    )
    tracker = enter(team, carol, monkeypatch, tmp_path)
    with tracker.stage("svd", name="s", note="n", config={}):
        pass
    with pytest.raises(TrackingError, match="does not permit this to this user"):
        promote(tracker, "guarded", version)
    ada = enter(team, team.ada, monkeypatch, tmp_path)
    assert ada.registry.alias("guarded", "champion") is None
    assert promote(ada, "guarded", version).version == version, "the refused attempt left no claim behind"


def test_a_wrong_password_is_told_before_anything_is_run(team, monkeypatch, tmp_path) -> None:
    with pytest.raises(TrackingError, match="does not know this user") as refusal:
        enter(team, ("ada", "not-her-password"), monkeypatch, tmp_path)
    assert "MLFLOW_TRACKING_PASSWORD" in refusal.value.next_step


def test_who_may_only_read_cannot_run_a_stage_and_is_told_the_same(team, monkeypatch, tmp_path) -> None:
    bob = enter(team, team.bob, monkeypatch, tmp_path)
    with (
        pytest.raises(TrackingError, match="does not permit this to this user"),
        bob.stage("svd", name="s", note="n", config={}),
    ):
        pytest.fail("he works")


def test_nor_through_mlflow_run_where_the_server_refuses_before_the_stage_begins(team) -> None:
    environment = os.environ | team.as_member(team.bob)
    command = f"mlflow run {ROOT} -e promote --env-manager local --experiment-name skippy -P rollback=true"
    refused = subprocess.run(
        [sys.executable, "-m", *command.split()], env=environment, capture_output=True, text=True
    )
    assert refused.returncode != 0
    assert "does not permit this to this user" in refused.stderr, refused.stderr
    assert "ask the server's administrator for EDIT" in refused.stderr
    assert "found: bob" in refused.stderr
    assert "Traceback" not in refused.stderr, "a message, not a stack"


@pytest.mark.parametrize("name", ["ada", "admin"])
def test_a_name_that_is_taken_is_refused(team, monkeypatch, tmp_path, name) -> None:
    admin = enter(team, team.admin, monkeypatch, tmp_path)
    with pytest.raises(ServerError, match="did not take a new member"):
        add_member(admin.store, name, may_write=True)


def test_nobody_makes_members_but_the_administrator(team, monkeypatch, tmp_path, tracker) -> None:
    ada = enter(team, team.ada, monkeypatch, tmp_path)
    with pytest.raises(ServerError, match="did not take a new member"):
        add_member(ada.store, "mallory", may_write=True)
    with pytest.raises(ServerError) as refusal:
        add_member(tracker.store, "mallory", may_write=True)
    assert "has no accounts" in refusal.value.found


TRAINING = """
import multiprocessing, sys
from pathlib import Path
from skippy.tracking import stage_run
from skippy.tracking.store import open_tracker

root, trainers, points = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
stage_run.BATCH_SECONDS = 0.05

def train(number):
    tracker = open_tracker(root / f"t{number}")
    with tracker.stage("train", name=f"t{number}", note="n", config={}) as run:
        for step in range(1, points + 1):
            run.log_metrics({"reward": step / 7, "loss": -step}, step=step)

forked = multiprocessing.get_context("fork")
processes = [forked.Process(target=train, args=(number,)) for number in range(trainers)]
for process in processes:
    process.start()
for process in processes:
    process.join()
sys.exit(max(abs(process.exitcode) for process in processes))
"""
"""Trainers with a process and an outbox each. Forks of the test's own process would inherit locks of its threads."""


def test_ten_trainers_at_once_lose_nothing(team, monkeypatch, tmp_path) -> None:
    ada = enter(team, team.ada, monkeypatch, tmp_path)
    command = [sys.executable, "-c", TRAINING, str(tmp_path), str(TRAINERS), str(POINTS)]
    subprocess.run(command, cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)}, check=True, timeout=300)
    runs = [run.run_id for run in ada.runs.find_all("train")]
    assert len(runs) == TRAINERS
    for run_id in runs:
        assert ada.runs.get(run_id).status == "FINISHED"
        points = ada.runs.metric_history(run_id, "reward")
        assert [(point.step, point.value) for point in points] == [(n, n / 7) for n in range(1, POINTS + 1)]
        losses = ada.runs.metric_history(run_id, "loss")
        assert [point.value for point in losses] == [-n for n in range(1, POINTS + 1)]


PLAN = """\
name: two machines
arms: [v3]
training:
  - {learning_rate: 3e-3, beta: 0.0, steps: 1}
alphas: [0.5, 1.0]
seeds: [11, 12, 13]
limit: 2
samples: 1
"""
MACHINE = """
import sys
from pathlib import Path
from skippy.config import StudyConfig
from skippy.stages import study
from skippy.studies import join
from skippy.tracking.store import open_tracker
join.POLL_SECONDS = 0.3
folder, plan, part = sys.argv[1:]
if part == "study":
    study.run(StudyConfig(plan=plan, device="cpu", parallel=1), open_tracker(Path(folder)))
else:
    join.join(plan, open_tracker(Path(folder)), device="cpu")
"""


def test_two_machines_on_one_server_do_every_cell_once_and_lose_no_point(team, monkeypatch, tmp_path) -> None:
    ada = enter(team, team.ada, monkeypatch, tmp_path)
    svd.run(SvdConfig(device="cpu"), ada)
    plan = tmp_path / "plan.yaml"
    plan.write_text(PLAN)
    machines = []
    for part in ("join", "study"):
        given = {
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": "1",
            "SKIPPY_CACHE": str(tmp_path / part / "cache"),
        }
        (tmp_path / part).mkdir()
        command = [sys.executable, "-c", MACHINE, str(tmp_path / part), str(plan), part]
        machines.append(subprocess.Popen(command, cwd=tmp_path / part, env={**os.environ, **given}))
    assert [machine.wait(400) for machine in machines] == [0, 0]
    cells = [run for run in ada.runs.find_all("cell", finished=False) if run.tags[Tag.VARIANT] != "base"]
    assert [run.status for run in cells] == ["FINISHED"] * 3
    assert len({run.tags[Tag.UNIT] for run in cells}) == 3
    assert {run.tags[Tag.ATTEMPT] for run in cells} == {"1"}
    assert len({run.tags[Tag.PROCESS] for run in cells}) == 2, "both worked"
    for run in cells:
        points = ada.runs.metric_history(run.run_id, "cell/alpha")
        assert [(point.step, point.value) for point in points] == [(0, 0.5), (1, 1.0)]
    (study,) = ada.runs.find_all("study")
    found = json.loads(ada.artifacts.path(study.run_id, "study/study.json").read_text())
    assert len(found["cells"]) == 6
    assert not any(cell.get("error") for cell in found["cells"])


def test_weights_go_up_once_in_parts_and_no_copy_stays(team, monkeypatch, tmp_path, caplog) -> None:
    caplog.set_level("INFO", logger="skippy")
    monkeypatch.setenv("MLFLOW_MULTIPART_UPLOAD_MINIMUM_FILE_SIZE", str(5 * 2**20))
    monkeypatch.setenv("MLFLOW_MULTIPART_UPLOAD_CHUNK_SIZE", str(5 * 2**20))
    ada = enter(team, team.ada, monkeypatch, tmp_path)
    large = os.urandom(11 * 2**20)
    with (
        ada.stage("merge", name="merge", note="n", config={}) as run,
        ada.models.draft(run, "v4") as draft,
    ):
        draft.weights_dir.mkdir()
        (draft.weights_dir / "config.json").write_text("{}")
        (draft.weights_dir / "model.safetensors").write_bytes(large)
        draft.register("parts", {})
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)
    s3 = boto3.client("s3", endpoint_url=team.s3)
    kept = {item["Key"]: item for item in s3.list_objects_v2(Bucket=BUCKET)["Contents"]}
    (weights,) = [key for key in kept if draft.model_id in key and key.endswith("model.safetensors")]
    assert kept[weights]["ETag"].strip('"').endswith("-3"), "three parts"
    assert s3.get_object(Bucket=BUCKET, Key=weights)["Body"].read() == large
    assert list((tmp_path / ".skippy").rglob("*.safetensors")) == []
    config = next(key for key in kept if draft.model_id in key and key.endswith("weights/config.json"))
    assert "-" not in kept[config]["ETag"], "the twin: what is small goes in one piece"
    assert "0.01 of 0.01 GB are on the server" in caplog.text
    bob = enter(team, team.bob, monkeypatch, tmp_path)
    assert not remove_weights(bob.store, draft.model_id), "who only reads removes nothing, and that is said"
    assert remove_weights(enter(team, team.ada, monkeypatch, tmp_path).store, draft.model_id)
    left = [item["Key"] for item in s3.list_objects_v2(Bucket=BUCKET).get("Contents", [])]
    assert not any(draft.model_id in key for key in left)


def test_nothing_secret_can_be_read_off_the_server(team) -> None:
    for process in subprocess.run(
        ["ps", "-eo", "args"], capture_output=True, text=True, check=True
    ).stdout.splitlines():
        assert team.admin[1] not in process
        assert "SECRET" not in process
    log = team.folder.with_suffix(".log").read_text()
    database = (team.folder / "pgpass").read_text().strip().rsplit(":", 1)[1]
    for secret in (
        team.admin[1],
        database,
        KEYS["AWS_SECRET_ACCESS_KEY"],
        (team.folder / "session-key").read_text(),
    ):
        assert secret not in log
    for path in team.folder.iterdir():
        if path.is_file() and path.name not in ("lock", "admin-told"):
            assert path.stat().st_mode & 0o077 == 0, path

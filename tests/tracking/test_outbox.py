"""What a store cannot take is kept, delivered once and in order, and a run that could not deliver is not FINISHED."""

import os
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import closing

import pytest
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import PERMISSION_DENIED, TEMPORARILY_UNAVAILABLE
from sqlalchemy import event

from skippy.errors import TrackingError
from skippy.tracking import outbox
from skippy.tracking.outbox import FOLDER, deliver_left_behind
from skippy.tracking.store import open_tracker


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(outbox, "PAUSE_SECONDS", 0.0)
    monkeypatch.setattr(outbox, "POLL_SECONDS", 0.01)
    monkeypatch.setattr("skippy.tracking.stage_run.BATCH_SECONDS", -1.0)
    monkeypatch.setattr(outbox, "PATIENCE_SECONDS", 10.0)


class Faults:
    """A client that fails on chosen calls: before it writes, or after, so that only its answer is lost."""

    def __init__(self, client, monkeypatch):
        self.calls = 0
        self.fails = lambda call: False
        self.loses_answers = False
        self.error = MlflowException("database is locked", TEMPORARILY_UNAVAILABLE)
        for name in ("log_batch", "log_artifact", "log_artifacts", "set_terminated", "set_tag"):
            monkeypatch.setattr(client, name, self._wrap(getattr(client, name)))

    def _wrap(self, write):
        def attempt(*given, **named):
            self.calls += 1
            failing = self.fails(self.calls)
            if failing and not self.loses_answers:
                raise self.error
            answer = write(*given, **named)
            if failing:
                raise self.error
            return answer

        return attempt


@pytest.fixture
def faults(tracker, monkeypatch):
    return Faults(tracker.client, monkeypatch)


def curve(tracker, run_id, name="reward"):
    return [(point.step, point.value) for point in tracker.runs.metric_history(run_id, name)]


EXPECTED = [(step, step / 4) for step in range(1, 21)]


def train(tracker, tmp_path, *, at_step=lambda run, step: None):
    """Twenty steps with a metric each, a file and a folder, and a tag at the end."""
    (tmp_path / "adapter").mkdir(exist_ok=True)
    (tmp_path / "adapter" / "weights.bin").write_bytes(b"\x00\x01")
    with tracker.stage("train", name="t", note="Trained.", config={}) as run:
        for step, value in EXPECTED:
            run.log_metrics({"reward": value}, step=step)
            at_step(run, step)
            if step % 10 == 0:
                run.log_folder(tmp_path / "adapter", f"adapters/step_{step:06d}")
                run.log_table([{"step": step}], f"tables/step_{step:06d}.parquet")
        run.set_tags({"skippy.base_hash": "h"})
    return run


FILES = [
    *(f"adapters/step_{step:06d}/weights.bin" for step in (10, 20)),
    "config.json",
    *(f"tables/step_{step:06d}.parquet" for step in (10, 20)),
]


@pytest.mark.parametrize("loses_answers", [False, True])
@pytest.mark.parametrize(
    "fails",
    [lambda call: call == 4, lambda call: call % 2, lambda call: 3 < call < 40, lambda call: call % 3 != 0],
    ids=["once", "every second", "for a while", "two of three"],
)
def test_every_point_arrives_once_and_in_order(tracker, faults, tmp_path, fails, loses_answers):
    before = faults.calls

    def begin_failing(run, step):
        if step == 1:
            faults.calls = before
            faults.fails, faults.loses_answers = fails, loses_answers

    run = train(tracker, tmp_path, at_step=begin_failing)
    record = tracker.runs.get(run.run_id)
    assert record.tags["skippy.base_hash"] == "h"
    assert curve(tracker, run.run_id) == EXPECTED
    assert tracker.artifacts.files(run.run_id) == FILES
    assert not run.outbox.folder.exists()


def fail_for_good(faults):
    def start(run, step):
        if step == 7:
            outbox.PATIENCE_SECONDS = 0.2
            faults.fails = lambda call: True

    return start


def test_a_run_that_could_not_deliver_is_not_finished_and_says_where_its_points_are(
    tracker, faults, tmp_path
):
    with pytest.raises(TrackingError, match="did not take everything") as error:
        train(tracker, tmp_path, at_step=fail_for_good(faults))
    faults.fails = lambda call: False
    (folder,) = (tracker.store.unfinished / FOLDER).iterdir()
    assert error.value.where == str(folder)
    assert "database is locked" in error.value.found
    assert "python -m skippy.tracking.outbox" in error.value.next_step
    record = tracker.runs.read(folder.name)
    assert record.status == "RUNNING", "the store took nothing, not even that"
    assert curve(tracker, folder.name) == EXPECTED[:7]


def test_what_a_living_process_keeps_is_left_to_it(tracker, faults, tmp_path):
    with pytest.raises(TrackingError):
        train(tracker, tmp_path, at_step=fail_for_good(faults))
    (folder,) = (tracker.store.unfinished / FOLDER).iterdir()
    faults.fails = lambda call: False
    assert deliver_left_behind(tracker.store) == []
    assert folder.exists()


def environment(tracker):
    return {**os.environ, "MLFLOW_TRACKING_URI": tracker.store.uri}


DYING = """
import sys
from pathlib import Path
from mlflow.exceptions import MlflowException
from skippy.tracking import outbox
from skippy.tracking.store import open_tracker

outbox.POLL_SECONDS, outbox.PATIENCE_SECONDS = 0.01, 0.2
tracker = open_tracker(Path.cwd())
def refuse(*given, **named):
    raise MlflowException("gone")
with tracker.stage("train", name="t", note="Trained.", config={}) as run:
    run.log_metrics({"reward": 1.0}, step=1)
    run.flush()
    for name in ("log_batch", "log_artifact", "log_artifacts", "set_terminated", "set_tag"):
        setattr(tracker.client, name, refuse)
    for step in (2, 3):
        run.log_metrics({"reward": float(step)}, step=step)
        run.flush()
    run.log_text("kept", "deep/note.md")
    if sys.argv[1] == "killed":
        import os, signal
        os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize(("ending", "status"), [("ended", "FINISHED"), ("killed", "KILLED")])
def test_the_next_stage_delivers_what_a_dead_process_kept(tracker, project, ending, status):
    died = subprocess.run(
        [sys.executable, "-c", DYING, ending],
        cwd=project,
        env=environment(tracker),
        capture_output=True,
        text=True,
    )
    assert died.returncode != 0
    (run_id,) = (path.name for path in (project / ".skippy" / FOLDER).iterdir())
    assert tracker.runs.read(run_id).status == "RUNNING"
    with tracker.stage("svd", name="s", note="n", config={}):
        pass
    record = tracker.runs.read(run_id)
    assert record.status == status
    assert curve(tracker, run_id) == [(1, 1.0), (2, 2.0), (3, 3.0)]
    assert tracker.artifacts.path(run_id, "deep/note.md").read_text() == "kept"
    assert not (project / ".skippy" / FOLDER / run_id).exists()
    if status == "FINISHED":
        assert record.tags["mlflow.note.content"] == "Trained."
    assert deliver_left_behind(tracker.store) == [], "nothing twice"


def test_a_store_that_is_well_and_refuses_is_told_at_once(tracker, faults):
    """The twin: a refusal is no outage; waiting would not help."""
    faults.error = MlflowException("no EDIT", PERMISSION_DENIED)
    runs = []

    def work():
        with tracker.stage("train", name="t", note="n", config={}) as run:
            runs.append(run)
            faults.fails = lambda call: True
            run.log_text("x", "x.txt")

    began = time.monotonic()
    with pytest.raises(TrackingError, match=r"does not permit this[\s\S]*EDIT"):
        work()
    assert time.monotonic() - began < 5
    assert not runs[0].outbox.folder.exists()


def test_points_that_are_refused_are_kept_and_the_run_says_where(tracker, monkeypatch):
    write, runs = tracker.client.log_batch, []

    def refuse_points(run_id, metrics=(), params=(), tags=()):
        if metrics:
            raise MlflowException("no EDIT", PERMISSION_DENIED)
        return write(run_id, metrics=metrics, params=params, tags=tags)

    def work():
        with tracker.stage("train", name="t", note="n", config={}) as run:
            runs.append(run)
            run.log_metrics({"reward": 1.0}, step=1)

    with monkeypatch.context() as patch:
        patch.setattr(tracker.client, "log_batch", refuse_points)
        with pytest.raises(TrackingError, match="does not permit this"):
            work()
    (run,) = runs
    record = tracker.runs.read(run.run_id)
    assert record.status == "FAILED"
    assert str(run.outbox.folder) in record.tags["skippy.error"]
    assert run.outbox.deliver_kept()
    assert curve(tracker, run.run_id) == [(1, 1.0)]
    assert tracker.runs.read(run.run_id).status == "FAILED", "its work was cut short"


def test_a_database_that_is_locked_meanwhile_loses_nothing(project, tmp_path, monkeypatch):
    """A real lock; MLflow waits 20 s for one by itself, so its patience is cut for the test."""
    tracker = open_tracker(project)
    cut: list[str] = []
    kept: list[bool] = []

    def shorten(connection, cursor, statement, parameters, context, is_many):
        # MLflow sets it anew in every session, after the connection is checked out.
        if "busy_timeout" in statement:
            statement = "PRAGMA busy_timeout = 100"
            cut.append(statement)
        return statement, parameters

    event.listen(tracker.client._tracking_client.store.engine, "before_cursor_execute", shorten, retval=True)
    monkeypatch.setattr(outbox, "PATIENCE_SECONDS", 30.0)
    blocker = sqlite3.connect(project / "mlflow.db", check_same_thread=False, isolation_level=None)

    def lock(run, step):
        if step == 5:
            blocker.execute("BEGIN EXCLUSIVE")
        if step == 18:
            kept.append(run.outbox.is_waiting)
            threading.Timer(0.5, lambda: blocker.execute("ROLLBACK")).start()

    with closing(blocker):
        run = train(tracker, tmp_path, at_step=lock)
    assert cut, "MLflow's own patience was not met: every try would wait 20 s"
    assert kept == [True], "what was logged while the lock was held waits on disk"
    assert curve(tracker, run.run_id) == EXPECTED
    assert tracker.artifacts.files(run.run_id) == FILES
    assert tracker.runs.get(run.run_id).status == "FINISHED"


def test_unfinished_work_is_given_up_only_when_the_run_is_finished(tracker, faults, monkeypatch):
    seen = []

    def work(end):
        with tracker.stage("train", name="t", note="n", config={}) as run:
            run.when_finished(lambda: seen.append(tracker.runs.read(run.run_id).status))
            assert not seen
            end()

    monkeypatch.setattr(outbox, "PATIENCE_SECONDS", 0.2)
    with pytest.raises(ZeroDivisionError):
        work(lambda: 1 / 0)
    assert not seen
    with pytest.raises(TrackingError):
        work(lambda: setattr(faults, "fails", lambda call: True))
    assert not seen
    faults.fails = lambda call: False
    work(lambda: None)
    assert seen == ["FINISHED"]

"""Claims through the store: of many workers at once exactly one gets each piece of work."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
from mlflow.exceptions import MlflowException

from skippy.errors import TrackingError
from skippy.tracking.claims import CLAIMS_EXPERIMENT, Claims
from skippy.tracking.patience import patiently
from skippy.tracking.store import open_tracker

RACER = """
import sys
from pathlib import Path
from skippy.tracking.store import open_tracker
tracker = open_tracker(Path(sys.argv[1]))
print(tracker.claims.board, *(n for n in range(12) if tracker.claims.claim(f"cell/{n}", sys.argv[2])))
"""


def test_first_come_first_served(tracker) -> None:
    assert tracker.claims.claim("cell-a/1", "one")
    assert not tracker.claims.claim("cell-a/1", "two")
    assert tracker.claims.claim("cell-a/1", "one")
    assert tracker.claims.claim("cell-a/2", "two")
    assert tracker.claims.holders() == {"cell-a/1": "one", "cell-a/2": "two"}


def test_two_processes_share_the_work_and_the_board(project) -> None:
    """Both make the board at once on a fresh store, and no piece of work is had twice."""
    open_tracker(project)
    racers = [
        subprocess.Popen([sys.executable, "-c", RACER, str(project), name], stdout=subprocess.PIPE, text=True)
        for name in ("one", "two")
    ]
    lines = [racer.communicate(timeout=120)[0].split() for racer in racers]
    assert lines[0][0] == lines[1][0]
    first, second = set(lines[0][1:]), set(lines[1][1:])
    assert first | second == {str(n) for n in range(12)}
    assert not first & second


def test_threads_race_for_one_piece(tracker) -> None:
    workers = [Claims(tracker.store) for _ in range(8)]
    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(lambda pair: pair[1].claim("cell/1", f"w{pair[0]}"), enumerate(workers)))
    assert sum(won) == 1


def test_looking_first_and_writing_then_fails_the_same_check(tracker) -> None:
    """The twin: a tag that is read, found empty and written is had by everybody who read in time."""
    run = tracker.client.create_run(tracker.store.experiment_id).info.run_id

    def look(_: int) -> bool:
        return "claim" not in tracker.client.get_run(run).data.tags

    saw_it_free = [look(worker) for worker in range(3)]
    for worker in range(3):
        tracker.client.set_tag(run, "claim", str(worker))
    assert sum(saw_it_free) == 3


def test_a_deleted_board_is_named(tracker) -> None:
    assert tracker.claims.board
    experiment = tracker.client.get_experiment_by_name(CLAIMS_EXPERIMENT)
    tracker.client.delete_experiment(experiment.experiment_id)
    with pytest.raises(TrackingError, match="is deleted"):
        _ = Claims(tracker.store).board


def test_patience_waits_for_a_busy_store_and_for_nothing_else(monkeypatch) -> None:
    monkeypatch.setattr("skippy.tracking.patience.FIRST_WAIT_SECONDS", 0.001)
    answers = [MlflowException("(sqlite3.OperationalError) database is locked"), MlflowException("no"), 3]

    def call() -> int:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    with pytest.raises(MlflowException, match="no"):
        patiently(call)
    assert patiently(call) == 3

"""Which cells are free, running, finished or failed, and claiming one: through the tracker, so over many machines.

Every attempt at a cell is claimed anew under its own number. An attempt ends with its run: FINISHED and FAILED are
final, KILLED frees the cell for the next attempt, and so does a run whose process is gone or silent.
"""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

from skippy.tracking.records import RunRecord
from skippy.tracking.signals import is_process_gone, process_tag
from skippy.tracking.tags import Tag
from skippy.tracking.tracker import Tracker

CELL_STAGE = "cell"
HEARTBEAT_SECONDS = 60.0
SILENT_SECONDS = 600.0
"""A run that has not been heard of for this long is taken over."""
MAX_ATTEMPTS = 5
"""A cell that killed so many workers of one study is not tried again; studies killed as a whole are no death of it."""


@dataclass(frozen=True)
class State:
    """Where a cell stands."""

    word: Literal["free", "running", "finished", "failed"]  # free, running, finished or failed
    attempts: int  # that were made
    run: RunRecord | None = None  # of the attempt that decides; None where there is none
    error: str = ""  # first line of why it failed


class Board:
    """The cells of one base and character, whoever works on them.

    Args:
        group: what the cells' runs have in common, for one search.
        retry_before: failed attempts that began before this time, in milliseconds, are forgiven.
    """

    def __init__(self, tracker: Tracker, group: str, retry_before: int = 0) -> None:
        self._tracker = tracker
        self._group = group
        self._retry_before = retry_before
        self._token = f"{process_tag()}|{uuid.uuid4().hex[:8]}"

    def states(self, keys: Sequence[str]) -> dict[str, State]:
        """Where each cell stands; runs of this machine whose process is gone are marked on the way."""
        self._tracker.processes.reap()
        runs: dict[str, dict[int, RunRecord]] = {}
        tags: dict[str, str] = {Tag.STUDY_GROUP: self._group}
        for record in self._tracker.runs.find_all(CELL_STAGE, extra_tags=tags, finished=False):
            number = Tag.ATTEMPT.read(record.tags) or 0
            runs.setdefault(record.tags.get(Tag.UNIT, ""), {})[number] = record
        held: dict[str, dict[int, str]] = {}
        for work, token in self._tracker.claims.holders().items():
            key, _, attempt = work.rpartition("/")
            held.setdefault(key, {})[int(attempt)] = token
        return {key: self._state(runs.get(key, {}), held.get(key, {})) for key in keys}

    def claim(self, key: str, state: State) -> int:
        """The number of the attempt that is ours from now on, 0 where another worker was faster."""
        attempt = state.attempts + 1
        token = f"{self._token}|{int(time.time())}"
        return attempt if self._tracker.claims.claim(f"{key}/{attempt}", token) else 0

    def _state(self, runs: Mapping[int, RunRecord], held: Mapping[int, str]) -> State:
        finished = [runs[attempt] for attempt in sorted(runs) if runs[attempt].status == "FINISHED"]
        last = max([0, *runs, *held])
        if finished:
            return State("finished", last, finished[0])
        if not last:
            return State("free", 0)
        run = runs.get(last)
        if run is None:
            return State("free" if _is_gone(held[last]) else "running", last)
        if run.status == "FAILED" and run.start_time >= self._retry_before:
            return State("failed", last, run, _reason(run))
        is_over = run.status != "RUNNING" or _is_silent(run)
        # Of the study that works now: those before it were ended with all of their workers, whatever this cell did.
        deaths = sum(other.parent == run.parent for other in runs.values())
        if is_over and deaths >= MAX_ATTEMPTS and run.start_time >= self._retry_before:
            return State("failed", last, run, f"its worker died {deaths} times")
        return State("free" if is_over else "running", last, run)


def _reason(run: RunRecord) -> str:
    lines = run.tags.get(Tag.ERROR, "").splitlines()
    return lines[0] if lines else "no reason was recorded"


@contextmanager
def heartbeat(tracker: Tracker, run_id: str) -> Iterator[None]:
    """Say now and then that a run is alive, from a thread of its own."""
    stop = threading.Event()

    def beat() -> None:
        while not stop.wait(HEARTBEAT_SECONDS):
            tracker.client.set_tag(run_id, Tag.HEARTBEAT, str(int(time.time())))

    thread = threading.Thread(target=beat, name="skippy-heartbeat", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()


def _is_silent(run: RunRecord) -> bool:
    heard = max(run.start_time / 1000, float(run.tags.get(Tag.HEARTBEAT, "0")))
    return time.time() - heard > SILENT_SECONDS


def _is_gone(token: str) -> bool:
    """Whether the holder of a claim without a run is a dead process of this machine, or silent for too long."""
    holder, _, stamp = token.split("|")
    return time.time() - int(stamp) > SILENT_SECONDS or is_process_gone(holder)

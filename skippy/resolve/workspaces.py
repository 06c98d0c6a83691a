"""Directories for unfinished work, one process at a time."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from skippy.errors import TrackingError
from skippy.tracking.connection import Store
from skippy.tracking.orphans import SCRATCH
from skippy.tracking.outbox import FOLDER
from skippy.tracking.tracker import Tracker

DONE_SUFFIX = ".done"


def workspace(tracker: Tracker, *parts: str) -> Path:
    """The directory for unfinished work that `parts` (stage, digests, settings) identify; made if need be."""
    name = "-".join(re.sub(r"[^A-Za-z0-9.]+", "_", part) for part in parts)
    folder = tracker.store.root / ".skippy" / name
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def discard_workspace(folder: Path) -> None:
    """Give up a workspace whose run is FINISHED, unless another process works there by now."""
    with suppress(Timeout), FileLock(_lock_path(folder), timeout=0):
        # Renamed first: a kill while it is removed leaves nothing that looks like unfinished work.
        done = folder.with_name(folder.name + DONE_SUFFIX)
        shutil.rmtree(done, ignore_errors=True)
        folder.replace(done)
        shutil.rmtree(done)


def idle_workspaces(store: Store) -> Iterator[Path]:
    """Directories of unfinished work in which no process is at work now."""
    for folder in sorted(store.unfinished.glob("*/")):
        if folder.name in (SCRATCH, FOLDER):
            continue
        with suppress(Timeout), FileLock(_lock_path(folder), timeout=0):
            yield folder


def is_done(folder: Path) -> bool:
    """Whether a workspace was given up by a run that FINISHED, and only its removal was cut short."""
    return folder.name.endswith(DONE_SUFFIX)


def stage_of(folder: Path) -> str:
    """The stage whose work a workspace holds: the first part of its name."""
    return folder.name.partition("-")[0]


def remove_workspace(folder: Path) -> None:
    """Remove a workspace for good, with its lock, unless a process works there by now."""
    with suppress(Timeout), FileLock(_lock_path(folder), timeout=0):
        shutil.rmtree(folder, ignore_errors=True)
        _lock_path(folder).unlink(missing_ok=True)


def _lock_path(folder: Path) -> Path:
    return folder.with_name(folder.name + ".lock")


@contextmanager
def claim_workspace(tracker: Tracker, *parts: str) -> Iterator[Path]:
    """The same directory for one process at a time: a restarted stage goes on there, a second one is refused.

    Raises:
        TrackingError: another live process works on the same thing.
    """
    folder = workspace(tracker, *parts)
    lock = FileLock(_lock_path(folder), timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        raise TrackingError(
            "Another process is doing exactly this work.",
            where=folder.name,
            expected="one process at a time",
            found="its lock is held",
            next_step="wait for it, or stop it; its finished part is kept",
        ) from error
    try:
        yield folder
    finally:
        lock.release()

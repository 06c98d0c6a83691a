"""Directories for unfinished work, one process at a time."""

from __future__ import annotations

import fcntl
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from skippy.errors import TrackingError
from skippy.tracking.tracker import Tracker


def workspace(tracker: Tracker, *parts: str) -> Path:
    """The directory for unfinished work that `parts` (stage, digests, settings) identify; made if need be."""
    name = "-".join(re.sub(r"[^A-Za-z0-9.]+", "_", part) for part in parts)
    folder = tracker.store.root / ".skippy" / name
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@contextmanager
def claim_workspace(tracker: Tracker, *parts: str) -> Iterator[Path]:
    """The same directory for one process at a time: a restarted stage goes on there, a second one is refused.

    Raises:
        TrackingError: another live process works on the same thing.
    """
    folder = workspace(tracker, *parts)
    with open(folder.with_name(folder.name + ".lock"), "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise TrackingError(
                "Another process is doing exactly this work.",
                where=folder.name,
                expected="one process at a time",
                found="its lock is held",
                next_step="wait for it, or stop it; its finished part is kept",
            ) from error
        yield folder

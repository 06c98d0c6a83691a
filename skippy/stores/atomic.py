"""Bytes land whole or not at all: written beside their destination, synced, then renamed onto it."""

from __future__ import annotations

import fcntl
import glob
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from skippy.errors import CheckpointError

PARTIAL_SUFFIX = ".partial"
FRESH_SECONDS = 60.0  # a directory this young may belong to a process that has not locked it yet


def write_bytes(path: Path, content: bytes) -> None:
    """Put `content` at `path` atomically, replacing what was there."""
    handle, partial = tempfile.mkstemp(prefix=f".{path.name}.", suffix=PARTIAL_SUFFIX, dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(partial, 0o644)
        os.replace(partial, path)
    except BaseException:
        Path(partial).unlink(missing_ok=True)
        raise


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Put `content` at `path` as sorted, indented JSON, atomically; NaN and infinity are refused."""
    text = json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False)
    write_bytes(path, (text + "\n").encode())


@contextmanager
def new_directory(destination: Path, *, needed_bytes: int = 0) -> Iterator[Path]:
    """Yield a temporary directory that becomes `destination` when the block ends without an error.

    Args:
        destination: must not exist, or be an empty directory; its parents are created.
        needed_bytes: refused at once when the disk has less free space.

    Raises:
        CheckpointError: the destination is taken, or the disk too full.
    """
    if destination.exists() and (not destination.is_dir() or any(destination.iterdir())):
        raise CheckpointError(
            "The destination is already taken; nothing was written.",
            where=str(destination),
            expected="a path that does not exist, or an empty directory",
            found="a file" if destination.is_file() else "a directory with files in it",
            next_step="choose another destination, or remove this one",
        )
    destination.parent.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(destination.parent).free
    if free < needed_bytes:
        raise CheckpointError(
            "There is not enough room on the disk; nothing was written.",
            where=str(destination.parent),
            expected=f"{needed_bytes / 1e9:.2f} GB free",
            found=f"{free / 1e9:.2f} GB free",
            next_step="free some space, or choose a destination on another disk",
        )
    _remove_abandoned(destination)
    partial = Path(
        tempfile.mkdtemp(prefix=f".{destination.name}.", suffix=PARTIAL_SUFFIX, dir=destination.parent)
    )
    lock = os.open(partial, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # tells others that somebody is still at it
        yield partial
        partial.chmod(0o755)
        os.replace(partial, destination)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    finally:
        os.close(lock)


def _remove_abandoned(destination: Path) -> None:
    """Remove what killed processes left of earlier attempts: nobody holds its lock any more."""
    for leftover in destination.parent.glob(f".{glob.escape(destination.name)}.*{PARTIAL_SUFFIX}"):
        if not leftover.is_dir() or time.time() - leftover.stat().st_mtime < FRESH_SECONDS:
            continue
        lock = os.open(leftover, os.O_RDONLY)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(leftover, ignore_errors=True)
        except OSError:
            continue
        finally:
            os.close(lock)

"""A large base is hashed once, and again as soon as a file of it is another one."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from skippy.resolve import bases, known_digests
from skippy.resolve.bases import open_base
from skippy.stores.checkpoints import Checkpoint
from tests.stages.tiny_checkpoint import write_checkpoint


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Checkpoints that were hashed; each counts as large, and as settled the moment it is written."""
    seen: list[Path] = []
    digest = Checkpoint.digest
    monkeypatch.setattr(bases, "LARGE_BYTES", 0)
    monkeypatch.setattr(known_digests, "SETTLED_SECONDS", -60.0)
    monkeypatch.setattr(Checkpoint, "digest", lambda self: seen.append(self.path) or digest(self))
    return seen


def test_what_did_not_change_is_not_hashed_again(tracker, tmp_path, hashed) -> None:
    folder = write_checkpoint(tmp_path / "base")
    first = open_base(str(folder), tracker).digest
    assert open_base(str(folder), tracker).digest == first == Checkpoint.open(folder).digest()
    assert hashed.count(folder) == 2, "once here, once by the base"


def test_a_byte_that_changed_is_seen_although_size_and_time_are_those_of_before(
    tracker, tmp_path, hashed
) -> None:
    folder = write_checkpoint(tmp_path / "base")
    first = open_base(str(folder), tracker).digest
    file = folder / "model.safetensors"
    before, content = file.stat(), bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(bytes(content))
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    second = open_base(str(folder), tracker).digest
    assert second != first
    assert hashed.count(folder) == 2


def test_a_file_that_was_written_a_moment_ago_is_not_remembered(
    tracker, tmp_path, hashed, monkeypatch
) -> None:
    """Within one tick of its clock a disk could take another file for the same."""
    monkeypatch.setattr(known_digests, "SETTLED_SECONDS", 60.0)
    folder = write_checkpoint(tmp_path / "base")
    digests = {open_base(str(folder), tracker).digest for _ in range(2)}
    assert len(digests) == 1
    assert hashed.count(folder) == 2


def test_what_cannot_be_read_is_as_good_as_nothing(tracker, tmp_path, hashed) -> None:
    folder = write_checkpoint(tmp_path / "base")
    tracker.store.unfinished.mkdir(exist_ok=True)
    (tracker.store.unfinished / known_digests.FILE).write_text("{")
    assert open_base(str(folder), tracker).digest == Checkpoint.open(folder).digest()

"""Files and directories appear whole; what a kill leaves behind is cleared by the next attempt, not before."""

import os
import signal
import subprocess
import sys
import time

import pytest

from skippy.errors import CheckpointError
from skippy.stores import atomic
from skippy.stores.atomic import new_directory, write_bytes, write_json


def test_files_are_replaced_whole(tmp_path, monkeypatch):
    path = tmp_path / "x"
    write_bytes(path, b"first")

    def fail(*_):
        raise OSError("no")

    monkeypatch.setattr(atomic.os, "fsync", fail)
    with pytest.raises(OSError, match="no"):
        write_bytes(path, b"second")
    assert path.read_bytes() == b"first"
    assert list(tmp_path.iterdir()) == [path]


def test_others_may_read_what_lands(tmp_path):
    with new_directory(tmp_path / "d") as partial:
        write_bytes(partial / "f", b"")
    assert [(tmp_path / name).stat().st_mode & 0o777 for name in ("d", "d/f")] == [0o755, 0o644]


def test_json_is_sorted_and_finite(tmp_path):
    write_json(tmp_path / "x", {"b": 1, "a": "é"})
    assert (tmp_path / "x").read_text() == '{\n  "a": "é",\n  "b": 1\n}\n'
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "x", {"a": float("nan")})


def test_directory_appears_at_the_end(tmp_path):
    with new_directory(tmp_path / "deep" / "d") as partial:
        (partial / "f").write_text("")
        assert not (tmp_path / "deep" / "d").exists()
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["d"]
    assert (tmp_path / "deep" / "d" / "f").exists()


def test_empty_directory_is_a_destination_and_a_file_is_not(tmp_path):
    (tmp_path / "d").mkdir()
    with new_directory(tmp_path / "d") as partial:
        (partial / "f").write_text("")
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="already taken"), new_directory(tmp_path / "file"):
        pass


@pytest.mark.parametrize(("fresh_seconds", "is_left"), [(atomic.FRESH_SECONDS, True), (0.0, False)])
def test_a_young_directory_may_not_be_locked_yet_and_is_left_alone(
    tmp_path, monkeypatch, fresh_seconds, is_left
):
    monkeypatch.setattr(atomic, "FRESH_SECONDS", fresh_seconds)
    leftover = tmp_path / ".d[1].x.partial"
    leftover.mkdir()
    with new_directory(tmp_path / "d[1]"):
        assert leftover.exists() is is_left


PROGRAM = """
import os, sys
from pathlib import Path
from skippy.stores.atomic import new_directory
with new_directory(Path(sys.argv[1])) as partial:
    (partial / "half").write_text("")
    print("ready", flush=True)
    sys.stdin.read()
"""


def test_leftovers_of_the_killed_are_removed_and_those_of_the_living_are_not(tmp_path, monkeypatch):
    monkeypatch.setattr(atomic, "FRESH_SECONDS", 0.0)
    started = []
    for _ in range(2):
        process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(tmp_path / "d")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert process.stdout.readline() == b"ready\n"
        started.append(process)
    killed, living = started
    os.kill(killed.pid, signal.SIGKILL)
    killed.wait()
    assert len(list(tmp_path.glob(".d.*.partial"))) == 2
    time.sleep(0.01)
    with new_directory(tmp_path / "d"):
        assert len(list(tmp_path.glob(".d.*.partial"))) == 2  # the living one and ours
    living.stdin.close()
    living.wait()
    killed.stdin.close()

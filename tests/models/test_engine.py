"""A server of our own: waited for, stopped whatever happens, and its last words told."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import psutil
import pytest

from skippy.errors import BackendError
from skippy.models import engine as engines
from skippy.models.engine import Engine

FAKE = Path(__file__).parent / "fake_vllm" / "vllm" / "entrypoints" / "cli" / "main.py"


def command(port: int) -> list[str]:
    return [sys.executable, str(FAKE), "serve", "--port", str(port), "--served-model-name", "base"]


def start(tmp_path: Path, **plan) -> Engine:
    (tmp_path / "plan.json").write_text(json.dumps(plan))
    environment = os.environ | {"FAKE_VLLM": str(tmp_path / "plan.json")}
    return Engine.start(command, name="vLLM", log=tmp_path / "vllm.log", environment=environment)


def is_gone(pid: int, within: float = 5.0) -> bool:
    ends = time.monotonic() + within
    while time.monotonic() < ends:
        if not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
            return True
        time.sleep(0.05)
    return False


def test_it_answers_and_is_gone_after_the_block(tmp_path):
    with start(tmp_path, seconds=0.3) as engine:
        engine.wait_healthy()
        assert engine.is_running
        with urllib.request.urlopen(f"{engine.url}/models") as answer:
            assert json.load(answer)["data"][0]["id"] == "base"
    assert not engine.is_running
    assert "loading weights" in engine.tail(), "the log is kept"
    with pytest.raises(OSError, match="refused"):
        urllib.request.urlopen(f"{engine.url}/models")
    engine.stop()  # twice is once


def test_the_workers_of_a_server_that_will_not_stop_go_too(tmp_path, monkeypatch):
    monkeypatch.setattr(engines, "GRACE_SECONDS", 0.3)
    engine = start(tmp_path, stubborn=True)
    engine.wait_healthy()
    worker = int(re.search(r"worker (\d+)", engine.tail()).group(1))
    assert psutil.pid_exists(worker)
    engine.stop()
    assert is_gone(worker)


def test_a_killed_parent_leaves_no_server(tmp_path):
    """The parent has no time to do anything: the guardian sees that it is gone."""
    source = (
        "import os, sys, time\nfrom pathlib import Path\nfrom skippy.models.engine import Engine\n"
        f"engine = Engine.start(lambda port: [sys.executable, {str(FAKE)!r}, 'serve', '--port', str(port)], "
        f"name='vLLM', log=Path({str(tmp_path)!r}) / 'vllm.log')\n"
        "engine.wait_healthy()\nprint(engine.port, flush=True)\ntime.sleep(60)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", source], stdout=subprocess.PIPE, text=True)
    port = int(parent.stdout.readline())
    server = next(
        p for p in psutil.Process(parent.pid).children(recursive=True) if "serve" in p.cmdline()[-4:]
    )
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    assert is_gone(server.pid)
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(("127.0.0.1", port))


@pytest.mark.parametrize(
    ("text", "what", "found"),
    [
        ("ValueError: Free memory on device cuda:0 (3.10/139.81 GiB) on startup is less than desired GPU memory "
         "utilization (0.9, 125.8 GiB).", "out of GPU memory", "3.10/139.81 GiB"),
        ("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.", "out of GPU memory", "2.00 GiB"),
        ("AssertionError: Error in memory profiling. Initial free memory 104.49 GiB, current free memory 106.04 GiB.",
         "gave GPU memory back", "106.04 GiB"),
        ("OSError: [Errno 98] Address already in use", "port of the server is taken", "Errno 98"),
        ("KeyError: 'no such layer'", "died before it could answer", "no such layer"),
    ],
)  # fmt: skip
def test_a_death_is_told_by_its_cause(tmp_path, text, what, found):
    engine = start(tmp_path, dies=text)
    with pytest.raises(BackendError, match=what) as refusal:
        engine.wait_healthy()
    assert found in refusal.value.found
    assert str(tmp_path / "vllm.log") in refusal.value.where
    assert refusal.value.next_step
    assert not engine.is_running


def test_one_that_never_gets_ready_is_stopped(tmp_path):
    engine = start(tmp_path, seconds=60, says="INFO recording graphs")
    with pytest.raises(BackendError, match=r"was not ready within 0\.5 s") as refusal:
        engine.wait_healthy(0.5)
    assert "recording graphs" in refusal.value.found
    assert not engine.is_running


def test_the_last_start_alone_is_blamed(tmp_path):
    with pytest.raises(BackendError, match="GPU memory"):
        start(tmp_path, dies="CUDA out of memory.").wait_healthy()
    with pytest.raises(BackendError, match="died before") as refusal:
        start(tmp_path, dies="KeyError: 'other'").wait_healthy()
    assert "KeyError" in refusal.value.found


def test_what_it_does_is_told_while_one_waits(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(engines, "SPEAK_SECONDS", 0.1)
    with (
        caplog.at_level("INFO", "skippy"),
        start(tmp_path, seconds=0.8, says="INFO loading 3 of 7") as engine,
    ):
        engine.wait_healthy()
    assert "loading 3 of 7" in caplog.text

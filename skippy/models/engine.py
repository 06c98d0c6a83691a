"""A server process of our own on loopback: started, waited for, stopped whatever happens, its log kept.

    engine = Engine.start(lambda port: ["vllm", "serve", …, "--port", str(port)], name="vLLM", log=folder / "vllm.log")
    try:
        engine.wait_healthy()
        … engine.url …
    finally:
        engine.stop()

Which command that is, the caller knows. Between this process and the server stands `guardian`: it ends the server and
all that it started also when this process is killed.
"""

from __future__ import annotations

import logging
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from skippy.errors import BackendError
from skippy.models import guardian

logger = logging.getLogger(__name__)

LOOPBACK = "127.0.0.1"
HEALTH_SECONDS = 1800.0  # loading 235 GB from a slow disk, and recording graphs
POLL_SECONDS = 0.2
SPEAK_SECONDS = 15.0
GRACE_SECONDS = 10.0
TAIL_BYTES = 16_384
SHOWN_LINES = 12


@dataclass(frozen=True)
class Fault:
    """A cause of death that a log names: what to look for, and what to say; groups of the pattern fill `found`."""

    pattern: re.Pattern[str]
    what: str
    expected: str
    next_step: str


FAULTS = (
    Fault(
        re.compile(r"Error in memory profiling\.[^\n]*?current free memory [\d.]+ GiB"),
        "Another process gave GPU memory back while the server measured how much there is.",
        "a GPU whose other users stand still until the server answers",
        "start it again when they have ended; or pass -P engine_options='--kv-cache-memory-bytes 8G', which measures "
        "nothing",
    ),
    Fault(
        re.compile(r"[Aa]ddress already in use|Errno 98"),
        "The port of the server is taken.",
        "a port that nobody listens on",
        "choose another port, or stop what listens there",
    ),
    Fault(
        re.compile(
            r"Free memory on device \S+ \([^)]*\) on startup is less than desired[^.]*|"
            r"CUDA out of memory\.[^\n]*|[Oo]ut[Oo]fMemoryError[^\n]*|No available memory for the cache blocks[^\n]*|"
            r"KV cache is needed, which is larger than[^\n]*|"
            r"larger than the maximum number of tokens that can be stored in KV cache[^\n]*"
        ),
        "The server ran out of GPU memory.",
        "room for the weights and the keys and values of at least one answer",
        "stop what else uses this GPU, ask for shorter answers, or spread the weights over more GPUs (gpus=2)",
    ),
)
"""What the last lines of a server's log can say, most telling first."""


class Engine:
    """A running server; made by `start`. It listens on loopback alone, and `log` has all it said."""

    def __init__(self, name: str, port: int, log: Path, process: subprocess.Popen[bytes]) -> None:
        self.name = name
        self.port = port
        self.log = log
        self._process = process

    @classmethod
    def start(
        cls,
        command: Callable[[int], Sequence[str]],
        *,
        name: str,
        log: Path,
        environment: Mapping[str, str] | None = None,
    ) -> Engine:
        """Start a server and return at once.

        Args:
            log: where all it says goes; kept, appended to.
        """
        port = free_port()
        line = [str(word) for word in command(port)]
        log.parent.mkdir(parents=True, exist_ok=True)
        guarded = [sys.executable, "-I", guardian.__file__, str(os.getpid()), str(GRACE_SECONDS), *line]
        with log.open("ab") as sink:
            sink.write(f"$ {' '.join(line)}\n".encode())
            sink.flush()
            process = subprocess.Popen(
                guarded,
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=subprocess.STDOUT,
                env=None if environment is None else dict(environment),
                start_new_session=True,  # a group of its own: Ctrl-C is ours to pass on
            )
        logger.info("%s starts on port %d; it says all it does in %s", name, port, log)
        return cls(name, port, log, process)

    @property
    def url(self) -> str:
        """The endpoint, up to and including `/v1`."""
        return f"http://{LOOPBACK}:{self.port}/v1"

    @property
    def is_running(self) -> bool:
        """Whether the process is alive, healthy or not."""
        return self._process.poll() is None

    def is_healthy(self) -> bool:
        """Whether it lives and says that it can answer."""
        try:
            with urllib.request.urlopen(self._health, timeout=5) as answer:
                return bool(answer.status == 200) and self.is_running
        except (OSError, ValueError):
            return False

    def wait_healthy(self, seconds: float = HEALTH_SECONDS) -> None:
        """Wait until the server answers, telling now and then what it does.

        Raises:
            BackendError: it died, or is not healthy in time; it is stopped then, and the end of its log shown.
        """
        started = spoke = time.monotonic()
        while not self.is_healthy():
            now = time.monotonic()
            if not self.is_running:
                self.stop()
                raise self.fault("died before it could answer")
            if now - started > seconds:
                self.stop()
                raise self.fault(f"was not ready within {seconds:g} s")
            if now - spoke > SPEAK_SECONDS:
                spoke = now
                logger.info("%s: %.0f s, %s", self.name, now - started, self._last_line())
            time.sleep(POLL_SECONDS)
        logger.info("%s answers at %s after %.0f s", self.name, self.url, time.monotonic() - started)

    def stop(self) -> None:
        """End the server and everything it started; once it is stopped, this does nothing."""
        if self._process.poll() is None:
            self._process.terminate()  # the guardian, which passes it on and then ends the group
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(GRACE_SECONDS + 5)
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def __enter__(self) -> Engine:
        """The engine itself; leaving the block stops it."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop it."""
        self.stop()

    def tail(self, lines: int = SHOWN_LINES) -> str:
        """The last lines of its log."""
        return "\n".join(self._end_of_log().splitlines()[-lines:])

    def has_said(self, words: str) -> bool:
        """Whether its log has these words, since this start."""
        try:
            return words in self.log.read_text(encoding="utf-8", errors="replace").rpartition("\n$ ")[2]
        except OSError:
            return False

    def fault(self, how: str) -> BackendError:
        """What to raise when the server failed: the cause its log names, where it names one."""
        text = self._end_of_log()
        for known in FAULTS:
            if match := known.pattern.search(text):
                return BackendError(
                    known.what,
                    where=f"{self.name} on port {self.port}, log {self.log}",
                    expected=known.expected,
                    found=" ".join(match.group(0).split())[:300],
                    next_step=known.next_step,
                )
        return BackendError(
            f"{self.name} {how}.",
            where=f"port {self.port}, log {self.log}",
            expected=f"HTTP 200 at {self._health}",
            found=f"the end of its log:\n{self.tail()}",
            next_step="read its log; then run the same command again",
        )

    @property
    def _health(self) -> str:
        return f"http://{LOOPBACK}:{self.port}/health"

    def _end_of_log(self) -> str:
        """What it said last, of this start alone."""
        try:
            with self.log.open("rb") as file:
                file.seek(max(0, file.seek(0, os.SEEK_END) - TAIL_BYTES))
                text = file.read().decode(errors="replace")
        except OSError:
            return ""
        return text.rpartition("\n$ ")[2] if "\n$ " in text else text

    def _last_line(self) -> str:
        said = [line.strip() for line in self.tail(3).splitlines() if line.strip()]
        return said[-1][:160] if said else "nothing said yet"


def free_port() -> int:
    """A port on loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return int(probe.getsockname()[1])

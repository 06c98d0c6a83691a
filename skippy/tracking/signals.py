"""What ends a stage from outside: signals, and the death of whoever started it."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import psutil

logger = logging.getLogger(__name__)

PARENT_VARIABLE = "SKIPPY_PARENT_PROCESS"
"""The process that started this stage as its child, as `process_tag` writes it."""
RUN_ID_VARIABLE = "MLFLOW_RUN_ID"
WATCH_SECONDS = 1.0
ORPHAN_GRACE_SECONDS = 10.0
"""How long an orphan may take to end its run before it is ended itself."""
PATIENCE_OF_A_PERSON = 3
"""Ctrl-C so many times: the stage is abandoned where it stands, its run is marked by the next one."""
SHELLS = frozenset({"sh", "bash", "dash", "zsh", "ksh", "fish", "ash"})
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
HEARD = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)

# Called when this process is asked to stop, before it unwinds; must not block.
stop_hooks: list[Callable[[], None]] = []
_watching = threading.Event()


class Terminated(SystemExit):
    """SIGTERM or SIGHUP, as an exception, so that a stage unwinds; exit code 128 + its number."""

    def __init__(self, number: int = signal.SIGTERM) -> None:
        self.name = signal.Signals(number).name
        super().__init__(128 + number)


@dataclass
class Signals:
    """What was heard so far, and whether the run is being ended, so that more comes too late."""

    is_ending: bool = False
    heard: int = 0


@contextmanager
def terminating() -> Iterator[Signals]:
    """SIGTERM and SIGHUP raise `Terminated`, Ctrl-C KeyboardInterrupt, once; children are asked to stop first.

    A stage that waits for its children in threads would otherwise wait for them to finish their work. A second
    signal does not interrupt the unwinding: the run's status would be lost. Only the main thread may set handlers.
    """
    signals = Signals()
    if threading.current_thread() is not threading.main_thread():
        yield signals
        return

    def stop(number: int, frame: FrameType | None) -> None:
        signals.heard += 1
        for hook in stop_hooks:
            hook()
        if signals.heard >= PATIENCE_OF_A_PERSON and number == signal.SIGINT:
            os._exit(128 + number)
        if signals.is_ending:
            if number == signal.SIGINT:
                logger.warning("the run is being ended; press Ctrl-C once more to leave it as it stands")
            return
        signals.is_ending = True
        raise KeyboardInterrupt if number == signal.SIGINT else Terminated(number)

    # What is ignored on purpose (nohup, a background job) stays ignored.
    heard = [number for number in HEARD if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, stop) for number in heard}
    try:
        yield signals
    finally:
        for number, handler in before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)


def process_tag(pid: int | None = None) -> str:
    """`host:pid:started`: a process, told from a later one that got the same number."""
    pid = os.getpid() if pid is None else pid
    started = ""
    with suppress(psutil.Error):
        started = f":{_start_of(pid)}"
    return f"{os.uname().nodename}:{pid}{started}"


def _start_of(pid: int) -> str:
    """When a process began: in ticks of one boot, which no correction of the clock moves; elsewhere by the clock."""
    try:
        ticks = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
        return f"{BOOT_ID.read_text()[:8]}-{ticks}"
    except (OSError, IndexError):
        return f"{psutil.Process(pid).create_time():.2f}"


def is_process_gone(tag: str) -> bool:
    """Whether a tag names a process of this machine that is no more; False where that is unknowable.

    Tags of earlier versions hold the time by the clock, or none: there a process of the same number counts as the
    same one.
    """
    host, _, rest = tag.partition(":")
    pid, _, started = rest.partition(":")
    if host != os.uname().nodename or not pid.isdigit():
        return False
    try:
        process = psutil.Process(int(pid))
        if process.status() == psutil.STATUS_ZOMBIE:
            return True
        if "-" in started:
            return _start_of(int(pid)) != started
        return bool(started) and abs(process.create_time() - float(started)) > 1.0
    except psutil.NoSuchProcess:
        return True
    except psutil.Error:
        return False


def is_child() -> bool:
    """Whether another stage started this process, and goes on when it ends."""
    return bool(os.environ.get(PARENT_VARIABLE))


def watch_parents() -> None:
    """Watch from the first moment, where something started this process that watches over it in turn."""
    if os.environ.get(RUN_ID_VARIABLE) or is_child():
        stop_when_orphaned()


def stop_when_orphaned() -> None:
    """End this process when what started it dies: `mlflow run`, and the stage that this one is a child of.

    A killed `mlflow run` leaves its child alive, and a killed `main` leaves a whole tree; whichever link of the
    chain breaks, the stage sees it. Called again, it does nothing.
    """
    if _watching.is_set():
        return
    _watching.set()
    parents = _starters()

    def watch() -> None:
        while not any(is_process_gone(tag) for tag in parents):
            time.sleep(WATCH_SECONDS)
        logger.warning("the process that started this stage is gone: stopping")
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(ORPHAN_GRACE_SECONDS)
        os._exit(128 + signal.SIGTERM)  # stuck in a library: the next stage marks the run

    threading.Thread(target=watch, name="skippy-orphan-watch", daemon=True).start()


def _starters() -> list[str]:
    """Tags of the nearest ancestor that is no shell, of the shells before it, and of the stage that started us."""
    handed_down = os.environ.get(PARENT_VARIABLE, "")
    found = [handed_down] if handed_down else []
    with suppress(psutil.Error):
        for process in psutil.Process().parents():
            if process.pid <= 1:
                break
            found.append(process_tag(process.pid))
            if process.name() not in SHELLS:
                break
    return found

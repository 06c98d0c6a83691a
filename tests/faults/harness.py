"""A process that is killed at its n-th call to the store or the disk, and what must hold after the next one.

Everything is imported once; each victim is a fork with a store of its own, killed by SIGKILL as `kill -9` does: no
handler, no `finally`, no `atexit`.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from pathlib import Path

import torch
from mlflow import MlflowClient

WRITING = ("log_", "set_", "create_", "delete_", "update_", "finalize_")
Work = Callable[[Path], None]


def run_forked(work: Work, folder: Path, *, before: Callable[[], None] = lambda: None) -> int:
    """Run `work` in a fork; its exit code, negative where a signal ended it."""
    child = os.fork()
    if child == 0:
        try:
            os.chdir(folder)
            # Torch makes its thread pool anew in a fork: once, here, before several threads ask for it at once.
            torch.set_num_threads(1)
            os.environ["MLFLOW_TRACKING_URI"] = ""
            before()
            work(folder)
            os._exit(0)
        except BaseException:
            (folder / "traceback").write_text(traceback.format_exc())
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def warm(work: Work, folder: Path) -> int:
    """Run `work` once in a fork and import here what it imported there, so that no later fork has to; its exit code."""
    listed = folder / "modules"

    def tell(at: Path) -> None:
        before = set(sys.modules)
        work(at)
        listed.write_text("\n".join(name for name in sys.modules if name not in before))

    ended = run_forked(tell, folder)
    for name in listed.read_text().split() if listed.exists() else ():
        with suppress(Exception):  # generated ones, and those that only import as part of another
            import_module(name)
    listed.unlink(missing_ok=True)
    return ended


def arm(kill_at: int, *, after: bool, log: Path | None = None) -> Callable[[], None]:
    """Make the n-th write end this process, before it happens or after; 0 only counts into `log`."""

    def install() -> None:
        calls = 0

        def counted(name: str, write: Callable) -> Callable:
            def call(*given, **named):
                nonlocal calls
                calls += 1
                is_last = calls == kill_at
                if log is not None:
                    with log.open("a") as file:
                        file.write(name + "\n")
                if is_last and not after:
                    os.kill(os.getpid(), signal.SIGKILL)
                answer = write(*given, **named)
                if is_last:
                    os.kill(os.getpid(), signal.SIGKILL)
                return answer

            return call

        for name in dir(MlflowClient):
            if name.startswith(WRITING):
                setattr(MlflowClient, name, counted(name, getattr(MlflowClient, name)))
        os.replace, os.fsync = counted("replace", os.replace), counted("fsync", os.fsync)

    return install


def kill_within(seconds: float, seed: int) -> Callable[[], None]:
    """End this process at a random moment of the first so many seconds."""

    def install() -> None:
        delay = random.Random(seed).uniform(0, seconds)
        watcher = os.fork()
        if watcher == 0:
            victim = os.getppid()
            time.sleep(delay)
            if os.getppid() == victim:
                os.kill(victim, signal.SIGKILL)
            os._exit(0)

    return install

"""Runs one command and ends all of it when its parent ends: `python -I guardian.py PARENT_PID GRACE COMMAND…`.

A server outlives a killed parent, and keeps the GPU. This small process between the two looks whether the parent is
still its own; gone, or asked to stop, it ends the command's whole process group. Only the standard library: it starts
in hundredths of a second.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from types import FrameType

LOOK_SECONDS = 0.25


def guard(parent: int, grace_seconds: float, command: list[str]) -> int:
    """Run `command` in this process's group until it ends, the parent is gone, or SIGTERM comes.

    Returns:
        Its exit code; 128 + SIGTERM where it had to be ended.
    """
    is_asked = False

    def ask(number: int, frame: FrameType | None) -> None:
        nonlocal is_asked
        is_asked = True

    signal.signal(signal.SIGTERM, ask)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of the terminal: what started us decides
    child = subprocess.Popen(command)
    while child.poll() is None:
        if is_asked or os.getppid() != parent:
            break
        time.sleep(LOOK_SECONDS)
    code = child.poll()
    if code is None:
        child.terminate()
        with suppress(subprocess.TimeoutExpired):
            child.wait(grace_seconds)
        code = 128 + signal.SIGTERM
    return code


if __name__ == "__main__":
    ended = guard(int(sys.argv[1]), float(sys.argv[2]), sys.argv[3:])
    sys.stdout.write(f"ended with code {ended}\n")
    sys.stdout.flush()
    if os.getpgrp() == os.getpid():  # never the group of whoever started us by hand
        os.killpg(0, signal.SIGKILL)  # engines and workers that the command left behind, and this process
    sys.exit(ended % 256)

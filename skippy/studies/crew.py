"""The worker processes of one machine: as many as it carries, replaced when they die, gone when the study is."""

from __future__ import annotations

import os
import subprocess
import sys

import torch

from skippy.errors import StudyError
from skippy.studies.worker import Bench
from skippy.tracking.signals import PARENT_VARIABLE, process_tag, stop_hooks

CELLS_PER_GPU = 4
MEMORY = {
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
    "MALLOC_MMAP_THRESHOLD_": str(2 << 30),
    "MALLOC_TRIM_THRESHOLD_": str(4 << 30),
    "MALLOC_TOP_PAD_": str(64 << 20),
}
"""How a worker's C library keeps memory: in huge pages, and for the next step instead of giving it back after each.
A cell on a CPU takes a sixth less processor time; where the library is another one, nothing reads this."""
RESPAWNS_PER_WORKER = 3


class Crew:
    """The worker processes of this machine; none outlives the stage."""

    def __init__(self, plan: str, bench: Bench, size: int) -> None:
        self.size = size
        self._plan, self._bench = plan, bench
        self._processes: dict[int, subprocess.Popen[bytes]] = {}
        self._spawned = 0

    def __enter__(self) -> Crew:
        """Stop them when this process is asked to stop."""
        stop_hooks.append(self.stop)
        return self

    def __exit__(self, *_: object) -> None:
        """Stop those that are still there, and wait for them."""
        stop_hooks.remove(self.stop)
        self.stop()
        for process in self._processes.values():
            process.wait()

    def keep_busy(self) -> None:
        """Start the workers that are not running; one that ended while cells are free died and is replaced.

        Raises:
            StudyError: they die again and again.
        """
        for rank in range(self.size):
            process = self._processes.get(rank)
            if process is not None and process.poll() is None:
                continue
            if self._spawned >= self.size * (1 + RESPAWNS_PER_WORKER):
                raise StudyError(
                    "The workers of the study end before its cells are done.",
                    where=f"{self._spawned} processes started",
                    found=f"exit code {process.returncode if process else 'unknown'}",
                    next_step="read their output above; run the stage alone with -P parallel=1",
                )
            self._spawned += 1
            self._processes[rank] = self._start(rank)

    def finish(self) -> None:
        """Wait until each has ended by itself, which they do when no cell is free."""
        for process in self._processes.values():
            process.wait()

    def stop(self) -> None:
        """Ask all to end; their runs become KILLED and their cells free."""
        for process in self._processes.values():
            if process.poll() is None:
                process.terminate()

    def _start(self, rank: int) -> subprocess.Popen[bytes]:
        bench = self._bench
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
        environment = {**MEMORY, **environment}
        environment[PARENT_VARIABLE] = process_tag()
        gpus = torch.cuda.device_count() if bench.device != "cpu" else 0
        if gpus:
            environment["CUDA_VISIBLE_DEVICES"] = str(rank % gpus)
        arguments = [self._plan, bench.parent, str(rank), bench.device, str(bench.retry_before)]
        command = [sys.executable, "-m", "skippy.studies.worker", *arguments]
        return subprocess.Popen(command, env=environment, cwd=os.getcwd())


def worker_count(device: str) -> int:
    """As many as cores, or a few for each GPU."""
    if device != "cpu" and torch.cuda.is_available():
        return CELLS_PER_GPU * torch.cuda.device_count()
    return len(os.sched_getaffinity(0))

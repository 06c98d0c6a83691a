"""How many threads torch may use here, set before torch is imported."""

from __future__ import annotations

import logging
import os
from typing import Any

from skippy.lab.paths import LAB

logger = logging.getLogger(__name__)

THREADS_VARIABLE = "OMP_NUM_THREADS"
LAB_SHARES = 2
"""The lab's matrices are so small that more threads than this share of the cores wait for one another."""


def count_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def share_of_cores(shares: int) -> int:
    """Threads of one of so many processes side by side."""
    return max(1, count_cores() // shares)


def choose_threads(stage: str, config: Any) -> None:
    """Set `OMP_NUM_THREADS` for this process and its children: the parameter, the environment, else a share.

    Says once what it chose by itself; a stage that does not compute, and `main`, which shares the cores out among
    its children, are left alone.
    """
    wanted = getattr(config, "threads", None)
    if wanted:
        os.environ[THREADS_VARIABLE] = str(wanted)
    elif wanted is not None and stage != "main" and not os.environ.get(THREADS_VARIABLE):
        chosen = share_of_cores(LAB_SHARES if config.base_model == LAB else 1)
        os.environ[THREADS_VARIABLE] = str(chosen)
        logger.info(
            "%s: %d threads on %d cores; threads=N or %s changes it",
            stage,
            chosen,
            count_cores(),
            THREADS_VARIABLE,
        )

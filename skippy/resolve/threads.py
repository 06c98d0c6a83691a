"""How many threads torch may use here, set before torch is imported."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

from skippy.lab.paths import LAB, LAB_CHECKPOINT

logger = logging.getLogger(__name__)

THREADS_VARIABLE = "OMP_NUM_THREADS"
SMALL_BYTES = 64 << 20
SMALL_SHARES = 2
"""Matrices of a base this small are so small that more threads than this share of the cores wait for one another."""


def count_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def share_of_cores(shares: int) -> int:
    """Threads of one of so many processes side by side."""
    return max(1, count_cores() // shares)


def is_small(base_model: str) -> bool:
    """Whether the weights of a base are few, as far as that is seen without the store or a hub."""
    folder = LAB_CHECKPOINT if base_model == LAB else Path(base_model).expanduser()
    return 0 < sum(file.stat().st_size for file in folder.glob("*.safetensors")) < SMALL_BYTES


def choose_threads(stage: str, config: Any) -> None:
    """Set `OMP_NUM_THREADS` for this process and its children: the parameter, the environment, else a share.

    Says once what it chose by itself; a stage that does not compute, and `main`, which shares the cores out among
    its children, are left alone.
    """
    wanted = getattr(config, "threads", None)
    if wanted:
        os.environ[THREADS_VARIABLE] = str(wanted)
    elif wanted is not None and stage != "main" and not os.environ.get(THREADS_VARIABLE):
        chosen = share_of_cores(SMALL_SHARES if is_small(config.base_model) else 1)
        os.environ[THREADS_VARIABLE] = str(chosen)
        logger.info(
            "%s computes on %d of %d cores; threads=N or %s changes it",
            stage,
            chosen,
            count_cores(),
            THREADS_VARIABLE,
        )

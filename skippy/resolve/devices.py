"""Where tensors live, and which process of several this is."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from skippy.errors import ConfigError

if TYPE_CHECKING:
    import torch


def process_rank() -> tuple[int, int]:
    """This process's rank and the number of them, as `torchrun` sets them; (0, 1) alone."""
    return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))


def pick_device(name: str) -> torch.device:
    """The device a person asked for.

    Raises:
        ConfigError: cuda was asked for and there is none.
    """
    import torch

    gpu = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
    if name == "auto":
        return torch.device(gpu if torch.cuda.is_available() else "cpu")
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError(
            "There is no GPU here.",
            where="device",
            expected="a CUDA device",
            found="none",
            next_step="pass -P device=cpu, or leave it at auto",
        )
    return torch.device(gpu if name == "cuda" else name)


def require_device(name: str) -> str:
    """`name`, if it can be had; torch is asked only where a GPU is named.

    Raises:
        ConfigError: cuda was asked for and there is none.
    """
    if name == "cuda":
        pick_device(name)
    return name

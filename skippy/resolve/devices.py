"""Where tensors live, and which process of several this is."""

from __future__ import annotations

import os

import torch

from skippy.errors import ConfigError


def process_rank() -> tuple[int, int]:
    """This process's rank and the number of them, as `torchrun` sets them; (0, 1) alone."""
    return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))


def pick_device(name: str) -> torch.device:
    """The device a person asked for.

    Raises:
        ConfigError: cuda was asked for and there is none.
    """
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

"""How many directions a target keeps. No torch: the command line reads this."""

from __future__ import annotations

from dataclasses import dataclass

MAX_K = 128


@dataclass(frozen=True)
class RankRule:
    """How many directions a target keeps: `k` of them, or the fewest that hold `share` of ‖W‖²."""

    k: int = 0
    share: float = 0.0

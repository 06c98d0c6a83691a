"""How many directions a target keeps. No torch: the command line reads this."""

from __future__ import annotations

from dataclasses import dataclass

from skippy.errors import ConfigError

MAX_K = 128


@dataclass(frozen=True)
class RankRule:
    """How many directions a target keeps: `k` of them, or the fewest that hold `share` of ‖W‖²."""

    k: int = 0
    share: float = 0.0


def parse_rank(text: str) -> RankRule:
    """`16` or `energy:0.5`.

    Raises:
        ConfigError: neither.
    """
    kind, _, share = text.partition(":")
    try:
        if kind == "energy" and 0 < float(share) < 1:
            return RankRule(share=float(share))
        if not share and 1 <= int(kind) <= MAX_K:
            return RankRule(k=int(kind))
    except ValueError:
        pass
    raise ConfigError(
        f"Parameter k cannot be {text!r}.",
        where="k",
        expected=f"a whole number from 1 to {MAX_K}, or energy:SHARE with SHARE between 0 and 1",
        found=repr(text),
        next_step="pass k=16",
    )

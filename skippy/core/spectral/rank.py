"""How many directions a target keeps, and which. No torch: the command line reads this."""

from __future__ import annotations

from dataclasses import dataclass

from skippy.errors import ConfigError

MAX_K = 128
TOP, BOTTOM, ACTIVATIONS = "top", "bottom", "activations"
BASES = (TOP, BOTTOM, ACTIVATIONS)
"""What directions are those of: a weight's largest or smallest singular triples, or what it reads of mathematics."""
ONE_SIDED = (ACTIVATIONS,)
"""Bases of inputs alone: they protect no output direction, so their U has no columns."""


def basis_tag(k: str, basis: str) -> str:
    """What tags call the directions of an svd run: `16` for the top ones, as ever, `16 bottom` for others."""
    return k if basis == TOP else f"{k} {basis}"


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


@dataclass(frozen=True)
class SubspaceTask:
    """What is asked of every target."""

    rule: RankRule  # how many directions it keeps
    tolerance: float = 1e-5  # largest residual, relative to σ_1, that is certified
    seed: int = 0  # of the random starts, beside the target's name
    basis: str = TOP  # `top` or `bottom`, the end of the spectrum

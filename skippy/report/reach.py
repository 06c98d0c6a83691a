"""Which arms come to the persona at which they are compared, and what each keeps of the mathematics there.

The persona asked for is that of the treatment as evaluated. An arm whose best persona, over everything of it that was
evaluated, stays below the band of "equal personality" around it is out of reach: it is shown with its best and not
compared, since at another persona a smaller loss is no merit.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from itertools import pairwise
from statistics import fmean

from skippy.core.variants import is_untrained, of_role
from skippy.report.means import POINTS
from skippy.report.pairing import difference_table, find_mismatch
from skippy.results import Arm, Comparison


@dataclass(frozen=True)
class Reach:
    """How far an arm comes."""

    asked: float | None  # the persona asked for; None where no arm was scored
    lowest: float | None  # what still counts as equal to it
    best: float | None  # the highest persona of the arm, mean over seeds; None where it was not scored
    # whether all of its path was evaluated, or it has none; one evaluation is no best
    is_walked: bool = False
    # avg_at_k less the base's at the persona asked for, in points; None where it is not known
    kept: float | None = None
    is_read_off: bool = False  # whether `kept` is interpolated between checkpoints, and not of an evaluation

    @property
    def is_out(self) -> bool:
        """Whether the arm never comes near the persona asked for."""
        is_measured = self.is_walked and self.best is not None and self.lowest is not None
        return is_measured and self.best < self.lowest  # type: ignore[operator]

    @property
    def words(self) -> str:
        """Why it is not compared, in a sentence; empty where it is within reach."""
        if not self.is_out:
            return ""
        return f"out of reach: its best persona is {self.best:.2f}, {self.asked:.2f} was asked for"


def find_reach(comparison: Comparison) -> dict[str, Reach]:
    """Every variant by name."""
    base = comparison.arm("base")
    asked, lowest = _asked(comparison)
    found = {}
    for arm in comparison.variants:
        best = _best(arm)
        is_walked = all(item.frontier for item in arm.evaluations) or is_untrained(arm.name)
        reach = Reach(asked, lowest, best, is_walked)
        if base and asked is not None and not reach.is_out:
            kept, is_read_off = _kept(arm, base, asked, lowest if lowest is not None else asked)
            reach = replace(reach, kept=kept, is_read_off=is_read_off)
        found[arm.name] = reach
    return found


def _asked(comparison: Comparison) -> tuple[float | None, float | None]:
    """The persona of the treatment, or of the strongest arm where there is none, and the edge of what is equal."""
    by_name = {arm.name: arm for arm in comparison.variants}
    treatments = [by_name[name] for name in of_role("treatment", by_name)]
    scored = [arm for arm in treatments or comparison.variants if persona_of(arm) is not None]
    if not scored:
        return None, None
    arm = scored[0] if treatments else max(scored, key=lambda each: persona_of(each) or 0.0)
    asked = persona_of(arm)
    spreads = [item.banal.answer_sd for item in arm.evaluations if item.banal]
    known = [spread for spread in spreads if spread is not None]
    if asked is None:
        return None, None
    width = comparison.persona_margin_sd * (math.sqrt(fmean(s**2 for s in known)) if known else 0.0)
    return asked, asked - max(width, _noise(arm))


def _noise(arm: Arm) -> float:
    """Two standard errors of the persona score, below which nothing is told apart."""
    scores = [score for item in arm.evaluations if item.banal for score in item.banal.scores]
    if len(scores) < 2:
        return 0.0
    mean = fmean(scores)
    return 2 * math.sqrt(sum((score - mean) ** 2 for score in scores) / (len(scores) - 1) / len(scores))


def persona_of(arm: Arm) -> float | None:
    """Mean persona score over prompts and seeds; None where it was not scored."""
    means = [fmean(item.banal.scores) for item in arm.evaluations if item.banal and item.banal.scores]
    return fmean(means) if means else None


def _best(arm: Arm) -> float | None:
    """The highest persona of each seed, of its checkpoints and of what was evaluated; the mean over seeds."""
    tops = []
    for item in arm.evaluations:
        seen = [point.persona for point in item.frontier]
        seen += [fmean(item.banal.scores)] if item.banal and item.banal.scores else []
        tops += [max(seen)] if seen else []
    return fmean(tops) if tops else None


def _kept(arm: Arm, base: Arm, asked: float, lowest: float) -> tuple[float | None, bool]:
    """The difference to base at the persona asked for: of the evaluation, or read off the frontier, and which it is."""
    persona = persona_of(arm)
    if persona is not None and abs(persona - asked) <= asked - lowest and not find_mismatch(base, arm):
        return POINTS * float(difference_table(arm, base).mean()), False
    crossings = [_along(item.frontier, asked) for item in arm.evaluations]
    known = [value for value in crossings if value is not None]
    return (POINTS * fmean(known), True) if known and len(known) == len(crossings) else (None, False)


def _along(points: tuple, asked: float) -> float | None:
    """Difference to the walk's own base where the persona first comes to `asked`, interpolated between checkpoints."""
    zero = next((point.accuracy for point in points if point.is_base), None)
    if zero is None:
        return None
    ordered = sorted(points, key=lambda point: (not point.is_base, point.step))
    for before, after in pairwise(ordered):
        if before.persona < asked <= after.persona:
            share = (asked - before.persona) / (after.persona - before.persona)
            return float(before.accuracy + share * (after.accuracy - before.accuracy) - zero)
    return None

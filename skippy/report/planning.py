"""What this n × k could show, and what an inconclusive verdict would take."""

from __future__ import annotations

from statistics import fmean

from skippy.core.inference.power import (
    PLANNING,
    Spread,
    achievable_margin,
    estimate_spread,
    minimum_detectable_effect,
    power_non_inferiority,
    problems_needed,
)
from skippy.core.inference.wilson import FEWEST_PROBLEMS
from skippy.report.conclusions import NeededDesign, Planning
from skippy.results import Arm, Comparison

POINTS = 100.0
POWER = 0.8
MOST_SAMPLES = 256
"""More samples a problem than this are not proposed: other problems tell more."""


def plan_of(comparison: Comparison, base: Arm) -> Planning | None:
    """What the design promised before anything was generated; None where there are too few problems to say."""
    scores = base.evaluations[0].scores
    if len(scores) < FEWEST_PROBLEMS:
        return None
    n, k = len(scores), scores[0].k
    margin = achievable_margin(n, k, spread=PLANNING, confidence=comparison.confidence) * POINTS
    effect = minimum_detectable_effect(n, k, spread=PLANNING, confidence=comparison.confidence) * POINTS
    return Planning(n, k, margin, effect, margin <= comparison.margin_points)


def design_needed(comparison: Comparison, base: Arm, arm: Arm) -> NeededDesign | None:
    """Problems, or else samples, at which a variant that lost nothing is found `preserved` with power 0.8.

    None where nothing varies, neither between problems nor between samples: that tells no number.

    The spread is that of these very arms, so the answer is about these problems and this variant.

    Source: as `problems_needed`; the pilot's own spread, Julious 2004, §6. Departure: none.
    """
    spread, margin = _spread(base, arm), comparison.margin_points / POINTS
    if not any((spread.effect_sd, spread.base_variance, spread.variant_variance)):
        return None
    scores = base.evaluations[0].scores
    n, k = len(scores), scores[0].k
    settings = {"spread": spread, "confidence": comparison.confidence}
    problems = problems_needed(k, margin, power=POWER, **settings)  # type: ignore[arg-type]
    samples = k
    while samples <= MOST_SAMPLES and power_non_inferiority(n, samples, margin, **settings) < POWER:  # type: ignore[arg-type]
        samples += max(1, samples // 4)
    return NeededDesign(problems, samples if samples <= MOST_SAMPLES else None, POWER)


def _spread(base: Arm, arm: Arm) -> Spread:
    """The spread between the base and a variant, averaged over its training seeds."""
    reference = {score.key: score.correct for score in base.evaluations[0].scores}
    k = base.evaluations[0].scores[0].k
    found = [
        estimate_spread([reference[s.key] for s in item.scores], [s.correct for s in item.scores], k)
        for item in arm.evaluations
    ]
    return Spread(
        fmean(spread.effect_sd for spread in found),
        fmean(spread.base_variance for spread in found),
        fmean(spread.variant_variance for spread in found),
    )

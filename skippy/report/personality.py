"""Personality on held-out everyday prompts: learned or not, and equal or not."""

from __future__ import annotations

import math
from statistics import fmean

import numpy as np

from skippy.core.inference.paired import pooled_sd, tost_paired
from skippy.core.inference.seeds import non_inferiority_over_seeds
from skippy.report.conclusions import CharacterStep, Likeness
from skippy.report.numerals import bounds, plain, signed
from skippy.report.pairing import at_seeds
from skippy.results import Arm, BanalScores, Comparison


def judge_character(base: Arm, arm: Arm, comparison: Comparison) -> CharacterStep:
    """Whether a variant learned the character: persona above base by an effect that counts, floors kept.

    The rise has to be larger than the smallest effect with the confidence of the comparison: a rise of one point
    in a hundred that is certainly there is still no character.
    """
    reference = base.evaluations[0].banal
    tables = _aligned(arm, reference)
    if reference is None or tables is None:
        return CharacterStep(arm.name, False, f"{arm.label} and base share no scored everyday prompts")
    test = non_inferiority_over_seeds(tables - np.asarray(reference.scores), 0.0, comparison.confidence)
    lower, smallest = test.interval[0], comparison.smallest_effect
    figures = f"persona of {arm.label} against base {signed(test.mean, 2)} ({bounds(test.interval, 2)})"
    if not lower > smallest:
        why = "no character appeared" if test.mean <= smallest else "too little to be sure of a character"
        reason = f"{figures}: {why}, a rise of more than {smallest:g} counts"
        return CharacterStep(arm.name, False, reason, is_absent=True)
    for name, floor in comparison.floors.items():
        means = [
            fmean(values) for item in arm.evaluations if item.banal and (values := getattr(item.banal, name))
        ]
        if not means or min(means) < floor:
            found = plain(min(means), 2) if means else "not measured"
            reason = f"{figures}, but {name} is {found}, below its floor of {plain(floor, 2)}"
            return CharacterStep(arm.name, False, reason)
    return CharacterStep(arm.name, True, figures)


def judge_likeness(
    first: Arm, second: Arm, seeds: tuple[int, ...], margin_sd: float, confidence: float
) -> Likeness | None:
    """Two one-sided tests of equal personality within ±`margin_sd` SD, over prompts and common seeds.

    The unit is the SD of a single answer's score where that is known: it stays what it is however many answers
    a prompt or seeds a variant has, and more of them narrow the interval.

    Returns:
        None where the two share no scored prompts.
    """
    reference = first.evaluations[0].banal
    left, right = _aligned(first, reference, seeds), _aligned(second, reference, seeds)
    if reference is None or left is None or right is None:
        return None
    spreads = [e.banal.answer_sd for arm in (first, second) for e in arm.evaluations if e.banal]
    known = [spread for spread in spreads if spread is not None]
    scale = (
        math.sqrt(fmean(spread**2 for spread in known)) if known else pooled_sd(left.mean(0), right.mean(0))
    )
    unit = scale if scale > 0 else 1.0
    margin = margin_sd * unit
    if left.shape[0] == 1:
        test = tost_paired(left[0], right[0], margin, confidence)
        interval, mean, is_equal, is_different = test.interval, test.mean, test.is_equal, test.is_different
    else:
        over = non_inferiority_over_seeds(left - right, margin, confidence)
        interval, mean = over.interval, over.mean
        is_equal = interval[0] > -margin and interval[1] < margin
        is_different = interval[0] > 0 or interval[1] < 0
    interval_sd = (interval[0] / unit, interval[1] / unit)
    difference = f"{signed(mean / unit, 2)} SD ({bounds(interval_sd, 2)})"
    figures = f"personality of {first.label} − {second.label}: {difference}"
    if is_equal:
        reason = f"{figures}, equal within ±{margin_sd:g} SD"
    elif is_different:
        reason = f"{figures}, not equal within ±{margin_sd:g} SD"
    else:
        reason = f"{figures}, equality within ±{margin_sd:g} SD is not shown"
    return Likeness(is_equal, is_different, mean / unit, interval_sd, margin_sd, left.shape[1], reason)


def _aligned(
    arm: Arm, reference: BanalScores | None, seeds: tuple[int, ...] | None = None
) -> np.ndarray | None:
    """Scores of an arm, seeds × prompts in the reference's order; None where prompts differ."""
    if reference is None or len(reference.scores) < 2:
        return None
    rows = []
    for evaluation in arm.evaluations if seeds is None else at_seeds(arm, seeds):
        banal = evaluation.banal
        if banal is None or set(banal.keys) != set(reference.keys) or len(banal.keys) != len(reference.keys):
            return None
        by_key = dict(zip(banal.keys, banal.scores, strict=True))
        rows.append([by_key[key] for key in reference.keys])
    return np.asarray(rows, dtype=np.float64) if rows else None

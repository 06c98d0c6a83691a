"""Means over an arm's training seeds, and what they are of."""

from __future__ import annotations

import math
from collections.abc import Callable
from statistics import fmean

from skippy.results import Arm, BanalScores, Evaluation

POINTS = 100.0
Reader = Callable[[Evaluation], float | None]


def mean_over_seeds(arm: Arm, read: Reader) -> float | None:
    """The mean over an arm's evaluations; None where one of them has no such figure."""
    values = [read(item) for item in arm.evaluations]
    known = [value for value in values if value is not None and not math.isnan(value)]
    return fmean(known) if known and len(known) == len(values) else None


def of_scores(scores: BanalScores | None, name: str) -> float | None:
    """A field of everyday scores, where it has one value a prompt their mean; None where it was not measured."""
    value = getattr(scores, name) if scores else None
    if isinstance(value, tuple):
        return fmean(value) if value else None
    return value


def everyday(name: str) -> Reader:
    """What reads that field of an evaluation's everyday scores."""
    return lambda item: of_scores(item.banal, name)

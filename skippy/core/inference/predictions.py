"""What was predicted before the run, and its fate: held, refuted or undecided, by the interval alone.

A prediction names a statistic of the study, its arguments and the condition that it meets. It holds if the whole
interval of the statistic meets it, is refuted if no part does, and is undecided otherwise: the estimate alone
decides nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from skippy.core.inference.cells import Cell
from skippy.core.inference.collapse import cliff_shares, trained_cells
from skippy.core.inference.curves import Curve, paired_curves, points_of
from skippy.core.inference.frontier import (
    MIN_SEEDS,
    Difference,
    kept_at,
    matched_tables,
    mean_table,
    predictor_at,
)
from skippy.core.inference.predictors import Estimate, mean_over_seeds, rank_correlation, regression_gain
from skippy.core.inference.simultaneous import simultaneous_bounds

Condition = Literal["below", "at_least", "within"]
CONDITIONS: tuple[Condition, ...] = ("below", "at_least", "within")
Arguments = Mapping[str, str | float | int]
ALONE = 0.975
"""Confidence of each end of an interval that stands alone: 95 % in all."""


@dataclass(frozen=True)
class Prediction:
    """One prediction, as a plan states it."""

    name: str  # P1, P2, …
    says: str  # in a sentence
    statistic: str  # a key of `STATISTICS`
    arguments: Arguments  # what it is asked about
    condition: Condition  # below, at_least or within (±)
    value: float | int  # that it is held against


@dataclass(frozen=True)
class Fate:
    """What became of a prediction; `estimate` is None where the study has nothing to say."""

    prediction: Prediction
    estimate: Estimate | None
    fate: Literal["held", "refuted", "undecided"]


@dataclass(frozen=True, eq=False)
class Evidence:
    """What statistics are computed from."""

    cells: Sequence[Cell]
    base: Cell
    curves: Sequence[Curve]
    differences: Sequence[Difference]  # at equal persona, and as trained, which have no persona
    margin: float | int


def judge_prediction(prediction: Prediction, evidence: Evidence, generator: np.random.Generator) -> Fate:
    """Compute the statistic and hold its interval against the condition."""
    statistic = STATISTICS[prediction.statistic].compute
    found = statistic(evidence, prediction.arguments, generator)
    return Fate(prediction, found, fate_of(found, prediction.condition, prediction.value))


def fate_of(
    found: Estimate | None, condition: Condition, value: float | int
) -> Literal["held", "refuted", "undecided"]:
    """Held if the whole interval meets the condition, refuted if none of it does."""
    if found is None:
        return "undecided"
    if condition == "below":
        meets, fails = found.upper < value, found.lower >= value
    elif condition == "at_least":
        meets, fails = found.lower >= value, found.upper < value
    else:
        meets = -value <= found.lower and found.upper <= value
        fails = found.lower > value or found.upper < -value
    return "held" if meets else "refuted" if fails else "undecided"


def rho_ratio(evidence: Evidence, arguments: Arguments, generator: np.random.Generator) -> Estimate | None:
    """The larger side of an arm's pooled leakage over chance, mean over its trainings."""
    sides = []
    for side in ("left", "right"):
        values = [
            (cell.seed, float(cell.predictors[f"rho_{side}_ratio"]))
            for cell in trained_cells(evidence.cells)
            if cell.arm == arguments["arm"] and f"rho_{side}_ratio" in cell.predictors
        ]
        found = mean_over_seeds(values)
        sides += [] if found is None else [found]
    return max(sides, key=lambda found: found.value, default=None)


def correlation(evidence: Evidence, arguments: Arguments, generator: np.random.Generator) -> Estimate | None:
    """|r| of a predictor's rank correlation with the score lost."""
    found = rank_correlation(evidence.cells, evidence.base, str(arguments["predictor"]), generator)
    if found is None or found.value >= 0:
        return found
    return Estimate(-found.value, -found.upper, -found.lower, found.cells, found.seeds)


def r2_gain(evidence: Evidence, arguments: Arguments, generator: np.random.Generator) -> Estimate | None:
    """What `added` predictors explain beyond `known` ones; both are lists separated by spaces."""
    known, added = (str(arguments[name]).split() for name in ("known", "added"))
    return regression_gain(evidence.cells, evidence.base, known, added, generator)


def difference(evidence: Evidence, arguments: Arguments, generator: np.random.Generator) -> Estimate | None:
    """First arm less second, mean over training doses, in points: at equal persona, or as trained without one.

    The bounds hold for all comparisons of their kind together.
    """
    for found in evidence.differences:
        is_asked = (found.first, found.second, found.persona) == (
            arguments["first"],
            arguments["second"],
            arguments.get("persona"),
        )
        alike = [d for d in evidence.differences if (d.first, d.second) == (found.first, found.second)]
        trainings = {d.training for d in alike} - {None}
        if is_asked and found.bound and (found.training is None or len(trainings) == 1):
            bound = found.bound
            ends = (100 * bound.mean, 100 * bound.lower, 100 * bound.upper)
            return Estimate(*ends, found.reached, found.reached)
    return None


def difference_alone(
    evidence: Evidence, arguments: Arguments, generator: np.random.Generator
) -> Estimate | None:
    """The same at equal persona with a 95 % interval of its own: for the comparison that a plan names as primary."""
    first, second, persona = str(arguments["first"]), str(arguments["second"]), float(arguments["persona"])
    return _alone(matched_tables(evidence.curves, first, second, persona).values(), generator)


def kept(evidence: Evidence, arguments: Arguments, generator: np.random.Generator) -> Estimate | None:
    """An arm less the base at a persona, mean over training doses, in points; a 95 % interval of its own."""
    curves = [curve for curve in evidence.curves if curve.arm == arguments["arm"]]
    persona = float(arguments["persona"])
    return _alone([kept_at(curve, persona) - curve.shares[0] for curve in curves], generator)


def _alone(tables: Iterable[np.ndarray], generator: np.random.Generator) -> Estimate | None:
    found = list(tables)
    table = mean_table(found) if found else np.empty((0, 0))
    reached = int(np.isfinite(table).all(axis=1).sum())
    if reached < MIN_SEEDS:
        return None
    (bound,) = simultaneous_bounds(table[None], generator, confidence=ALONE)
    return Estimate(100 * bound.mean, 100 * bound.lower, 100 * bound.upper, reached, reached)


def predictor_difference(
    evidence: Evidence, arguments: Arguments, generator: np.random.Generator
) -> Estimate | None:
    """A predictor of the first arm less that of the second at equal persona, mean over seeds."""
    name, persona = str(arguments["predictor"]), float(arguments["persona"])
    apart = [
        (seed, float(value))
        for _, one, other in paired_curves(evidence.curves, str(arguments["first"]), str(arguments["second"]))
        for seed, value in zip(
            one.seeds, predictor_at(one, name, persona) - predictor_at(other, name, persona), strict=True
        )
        if np.isfinite(value)
    ]
    return mean_over_seeds(apart)


def beside_point(evidence: Evidence, arguments: Arguments, generator: np.random.Generator) -> Estimate | None:
    """First arm less second, in points, at the persona of the one of them that is a single point."""
    points = points_of([curve for curve in evidence.curves if curve.arm in arguments.values()])
    return difference(evidence, {**arguments, "persona": points[0]}, generator) if points else None


def largest_persona(
    evidence: Evidence, arguments: Arguments, generator: np.random.Generator
) -> Estimate | None:
    """The highest mean persona that an arm has at any α, mean over its trainings."""
    best = [
        (seed, float(np.nanmax(curve.personas[1:, column])))
        for curve in evidence.curves
        if curve.arm == arguments["arm"]
        for column, seed in enumerate(curve.seeds)
        if np.isfinite(curve.personas[1:, column]).any()
    ]
    return mean_over_seeds(best)


def cliff_share(evidence: Evidence, arguments: Arguments, generator: np.random.Generator) -> Estimate | None:
    """Share of the whole loss that one step of α takes, mean over the trainings of an arm that lose δ."""
    shares = [
        share
        for curve in evidence.curves
        if curve.arm == arguments["arm"]
        for share in cliff_shares(curve, evidence.margin)
    ]
    return mean_over_seeds([(seed, value) for seed, value, _ in shares], [error for *_, error in shares])


@dataclass(frozen=True)
class Statistic:
    """A statistic that a plan may name: its arguments, and what computes it."""

    arguments: tuple[str, ...]
    compute: Callable[[Evidence, Arguments, np.random.Generator], Estimate | None]


STATISTICS: dict[str, Statistic] = {
    "rho_ratio": Statistic(("arm",), rho_ratio),
    "correlation": Statistic(("predictor",), correlation),
    "r2_gain": Statistic(("known", "added"), r2_gain),
    "difference": Statistic(("first", "second", "persona"), difference),
    "difference_alone": Statistic(("first", "second", "persona"), difference_alone),
    "difference_as_trained": Statistic(("first", "second"), difference),
    "predictor_difference": Statistic(("predictor", "first", "second", "persona"), predictor_difference),
    "kept": Statistic(("arm", "persona"), kept),
    "beside_point": Statistic(("first", "second"), beside_point),
    "largest_persona": Statistic(("arm",), largest_persona),
    "cliff_share": Statistic(("arm",), cliff_share),
}

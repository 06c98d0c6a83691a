"""Persona against mathematics: the frontier of an arm, and the score it keeps at a given persona.

Every trained adapter is played back at several α. Where its persona first reaches p on the rising branch, between
two neighbouring α, its answers to each problem are interpolated by the same weight: the table that comes out is
still paired with every other arm's, problem by problem and seed by seed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from skippy.core.inference.cells import TrainingDose
from skippy.core.inference.curves import Curve, paired_curves, points_of
from skippy.core.inference.simultaneous import Bound, simultaneous_bounds

MIN_SEEDS = 2
"""Seeds that must reach a persona before anything is said there."""

Key = tuple[str, str, TrainingDose | None, float | int | None, float | int | None]
Asked = tuple[Key, np.ndarray]
"""Which difference, and its table, seeds × problems."""


@dataclass(frozen=True)
class FrontierPoint:
    """One dose of one arm, means over the seeds that have it."""

    arm: str  # variant
    training: TrainingDose  # training dose
    alpha: float | int  # scale of the update
    persona: float  # mean persona score
    persona_error: float  # its standard error over seeds; NaN for one seed or none
    score: float  # avg_at_k
    loss: Bound  # difference to the base, with bounds that hold for all points of the frontier together
    by_seed: tuple[tuple[float, float], ...]  # (persona, score) of each seed; one pair for an arm without


@dataclass(frozen=True)
class Difference:
    """One arm less another where their personas are equal."""

    first: str  # arm
    second: str  # arm it is compared with
    training: TrainingDose | None  # training dose of both; None for the mean over the training doses
    persona: float | int | None  # level at which they are compared; None compares at equal α
    alpha: float | int | None  # scale at which they are compared; None compares at equal persona
    reached: int  # seeds in which both arms reach the level
    seeds: int  # seeds there are
    bound: Bound | None  # the difference, first − second; None where fewer than two seeds reach the level


def kept_at(curve: Curve, persona: float | int) -> Float[np.ndarray, "seeds problems"]:
    """p̂ of each seed and problem where the persona first reaches `persona`; NaN rows where it never does.

    An arm that is one point is there at its own persona and nowhere else: nothing lies between it and the base.

    Source: MATH §8. Departure: none.
    """
    return _at_persona(curve, curve.shares, persona)


def predictor_at(curve: Curve, name: str, persona: float | int) -> Float[np.ndarray, " seeds"]:
    """A predictor of each seed there, interpolated by the same weight; NaN where there is none."""
    values = curve.predictors.get(name, np.full_like(curve.personas, np.nan))
    return _at_persona(curve, values, persona)


def _at_persona(curve: Curve, values: np.ndarray, persona: float | int) -> np.ndarray:
    """`values`, by α and seed, between the two α where the persona is first reached; NaN where it never is."""
    table = np.full(values.shape[1:], np.nan)
    if curve.point is not None:
        return values[-1] if curve.point == persona else table
    for seed in range(len(curve.seeds)):
        place = crossing(curve.personas[: curve.top_of_rise(seed) + 1, seed], persona)
        if place is not None:
            low, high, weight = place
            table[seed] = (1 - weight) * values[low, seed] + weight * values[high, seed]
    return table


def crossing(values: Float[np.ndarray, " points"], level: float | int) -> tuple[int, int, float] | None:
    """Neighbours low, high and the weight of high where `values` first reach `level`; None where they never do.

    Values that are NaN are passed over. The first value may lie above the level already: then it is taken.

    >>> crossing(np.array([0.0, 0.4, 0.8]), 0.5)
    (1, 2, 0.25)
    """
    finite = np.flatnonzero(np.isfinite(values)).tolist()
    for position, index in enumerate(finite):
        if values[index] >= level:
            if position == 0:
                return index, index, 0.0
            before = finite[position - 1]
            return before, index, float((level - values[before]) / (values[index] - values[before]))
    return None


def frontier(curves: Sequence[Curve], generator: np.random.Generator) -> list[FrontierPoint]:
    """Every dose of every arm that at least one seed has, with simultaneous bounds of its loss."""
    places = [
        (curve, row)
        for curve in curves
        for row in range(1, len(curve.alphas))
        if np.isfinite(curve.personas[row]).any()
    ]
    if not places:
        return []
    bounds = simultaneous_bounds(np.stack([curve.differences[row] for curve, row in places]), generator)
    points = []
    for (curve, row), bound in zip(places, bounds, strict=True):
        is_there = np.isfinite(curve.personas[row])
        personas, scores = curve.personas[row][is_there], curve.scores[row][is_there]
        error = float(personas.std(ddof=1) / np.sqrt(personas.size)) if personas.size > 1 else float("nan")
        pairs = tuple(zip(personas.tolist(), scores.tolist(), strict=True))
        if curve.point is not None:
            error, pairs = float("nan"), pairs[:1]
        points.append(
            FrontierPoint(
                curve.arm,
                curve.training,
                curve.alphas[row],
                float(personas.mean()),
                error,
                float(scores.mean()),
                bound,
                pairs,
            )
        )
    return points


def matched_differences(
    curves: Sequence[Curve],
    pairs: Sequence[tuple[str, str]],
    levels: Sequence[float | int],
    generator: np.random.Generator,
) -> list[Difference]:
    """Arm against arm at equal persona: by training dose, and the mean over the training doses.

    The bounds of all of them hold together. A mean takes, of each seed, the training doses at which both arms
    reach the level; a training dose counts only seeds in which both do. Beside an arm that is one point the level is
    its own persona.
    """
    asked: list[Asked] = []
    for first, second in pairs:
        for level in points_of([curve for curve in curves if curve.arm in (first, second)]) or levels:
            tables = matched_tables(curves, first, second, level)
            asked += [((first, second, training, level, None), table) for training, table in tables.items()]
            if len(tables) > 1:
                asked.append(((first, second, None, level, None), mean_table(list(tables.values()))))
    return _bounded(asked, generator)


def unmatched_differences(
    curves: Sequence[Curve], pairs: Sequence[tuple[str, str]], generator: np.random.Generator
) -> list[Difference]:
    """Arm against arm as trained, at the α nearest to 1, whatever their personas are; and the mean over doses."""
    asked: list[Asked] = []
    for first, second in pairs:
        tables = {}
        for training, one, other in paired_curves(curves, first, second):
            alpha = min(set(one.alphas) & set(other.alphas), key=lambda a: abs(a - 1))
            at = one.alphas.index(alpha), other.alphas.index(alpha)
            tables[training, alpha] = one.shares[at[0]] - other.shares[at[1]]
        asked += [((first, second, training, None, alpha), t) for (training, alpha), t in tables.items()]
        if len(tables) > 1:
            alpha = min(alpha for _, alpha in tables)
            asked.append(((first, second, None, None, alpha), mean_table(list(tables.values()))))
    return _bounded(asked, generator)


def matched_tables(
    curves: Sequence[Curve], first: str, second: str, persona: float | int
) -> dict[TrainingDose, Float[np.ndarray, "seeds problems"]]:
    """p̂ of the first arm less that of the second where both have this persona, by training dose."""
    return {
        training: kept_at(one, persona) - kept_at(other, persona)
        for training, one, other in paired_curves(curves, first, second)
    }


def mean_table(tables: Sequence[np.ndarray]) -> np.ndarray:
    """Mean over training doses of what is there; a seed that is nowhere stays NaN."""
    stack = np.stack(tables)
    is_there = np.isfinite(stack)
    count = is_there.sum(axis=0)
    return np.where(count > 0, np.where(is_there, stack, 0.0).sum(axis=0) / np.maximum(count, 1), np.nan)


def _bounded(asked: Sequence[Asked], generator: np.random.Generator) -> list[Difference]:
    reached = [int(np.isfinite(table).all(axis=1).sum()) for _, table in asked]
    usable = [table for (_, table), count in zip(asked, reached, strict=True) if count >= MIN_SEEDS]
    bounds = iter(simultaneous_bounds(np.stack(usable), generator) if usable else ())
    return [
        Difference(*key, count, len(table), next(bounds) if count >= MIN_SEEDS else None)
        for (key, table), count in zip(asked, reached, strict=True)
    ]

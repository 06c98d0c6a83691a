"""Dose curves: the cells of one arm at one training dose, as arrays over α, seeds and problems.

All curves of a study share the order of seeds and problems, so that a difference of two of them is paired.
A seed that failed is a row of NaN. An arm without training seeds, as a prompt is, has the same answers beside each of
them, as the base has: drawing seeds again moves it no more than it moves the base.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from skippy.core.inference.cells import NO_SEED, NO_TRAINING, Cell, TrainingDose, require_same_questions
from skippy.core.variants import has_seed
from skippy.errors import ReportError


@dataclass(frozen=True, eq=False)
class Curve:
    """One arm at one training dose."""

    arm: str  # variant
    training: TrainingDose  # training dose
    alphas: tuple[float | int, ...]  # scales of the update, ascending; the first is 0, the base itself
    seeds: tuple[int, ...]  # training seeds
    shares: Float[np.ndarray, "alphas seeds problems"]  # p̂ by α, seed and problem
    personas: Float[np.ndarray, "alphas seeds"]  # mean persona score by α and seed
    predictors: Mapping[str, Float[np.ndarray, "alphas seeds"]]  # name → value; NaN where it was not measured

    @property
    def differences(self) -> Float[np.ndarray, "alphas seeds problems"]:
        """p̂ less the base's, on the same problems; 0 at α = 0."""
        return self.shares - self.shares[:1]

    @property
    def scores(self) -> Float[np.ndarray, "alphas seeds"]:
        """avg_at_k."""
        return self.shares.mean(axis=2)

    @property
    def point(self) -> float | None:
        """The persona of an arm that is one point and no path; None for one with a dose."""
        return None if has_seed(self.arm) else round(float(self.personas[-1, 0]), 3)

    def top_of_rise(self, seed: int) -> int:
        """Index of the α up to which persona is looked for: its first maximum along finite values."""
        personas = self.personas[:, seed]
        return 0 if np.isnan(personas).all() else int(np.nanargmax(personas))


def build_curves(cells: Sequence[Cell], base: Cell) -> tuple[Curve, ...]:
    """Every arm × training dose, in the order in which arms first appear, doses ascending.

    Args:
        cells: of all arms; failed ones leave NaN.
        base: answers at α = 0.

    Raises:
        ReportError: a cell twice, other questions than the base's, or no cell at all.
    """
    require_same_questions(list(cells), base)
    by_key = {(c.arm, c.training, c.alpha, c.seed): c for c in cells}
    if len(by_key) < len(cells) or not cells:
        raise ReportError(
            "A study needs cells, each of them once.",
            where="cells",
            expected="one cell an arm, training dose, α and seed",
            found=f"{len(cells)} cells, {len(by_key)} different",
            next_step="look for a cell that two workers did",
        )
    seeds = tuple(sorted({cell.seed for cell in cells if has_seed(cell.arm)})) or (NO_SEED,)
    arms = list(dict.fromkeys(cell.arm for cell in cells))
    curves = []
    for arm in arms:
        for training in sorted({cell.training for cell in cells if cell.arm == arm}):
            found = {key[2:]: cell for key, cell in by_key.items() if key[:2] == (arm, training)}
            alphas = tuple(sorted({alpha for alpha, _ in found}))
            curves.append(_curve(arm, training, alphas, seeds, found, base))
    return tuple(curves)


def _curve(
    arm: str,
    training: TrainingDose,
    alphas: tuple[float | int, ...],
    seeds: tuple[int, ...],
    found: dict[tuple[float | int, int], Cell],
    base: Cell,
) -> Curve:
    shares = np.full((1 + len(alphas), len(seeds), len(base.correct)), np.nan)
    personas = np.full(shares.shape[:2], np.nan)
    names = sorted({name for cell in (base, *found.values()) for name in cell.predictors})
    predictors = {name: np.full(personas.shape, np.nan) for name in names}
    shares[0], personas[0] = _shares(base, base), base.persona
    for name, value in base.predictors.items():
        predictors[name][0] = value
    for row, alpha in enumerate(alphas, start=1):
        for column, seed in enumerate(seeds):
            cell = found.get((alpha, seed if has_seed(arm) else NO_SEED))
            if cell is not None and not cell.is_failed:
                shares[row, column], personas[row, column] = _shares(cell, base), cell.persona
                for name, value in cell.predictors.items():
                    predictors[name][row, column] = value
    return Curve(arm, training, (0.0, *alphas), seeds, shares, personas, predictors)


def points_of(curves: Sequence[Curve]) -> list[float]:
    """The personas of those that are one point, ascending."""
    return sorted({curve.point for curve in curves if curve.point is not None})


def paired_curves(
    curves: Sequence[Curve], first: str, second: str
) -> Iterator[tuple[TrainingDose, Curve, Curve]]:
    """Curves of two arms at one training dose; an arm with a recipe of its own stands beside every dose."""
    for one in curves:
        for other in curves:
            doses = {one.training, other.training}
            if (one.arm, other.arm) == (first, second) and (len(doses) == 1 or NO_TRAINING in doses):
                yield max(doses), one, other


def _shares(cell: Cell, base: Cell) -> Float[np.ndarray, " problems"]:
    return np.array([cell.correct[problem] for problem in base.correct]) / cell.samples

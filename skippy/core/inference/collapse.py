"""Runs that collapse: how many of each arm, and what tells them from those that do not.

A mean hides them: an arm whose runs keep everything or nothing has the same mean as one that loses half everywhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from skippy.core.inference.cells import Cell, TrainingDose
from skippy.core.inference.curves import Curve
from skippy.core.inference.predictors import Estimate
from skippy.core.inference.simultaneous import draw_counts

COLLAPSED_SHARE = 0.5
"""A run has collapsed if it keeps less than this share of the base's score as trained, at α = 1."""
RESAMPLES = 1000


@dataclass(frozen=True)
class CollapseCount:
    """How many runs of one arm at one training dose collapsed."""

    arm: str  # variant
    training: TrainingDose  # training dose
    collapsed: int  # runs
    runs: int  # that finished
    lower: float  # Clopper–Pearson bound of the share, one-sided at 95 %
    upper: float  # the other one
    scores: tuple[float, ...]  # avg_at_k of each run as trained, ascending
    median_loss: float  # score of the base less the median of theirs
    persona: float  # mean persona score of the runs


def has_collapsed(cell: Cell, base: Cell) -> bool:
    """Whether a cell keeps less than half of the base's score."""
    return cell.score < COLLAPSED_SHARE * base.score


def trained_cells(cells: Sequence[Cell]) -> list[Cell]:
    """The cell of each training as it was trained, at α = 1 or what is nearest to it; failed ones left out."""
    nearest: dict[tuple[str, TrainingDose, int], Cell] = {}
    for cell in sorted((c for c in cells if not c.is_failed), key=lambda c: abs(c.alpha - 1), reverse=True):
        nearest[cell.arm, cell.training, cell.seed] = cell
    return [cell for cell in cells if nearest.get((cell.arm, cell.training, cell.seed)) is cell]


def count_collapses(cells: Sequence[Cell], base: Cell) -> list[CollapseCount]:
    """One count an arm and training dose, in the order of the cells.

    Source: Clopper and Pearson 1934. Departure: none.
    """
    groups: dict[tuple[str, TrainingDose], list[Cell]] = {}
    for cell in trained_cells(cells):
        groups.setdefault((cell.arm, cell.training), []).append(cell)
    counts = []
    for (arm, training), members in groups.items():
        n, x = len(members), sum(has_collapsed(cell, base) for cell in members)
        lower = float(stats.beta.ppf(0.05, x, n - x + 1)) if x else 0.0
        upper = float(stats.beta.ppf(0.95, x + 1, n - x)) if x < n else 1.0
        scores = tuple(sorted(cell.score for cell in members))
        lost, persona = base.score - float(np.median(scores)), float(np.mean([c.persona for c in members]))
        counts.append(CollapseCount(arm, training, x, n, lower, upper, scores, lost, persona))
    return counts


def separation(
    cells: Sequence[Cell], base: Cell, predictor: str, generator: np.random.Generator
) -> Estimate | None:
    """Probability that a collapsed run has the higher value, among pairs of one arm and training dose.

    Only the seed differs within a pair, so neither the arm nor the dose can take the credit. 0.5 tells nothing.
    None where no arm and dose has both kinds.

    Source: Mann and Whitney 1947, stratified. Departure: the interval draws seeds.
    """
    runs = [c for c in trained_cells(cells) if np.isfinite(c.predictors.get(predictor, np.nan))]
    seeds = sorted({run.seed for run in runs})
    wins = np.zeros((len(seeds), len(seeds)))
    pairs = np.zeros((len(seeds), len(seeds)))
    for one in runs:
        for other in runs:
            same = (one.arm, one.training) == (other.arm, other.training)
            if same and has_collapsed(one, base) and not has_collapsed(other, base):
                gap = one.predictors[predictor] - other.predictors[predictor]
                place = seeds.index(one.seed), seeds.index(other.seed)
                wins[place] += 1.0 if gap > 0 else 0.5 if gap == 0 else 0.0
                pairs[place] += 1.0
    if not pairs.any():
        return None
    counts = draw_counts(len(seeds), RESAMPLES, generator)
    won, all_ = (np.einsum("bi,ij,bj->b", counts, m, counts, optimize=True) for m in (wins, pairs))
    drawn = won[all_ > 0] / all_[all_ > 0]
    low, high = np.quantile(drawn, [0.05, 0.95])
    return Estimate(float(wins.sum() / pairs.sum()), float(low), float(high), len(runs), len(seeds))


def cliff_shares(curve: Curve, margin: float | int) -> list[tuple[int, float, float]]:
    """(seed, share of its whole loss that one step between neighbouring α takes, its error), of seeds that lose δ.

    With A equal steps a straight decline has 1/A, a cliff 1. The share is a ratio of two means over problems, and its
    standard error that of a ratio, problems drawn.

    Source: Cochran 1977, Sampling Techniques, eq. 6.13. Departure: the step is chosen by the same answers.
    """
    found = []
    for column, seed in enumerate(curve.seeds):
        by_problem = -curve.differences[:, column]
        losses = by_problem.mean(axis=1)
        if np.isfinite(losses).all() and losses.max() >= margin:
            step = int(np.diff(losses).argmax())
            taken, whole = by_problem[step + 1] - by_problem[step], by_problem[losses.argmax()]
            share = min(1.0, taken.mean() / whole.mean())
            left = taken - share * whole
            error = left.std(ddof=1) / np.sqrt(len(left)) / whole.mean() if len(left) > 1 else np.inf
            found.append((seed, float(share), float(error)))
    return found

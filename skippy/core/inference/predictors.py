"""What predicts the loss across the cells of a study: rank correlations, and regressions over other seeds.

Cells that share a training seed share its luck. So a regression is judged on the seed it was not fitted to, and
every interval draws seeds, never cells.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy import stats

from skippy.core.inference.cells import Cell
from skippy.core.inference.simultaneous import draw_counts

RESAMPLES = 1000
CONFIDENCE = 0.95
"""Of each end of an interval."""
RIDGE = 1e-6
MIN_CELLS = 8
MIN_SEEDS = 3
"""Below it a mean over seeds has no interval: two seeds that agree by chance would make it as narrow as they like."""


@dataclass(frozen=True)
class Estimate:
    """A figure with its interval, seeds drawn again."""

    value: float  # the figure
    lower: float  # end of the interval, one-sided
    upper: float  # the other end
    cells: int  # it rests on
    seeds: int  # it rests on


def rank_correlation(
    cells: Sequence[Cell], base: Cell, predictor: str, generator: np.random.Generator
) -> Estimate | None:
    """Spearman's correlation of a predictor with the score lost; None where too few cells have it.

    Source: Spearman 1904. Departure: ranks are those of all cells in every draw.
    """
    rows = _rows(cells, base, (predictor,))
    if rows is None:
        return None
    ranks = stats.rankdata(rows.predictors[0]), stats.rankdata(rows.losses)
    counts = np.concatenate([np.ones((1, rows.seeds)), draw_counts(rows.seeds, RESAMPLES, generator)])
    values = _correlation(*ranks, counts[:, rows.seed])
    return _estimate(values, rows)


def regression(
    cells: Sequence[Cell], base: Cell, predictors: Sequence[str], generator: np.random.Generator
) -> Estimate | None:
    """R² of the score lost on other seeds: `1 − Σ(y − ŷ₋ₛ)² / Σ(y − ȳ₋ₛ)²`, each seed left out once.

    Each predictor enters by its rank and the square of it, so that a cliff and a ramp are both in reach. None
    where too few cells have all of them, or there is one seed.
    """
    rows = _rows(cells, base, predictors)
    if rows is None:
        return None
    counts = np.concatenate([np.ones((1, rows.seeds)), draw_counts(rows.seeds, RESAMPLES, generator)])
    return _estimate(_left_out_r2(rows, range(len(predictors)), counts), rows)


def regression_gain(
    cells: Sequence[Cell],
    base: Cell,
    known: Sequence[str],
    added: Sequence[str],
    generator: np.random.Generator,
) -> Estimate | None:
    """R² with `known` and `added`, less R² with `known` alone, on the same cells and the same draws."""
    rows = _rows(cells, base, (*known, *added))
    if rows is None:
        return None
    counts = np.concatenate([np.ones((1, rows.seeds)), draw_counts(rows.seeds, RESAMPLES, generator)])
    larger = _left_out_r2(rows, range(len(known) + len(added)), counts)
    smaller = _left_out_r2(rows, range(len(known)), counts)
    return _estimate(larger - smaller, rows)


def mean_over_seeds(values: Sequence[tuple[int, float]], errors: Sequence[float] = ()) -> Estimate | None:
    """Mean of (seed, value) pairs, each seed counting once; the interval is Student's over seeds.

    Seeds that happen to agree prove nothing: the deviation between seeds is not taken below what the sampling of a
    seed's own answers leaves open, and below `MIN_SEEDS` seeds the interval is the whole line.

    Args:
        values: (seed, value), any number of values a seed.
        errors: standard error of each value by sampling alone; left out where a value is exact.

    Returns:
        None without values.
    """
    if not values:
        return None
    seeds = sorted({seed for seed, _ in values})
    owner = np.array([seeds.index(seed) for seed, _ in values])
    sizes = np.bincount(owner)
    by_seed = np.bincount(owner, weights=[value for _, value in values]) / sizes
    mean, count = float(by_seed.mean()), len(seeds)
    if count < MIN_SEEDS:
        return Estimate(mean, float("-inf"), float("inf"), len(values), count)
    sampling = np.bincount(owner, weights=np.square(errors)) / sizes**2 if len(errors) else np.zeros(count)
    deviation = max(float(by_seed.std(ddof=1)), float(np.sqrt(sampling.mean())))
    reach = float(stats.t.ppf(CONFIDENCE, count - 1)) * deviation / float(np.sqrt(count))
    return Estimate(mean, mean - reach, mean + reach, len(values), count)


@dataclass(frozen=True, eq=False)
class _Rows:
    """Cells as columns."""

    losses: Float[np.ndarray, " cells"]  # score of the base less the cell's
    predictors: Float[np.ndarray, "predictors cells"]  # values by predictor
    seed: np.ndarray  # index of each cell's seed
    seeds: int  # how many there are


def _rows(cells: Sequence[Cell], base: Cell, predictors: Sequence[str]) -> _Rows | None:
    usable = [
        cell
        for cell in cells
        if not cell.is_failed and all(np.isfinite(cell.predictors.get(p, np.nan)) for p in predictors)
    ]
    seeds = sorted({cell.seed for cell in usable})
    if len(usable) < MIN_CELLS or len(seeds) < 2:
        return None
    return _Rows(
        losses=np.array([base.score - cell.score for cell in usable]),
        predictors=np.array([[float(cell.predictors[p]) for cell in usable] for p in predictors]),
        seed=np.array([seeds.index(cell.seed) for cell in usable]),
        seeds=len(seeds),
    )


def _correlation(first: np.ndarray, second: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Pearson's correlation under each row of weights; NaN where one side does not vary."""
    total = weights.sum(axis=1, keepdims=True)
    x = first - (weights @ first)[:, None] / total
    y = second - (weights @ second)[:, None] / total
    covariance = (weights * x * y).sum(axis=1)
    scale = np.sqrt((weights * x * x).sum(axis=1) * (weights * y * y).sum(axis=1))
    return np.where(scale > 0, covariance / np.where(scale > 0, scale, 1.0), np.nan)


def _left_out_r2(rows: _Rows, chosen: Sequence[int], counts: np.ndarray) -> np.ndarray:
    """R² under each row of seed counts; a seed drawn twice is left out with its copy.

    Everything follows from the Gram matrices of the seeds: leaving one out is a subtraction.
    """
    ranks = np.array([stats.rankdata(rows.predictors[index]) for index in chosen]) / rows.losses.size - 0.5
    design = np.concatenate([np.ones((1, rows.losses.size)), ranks, ranks**2]).T
    member = np.eye(rows.seeds)[rows.seed]
    gram = np.einsum("cs,ci,cj->sij", member, design, design, optimize=True)
    cross = np.einsum("cs,ci,c->si", member, design, rows.losses, optimize=True)
    square, total, size = member.T @ rows.losses**2, member.T @ rows.losses, member.sum(axis=0)
    others = counts[:, None, :] * (1 - np.eye(rows.seeds))  # draws × left out × rest
    left = np.einsum("bos,sij->boij", others, gram, optimize=True) + RIDGE * np.eye(design.shape[1])
    fitted = np.linalg.solve(left, np.einsum("bos,si->boi", others, cross, optimize=True)[..., None])[..., 0]
    mean = np.einsum("bos,s->bo", others, total) / np.maximum(np.einsum("bos,s->bo", others, size), 1)
    error = (
        square
        - 2 * (fitted * cross).sum(axis=2)
        + np.einsum("boi,oij,boj->bo", fitted, gram, fitted, optimize=True)
    )
    spread = square - 2 * mean * total + mean**2 * size
    is_alone = (others.sum(axis=2) == 0).any(axis=1)
    unexplained, whole = (counts * error).sum(axis=1), (counts * spread).sum(axis=1)
    return np.where((whole > 0) & ~is_alone, 1 - unexplained / np.where(whole > 0, whole, 1.0), np.nan)


def _estimate(values: np.ndarray, rows: _Rows) -> Estimate | None:
    """The first value is of the data, the others of draws."""
    if not np.isfinite(values[0]):
        return None
    low, high = np.nanquantile(values[1:], [1 - CONFIDENCE, CONFIDENCE]) if len(values) > 1 else values[:1]
    return Estimate(float(values[0]), float(low), float(high), rows.losses.size, rows.seeds)

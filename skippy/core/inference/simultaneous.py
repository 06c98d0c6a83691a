"""Several comparisons at once: bounds that hold together, problems and seeds both being samples.

Each point of a grid has a table of differences d_{si}, seeds × problems. Its mean has the variance of crossed
random effects, `Var(d̄) = (MS_P + max(0, MS_S − MS_PS)) / (n S)`. Points share problems and seeds, so their errors
go together: how far the largest of all t statistics strays is found by drawing problems and seeds again, the same
draw for every point.

Source: Owen 2007 (the pigeonhole bootstrap, problems and seeds drawn independently), §3; Romano and Wolf 2005,
§3 (the maximum of studentised statistics). Departure: studentised with the crossed error, but by no less than a
quarter of the data's own, since with few seeds many draws repeat one seed or one problem and have next to no spread; a
draw in which one seed is left counts by problems alone; the critical value is at least that of a single point.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy import stats

from skippy.core.inference.paired import Verdict, bounds_without_spread, verdict_of
from skippy.errors import ReportError

RESAMPLES = 2000
CHUNK = 250
"""Draws worked on at once: a few tens of megabytes."""
LEAST_ERROR = 0.25
"""Share of the data's own error below which a draw's error is not believed."""


@dataclass(frozen=True)
class Bound:
    """The mean of one point of a grid."""

    mean: float  # of the differences
    lower: float  # bound that holds for all points together, one-sided
    upper: float  # the same from above
    standard_error: float  # by crossed random effects
    seeds: int  # that the point has
    problems: int  # that the point has

    def verdict(self, margin: float | int) -> Verdict:
        """The words for the interval."""
        return verdict_of(self.lower, self.upper, margin)

    def is_loss(self, margin: float | int) -> bool:
        """δ is lost as MATH §8 says: lower bound below −δ and upper bound below 0."""
        return self.lower < -margin and self.upper < 0

    def is_large_loss(self, margin: float | int) -> bool:
        """A loss of δ was seen as MATH §9 asks of a control: the upper bound is below −δ."""
        return self.upper < -margin


@dataclass(frozen=True, eq=False)
class Moments:
    """Means and errors of every point, in one draw or many."""

    mean: Float[np.ndarray, "draws points"]  # by draw and point
    error: Float[np.ndarray, "draws points"]  # standard error
    df: Float[np.ndarray, "draws points"]  # Satterthwaite's degrees of freedom


def crossed_moments(
    tables: Float[np.ndarray, "points seeds problems"],
    seed_counts: Float[np.ndarray, "draws seeds"],
    problem_counts: Float[np.ndarray, "draws problems"],
) -> Moments:
    """Mean, crossed error and degrees of freedom where seeds and problems count as often as drawn.

    Args:
        tables: differences; a seed that a point lacks is a row of NaN.
        seed_counts: how often each seed was drawn; ones for the data themselves.
        problem_counts: the same of problems, with equal sums.

    Source: Searle, Casella, McCulloch 1992, ch. 4; Satterthwaite 1946, eq. 17. Departure: a negative seed
    component counts as zero.
    """
    is_there = np.isfinite(tables).all(axis=2)
    values = np.where(is_there[..., None], tables, 0.0)
    n = problem_counts.sum(axis=1)[:, None]
    weights = seed_counts[:, None, :] * is_there
    seeds = weights.sum(axis=2)
    count = np.maximum(seeds, 1.0)
    by_seed = np.einsum("bp,gsp->bgs", problem_counts, values, optimize=True) / n[..., None]
    squares = np.einsum("bp,gsp->bgs", problem_counts, values**2, optimize=True)
    mean = (weights * by_seed).sum(axis=2) / count
    by_problem = np.einsum("bgs,gsp->bgp", weights, values, optimize=True) / count[..., None]
    of_problem = count * (problem_counts[:, None] * (by_problem - mean[..., None]) ** 2).sum(axis=2)
    of_seed = n * (weights * (by_seed - mean[..., None]) ** 2).sum(axis=2)
    total = (weights * squares).sum(axis=2) - count * n * mean**2
    df_seed, df_problem = np.maximum(count - 1, 1.0), n - 1
    ms_problem, ms_seed = of_problem / df_problem, of_seed / df_seed
    ms_both = np.maximum(total - of_problem - of_seed, 0.0) / (df_seed * df_problem)
    is_apart = (seeds > 1) & (ms_seed > ms_both)
    variance = ms_problem + np.where(is_apart, ms_seed - ms_both, 0.0)
    spread = ms_problem**2 / df_problem
    spread = spread + np.where(is_apart, ms_seed**2 / df_seed + ms_both**2 / (df_seed * df_problem), 0.0)
    df = np.where(spread > 0, variance**2 / np.where(spread > 0, spread, 1.0), df_problem)
    error = np.sqrt(variance / (count * n))
    is_noise = error <= 1e-12 * np.maximum(1.0, np.abs(values).max(initial=0.0))
    return Moments(mean, np.where(is_noise, 0.0, error), df)


def simultaneous_bounds(
    tables: Float[np.ndarray, "points seeds problems"],
    generator: np.random.Generator,
    *,
    confidence: float = 0.95,
    resamples: int = RESAMPLES,
) -> list[Bound]:
    """Lower bounds that hold for all points together, and upper bounds that do, each at `confidence`.

    Args:
        tables: differences of every point; a seed that a point lacks is a row of NaN.
        confidence: of each family of one-sided bounds.

    Raises:
        ReportError: no point, a point without any seed, or fewer than two problems.
    """
    points, seeds, problems = tables.shape
    is_there = np.isfinite(tables).all(axis=2)
    if not points or problems < 2 or not is_there.any(axis=1).all():
        raise ReportError(
            "Bounds need at least one seed and two problems at every point.",
            where="tables",
            expected="points × seeds × problems, some seed finite at every point",
            found=f"shape {tables.shape}, seeds by point {is_there.sum(axis=1).tolist()}",
            next_step="leave out the points that no training reached",
        )
    found = crossed_moments(tables, np.ones((1, seeds)), np.ones((1, problems)))
    mean, error = found.mean[0], found.error[0]
    highest, lowest = _extremes(tables, mean, error, generator, resamples)
    single = float(stats.t.ppf(confidence, found.df[0]).max())
    below = max(single, float(np.quantile(highest, confidence)))
    above = max(single, float(-np.quantile(lowest, 1 - confidence)))
    counts = is_there.sum(axis=1)
    bounds = []
    for m, e, s in zip(mean.tolist(), error.tolist(), counts.tolist(), strict=True):
        lower, upper = m - below * e, m + above * e
        if e == 0.0:
            lower, upper = bounds_without_spread(m, problems, confidence)
        bounds.append(Bound(m, lower, upper, e, s, problems))
    return bounds


def draw_counts(size: int, draws: int, generator: np.random.Generator) -> Float[np.ndarray, "draws size"]:
    """How often each of `size` members is drawn in each of `draws` draws of `size`."""
    return generator.multinomial(size, np.full(size, 1 / size), size=draws).astype(float)


def _extremes(
    tables: np.ndarray, mean: np.ndarray, error: np.ndarray, generator: np.random.Generator, resamples: int
) -> tuple[np.ndarray, np.ndarray]:
    """The largest and the smallest t of all points in every draw; a point without any spread has none."""
    highest, lowest = [], []
    for start in range(0, resamples, CHUNK):
        draws = min(CHUNK, resamples - start)
        seeds = draw_counts(tables.shape[1], draws, generator)
        problems = draw_counts(tables.shape[2], draws, generator)
        moved = crossed_moments(tables, seeds, problems)
        shift = moved.mean - mean
        is_empty = (seeds[:, None, :] * np.isfinite(tables).all(axis=2)).sum(axis=2) == 0
        against = np.maximum(moved.error, LEAST_ERROR * error)
        t = np.where(against > 0, shift / np.where(against > 0, against, 1.0), 0.0)
        t = np.where(is_empty | (np.abs(shift) < 1e-12), 0.0, t)
        highest.append(t.max(axis=1))
        lowest.append(t.min(axis=1))
    return np.concatenate(highest), np.concatenate(lowest)

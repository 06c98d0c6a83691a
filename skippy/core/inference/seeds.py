"""Non-inferiority over several training seeds: problems and seeds are both samples."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from skippy.core.inference.paired import ROUNDING, NonInferiority, non_inferiority, verdict_of
from skippy.errors import ReportError


@dataclass(frozen=True)
class SeededNonInferiority(NonInferiority):
    """The same over several training seeds, which are a random sample like the problems."""

    seed_means: tuple[float, ...] = ()  # mean difference of each training seed
    problem_standard_error: float = math.nan  # uncertainty for these very seeds and other problems
    seed_standard_error: float = math.nan  # spread of the seed means, over √seeds; NaN for one seed


def non_inferiority_over_seeds(
    differences: ArrayLike, margin: float | int, confidence: float = 0.95
) -> SeededNonInferiority:
    """Non-inferiority where both problems and training seeds are samples: d_{si}, seeds × problems.

    Crossed random effects. With mean squares of problems, seeds and their interaction,
    `Var(d̄) = (MS_P + max(0, MS_S − MS_PS)) / (n S)`, and Satterthwaite's degrees of freedom. One seed gives
    exactly `non_inferiority`, and then says nothing about other seeds.

    Raises:
        ReportError: not a seeds × problems table, or as `non_inferiority`.

    Source: Searle, Casella, McCulloch 1992, ch. 4; Satterthwaite 1946, eq. 17. Departure: a negative seed
    component counts as zero, which widens the interval.
    """
    table = np.asarray(differences, dtype=np.float64)
    if table.ndim != 2 or table.shape[0] < 1:
        raise ReportError(
            "Differences over seeds must be a table.",
            where="differences",
            expected="seeds × problems",
            found=f"shape {table.shape}",
            next_step="stack one row of per-problem differences per training seed",
        )
    by_problem = non_inferiority(table.mean(axis=0), margin, confidence)
    seeds, n = table.shape
    seed_means = table.mean(axis=1)
    if seeds == 1:
        return SeededNonInferiority(
            **vars(by_problem),
            seed_means=tuple(seed_means.tolist()),
            problem_standard_error=by_problem.standard_error,
        )
    mean = float(table.mean())
    residual = table - table.mean(axis=0) - seed_means[:, None] + mean
    interaction_df = (n - 1) * (seeds - 1)
    ms_problem = seeds * float(table.mean(axis=0).var(ddof=1))
    ms_seed = n * float(seed_means.var(ddof=1))
    ms_interaction = float((residual**2).sum()) / interaction_df
    terms = [(ms_problem, n - 1)]
    if ms_seed > ms_interaction:
        terms += [(ms_seed, seeds - 1), (-ms_interaction, interaction_df)]
    total = sum(square for square, _ in terms)
    error = math.sqrt(total / (n * seeds))
    spread = sum(square**2 / df for square, df in terms)
    df = total**2 / spread if spread > 0 else float(n - 1)
    reach = float(stats.t.ppf(confidence, df)) * error
    interval = (mean - reach, mean + reach)
    return SeededNonInferiority(
        mean,
        interval,
        error,
        df,
        verdict_of(*interval, margin),
        float(margin),
        n,
        confidence,
        seed_means=tuple(seed_means.tolist()),
        problem_standard_error=by_problem.standard_error,
        seed_standard_error=float(seed_means.std(ddof=1)) / math.sqrt(seeds),
    )


def paired_t_p_over_seeds(differences: ArrayLike) -> float:
    """Two-sided p that the mean difference is zero, problems and training seeds both being samples.

    Args:
        differences: d_{si}, seeds × problems; one row gives the paired t test.

    Source: Student 1908 and `non_inferiority_over_seeds`. Departure: without any spread, 1 for a mean of zero
    and 0 otherwise.
    """
    test = non_inferiority_over_seeds(differences, 0.0)
    if test.standard_error == 0.0:
        return 1.0 if abs(test.mean) <= ROUNDING else 0.0
    return float(2 * stats.t.sf(abs(test.mean) / test.standard_error, test.df))

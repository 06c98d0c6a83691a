"""Paired tests on per-problem differences: is the mathematics preserved, are two personalities equal.

Problem i is answered k times, `p̂_i = c_i / k`, and arms are compared problem by problem:
`d_i = p̂_i(variant) − p̂_i(base)`, `SE = sd(d)/√n`, `df = n − 1`. Problems differ far more among themselves
than arms do, so unpaired errors are too wide, and errors within problems alone are too narrow; the tests and
`benchmarks/bench_statistics.py` show both failing. All quantities are fractions of one unless said otherwise.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from skippy.errors import ReportError

Verdict = Literal["preserved", "degraded", "preserved, measurably lower", "inconclusive"]

ROUNDING = 1e-12
"""Relative slack that keeps a bound lying exactly on −δ or 0 from being decided by the last bit."""


@dataclass(frozen=True)
class NonInferiority:
    """Outcome of a paired non-inferiority test."""

    mean: float  # mean difference, variant minus base
    # lower and upper bound, each one-sided at `confidence` (together the 90 % interval for 0.95)
    interval: tuple[float, float]
    standard_error: float  # of the mean
    df: float  # degrees of freedom of the t quantile
    verdict: Verdict  # see `verdict_of`
    margin: float  # δ, in the unit of the differences
    n: int  # number of problems
    confidence: float = 0.95  # of each bound


@dataclass(frozen=True)
class BootstrapT:
    """Studentised bootstrap of the mean difference: the check beside the t interval."""

    mean: float
    interval: tuple[float, float]
    verdict: Verdict
    resamples: int
    seed: int


@dataclass(frozen=True)
class Equivalence:
    """Outcome of two one-sided paired tests."""

    mean: float  # mean difference, first minus second
    interval: tuple[float, float]  # the 1 − 2α interval; equal iff it lies inside ±margin
    p_value: float  # the larger of the two one-sided p values
    is_equal: bool  # equivalence shown
    is_different: bool  # the 1 − 2α interval excludes zero; both may hold, or neither
    margin: float  # half-width of the region of equivalence
    n: int  # number of pairs


def verdict_of(lower: float, upper: float, margin: float | int) -> Verdict:
    """The words for a confidence interval.

    `preserved` iff lower > −δ; `degraded` iff upper < 0; both: `preserved, measurably lower`; neither:
    `inconclusive`. A failed non-inferiority test is not damage.

    Source: Piaggio et al. 2012 (CONSORT non-inferiority extension), figure 1. Departure: the words.
    """
    slack = ROUNDING * max(1.0, margin)
    is_preserved, is_lower = lower > -margin + slack, upper < -slack
    if is_preserved and is_lower:
        return "preserved, measurably lower"
    if is_preserved:
        return "preserved"
    return "degraded" if is_lower else "inconclusive"


def non_inferiority(differences: ArrayLike, margin: float | int, confidence: float = 0.95) -> NonInferiority:
    """Paired t test of non-inferiority: is the mean of `differences` above −`margin`?

    Bounds are `d̄ ∓ t_{confidence, n−1} · sd(d)/√n`. Differences that are all equal have SE = 0 and both
    bounds at the mean.

    Args:
        differences: d_i = p̂_i(variant) − p̂_i(base), one per problem.
        margin: δ ≥ 0, same unit as the differences, fixed before the run.

    Raises:
        ReportError: fewer than two differences, a value that is not finite, or an unusable margin.

    Source: Student 1908; non-inferiority reading: Wellek 2010, §5.3. Departure: none.
    """
    values = _vector(differences, "differences")
    _check_settings(margin, confidence)
    n = values.size
    mean = float(values.mean())
    error = _standard_error(values)
    reach = t_quantile(confidence, float(n - 1)) * error
    interval = (mean - reach, mean + reach)
    return NonInferiority(
        mean, interval, error, float(n - 1), verdict_of(*interval, margin), float(margin), n, confidence
    )


def bounds_without_spread(mean: float, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """One-sided bounds when all n differences were equal, for differences that lie in [−1, 1].

    A standard error of zero says only that unlike problems are rare: with `confidence` they are at most a
    share `q = 1 − (1 − confidence)^{1/n}`, and each is at worst −1, at best +1: `(1 − q)·mean ∓ q`.

    Source: Clopper and Pearson 1934, no events in n trials. Departure: applied to unlike differences.
    """
    unlike = 1.0 - (1.0 - confidence) ** (1.0 / n)
    return (1.0 - unlike) * mean - unlike, (1.0 - unlike) * mean + unlike


def bootstrap_t(
    differences: ArrayLike, margin: float | int, *, seed: int, confidence: float = 0.95, resamples: int = 4000
) -> BootstrapT:
    """Bootstrap-t bounds of the mean: quantiles of `(d̄* − d̄)/SE*` over resampled problems.

    A resample without spread counts as infinitely far out on its side, which can only widen the interval.

    Source: Efron and Tibshirani 1993, §12.5, eq. 12.20. Departure: the treatment of SE* = 0.
    """
    values = _vector(differences, "differences")
    _check_settings(margin, confidence)
    mean, error = float(values.mean()), _standard_error(values)
    if error == 0.0:
        return BootstrapT(mean, (mean, mean), verdict_of(mean, mean, margin), resamples, seed)
    generator = np.random.default_rng(seed)
    drawn = values[generator.integers(0, values.size, size=(resamples, values.size))]
    shifts = drawn.mean(axis=1) - mean
    errors = drawn.std(axis=1, ddof=1) / math.sqrt(values.size)
    is_flat = errors <= ROUNDING * error
    pivots = shifts / np.where(is_flat, 1.0, errors)
    pivots[is_flat & (shifts < 0)], pivots[is_flat & (shifts > 0)] = -np.inf, np.inf
    low, high = np.quantile(pivots, [1 - confidence, confidence], method="inverted_cdf")
    interval = (mean - float(high) * error, mean - float(low) * error)
    return BootstrapT(mean, interval, verdict_of(*interval, margin), resamples, seed)


def tost_paired(
    first: ArrayLike, second: ArrayLike, margin: float | int, confidence: float = 0.95
) -> Equivalence:
    """Two one-sided paired t tests: is the mean of `first − second` within ±`margin`?

    "Not shown different" is not "equal": equality has to be shown, by the 1 − 2α interval inside ±margin.

    Args:
        margin: for personality 0.25 × `pooled_sd(first, second)`.
        confidence: 1 − α of each one-sided test.

    Raises:
        ReportError: different lengths, or as `non_inferiority`.

    Source: Schuirmann 1987. Departure: none.
    """
    left, right = _vector(first, "first"), _vector(second, "second")
    if left.size != right.size:
        raise ReportError(
            "Two arms must be scored on the same prompts.",
            where="tost_paired",
            expected=f"{left.size} scores in both",
            found=f"{left.size} and {right.size}",
            next_step="evaluate both arms on the same banal suite",
        )
    test = non_inferiority(left - right, margin, confidence)
    lower, upper = test.interval
    slack = ROUNDING * max(1.0, margin)
    nearest = margin - abs(test.mean)
    if test.standard_error > 0:
        p_value = float(stats.t.sf(nearest / test.standard_error, test.df))
    else:
        p_value = 0.0 if nearest > slack else 1.0
    is_equal = lower > -margin + slack and upper < margin - slack
    if margin == 0.0:
        is_equal = test.standard_error == 0.0 and test.mean == 0.0
    is_different = lower > slack or upper < -slack
    return Equivalence(test.mean, test.interval, p_value, is_equal, is_different, float(margin), test.n)


def pooled_sd(first: ArrayLike, second: ArrayLike) -> float:
    """`√((s₁² + s₂²)/2)`, the SD in which a personality difference is expressed.

    Source: Cohen 1988, eq. 2.3.2, equal sizes. Departure: none.
    """
    left, right = _vector(first, "first"), _vector(second, "second")
    return math.sqrt((float(left.var(ddof=1)) + float(right.var(ddof=1))) / 2)


def holm(p_values: Sequence[float | int]) -> tuple[float, ...]:
    """Holm-adjusted p values in the order given: strong control of the family-wise error.

    Source: Holm 1979. Departure: none.
    """
    order = sorted(range(len(p_values)), key=lambda index: p_values[index])
    adjusted = [0.0] * len(p_values)
    running = 0.0
    for position, index in enumerate(order):
        running = max(running, min(1.0, (len(p_values) - position) * p_values[index]))
        adjusted[index] = running
    return tuple(adjusted)


def exact_mcnemar(lost: int, gained: int) -> float:
    """Two-sided p of McNemar's exact test, for k = 1 only: discordant problems are fair coin tosses.

    Args:
        lost: problems that only the base solves.
        gained: problems that only the variant solves.

    Source: McNemar 1947, with the binomial in place of χ². Departure: none.
    """
    if lost + gained == 0:
        return 1.0
    return float(stats.binomtest(lost, lost + gained, 0.5).pvalue)


@functools.cache
def t_quantile(confidence: float, df: float) -> float:
    """Quantile of Student's t; remembered, since simulations ask for the same one thousands of times."""
    return float(stats.t.ppf(confidence, df))


def _vector(values: ArrayLike, name: str) -> np.ndarray:
    vector = np.asarray(values, dtype=np.float64)
    if vector.ndim != 1 or vector.size < 2 or not np.isfinite(vector).all():
        raise ReportError(
            "A paired test needs at least two finite values.",
            where=name,
            expected="one finite number per problem, two problems or more",
            found=f"shape {vector.shape}, {int((~np.isfinite(vector)).sum())} not finite",
            next_step="evaluate more problems, or look for samples that could not be scored",
        )
    return vector


def _standard_error(values: np.ndarray) -> float:
    """sd/√n, exactly zero where all values are equal but for rounding."""
    deviation = float(values.std(ddof=1))
    if deviation <= ROUNDING * max(1.0, float(np.abs(values).max())):
        return 0.0
    return deviation / math.sqrt(values.size)


def _check_settings(margin: float | int, confidence: float) -> None:
    if not (math.isfinite(margin) and margin >= 0 and 0.5 < confidence < 1):
        raise ReportError(
            "A test cannot run with these settings.",
            where="margin, confidence",
            expected="a finite margin ≥ 0 and a confidence between 0.5 and 1",
            found=f"margin {margin}, confidence {confidence}",
            next_step="pass for example margin=0.05 (5 points) and confidence=0.95",
        )

"""What an evaluation of n problems × k samples can show, known before anything is generated.

With ω² the variance of true differences between problems, and σ_A², σ_B² the mean variance of one sample of
each arm, a per-problem difference has variance `ω² + (σ_A² + σ_B²)/k`. All figures are fractions of one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import optimize, stats

from skippy.errors import ReportError


@dataclass(frozen=True)
class Spread:
    """Assumptions of a plan, or their estimate from counts."""

    effect_sd: float = 0.07  # ω, SD over problems of the true difference between arms
    base_variance: float = 0.12  # σ_A², mean over problems of p(1 − p) for the base
    variant_variance: float = 0.12  # σ_B², the same for the variant

    def difference_sd(self, k: int) -> float:
        """`√(ω² + (σ_A² + σ_B²)/k)`."""
        return math.sqrt(self.effect_sd**2 + (self.base_variance + self.variant_variance) / k)


PLANNING = Spread()
"""Of the order seen on AIME-like sets; with it 30 × 16 lets an unharmed model pass 61 % of the time at δ = 5
points (normal quantiles), and 60 × 16 more than 80 %."""


def power_non_inferiority(
    n: int,
    k: int,
    margin: float | int,
    *,
    true_difference: float | int = 0.0,
    spread: Spread = PLANNING,
    confidence: float = 0.95,
) -> float:
    """Probability of `preserved` for n problems × k samples when the true difference is `true_difference`.

    `P(T > t_{confidence, n−1})` with T noncentral t, noncentrality `(δ + true_difference)/SE`. At
    `true_difference = −margin` it is the size of the test, 1 − confidence.

    Source: Julious 2004, eq. 21 (paired form). Departure: none.
    """
    _check_plan(n, k)
    error = spread.difference_sd(k) / math.sqrt(n)
    if error == 0.0:
        return 1.0 if true_difference > -margin else 0.0
    threshold = float(stats.t.ppf(confidence, n - 1))
    return float(stats.nct.sf(threshold, n - 1, (margin + true_difference) / error))


def achievable_margin(
    n: int, k: int, *, power: float = 0.8, spread: Spread = PLANNING, confidence: float = 0.95
) -> float:
    """Smallest δ at which an unharmed model is found `preserved` with probability `power`.

    Source: as `power_non_inferiority`, solved for δ. Departure: none.
    """
    _check_plan(n, k)
    threshold = float(stats.t.ppf(confidence, n - 1))
    needed = optimize.brentq(lambda shift: stats.nct.sf(threshold, n - 1, shift) - power, 0.0, 8 * threshold)
    return float(needed) * spread.difference_sd(k) / math.sqrt(n)


def minimum_detectable_effect(
    n: int, k: int, *, power: float = 0.8, spread: Spread = PLANNING, confidence: float = 0.95
) -> float:
    """Smallest true loss that is found `degraded` with probability `power`, as a positive number.

    Both questions are one-sided at the same level and differ by a shift of δ, so this equals
    `achievable_margin`: what is too little to be proven absent is too little to be seen.
    """
    return achievable_margin(n, k, power=power, spread=spread, confidence=confidence)


def problems_needed(
    k: int, margin: float | int, *, power: float = 0.8, spread: Spread = PLANNING, confidence: float = 0.95
) -> int:
    """Smallest n with `power_non_inferiority(n, k, margin) ≥ power`.

    Starts from `n = (z_α + z_β)² (ω² + (σ_A² + σ_B²)/k) / δ²` and goes up until the t form agrees.

    Source: MATH.md §7; Julious 2004, eq. 20. Departure: the last few problems, for t instead of z.
    """
    if not margin > 0:
        raise ReportError("A plan needs a positive margin.", where="margin", found=str(margin))
    quantiles = float(stats.norm.ppf(confidence) + stats.norm.ppf(power))
    n = max(2, math.ceil((quantiles * spread.difference_sd(k) / margin) ** 2))
    while power_non_inferiority(n, k, margin, spread=spread, confidence=confidence) < power:
        n += 1
    return n


def estimate_spread(base: Sequence[int], variant: Sequence[int], k: int) -> Spread:
    """ω, σ_A², σ_B² from counts of correct samples; ω² is what is left of var(d) after sampling noise.

    Source: one-way variance components, Searle et al. 1992, §3.5. Departure: negative ω² becomes 0.
    """
    _check_plan(len(base), k)
    first, second = np.asarray(base, np.float64) / k, np.asarray(variant, np.float64) / k
    correction = k / (k - 1) if k > 1 else 1.0
    within = [float((p * (1 - p)).mean()) * correction for p in (first, second)]
    left = float((second - first).var(ddof=1)) - (sum(within) / k if k > 1 else 0.0)
    return Spread(math.sqrt(max(0.0, left)), *within)


def _check_plan(n: int, k: int) -> None:
    if n < 2 or k < 1:
        raise ReportError(
            "A paired comparison needs two problems or more and a sample of each.",
            where="n, k",
            expected="n ≥ 2 and k ≥ 1",
            found=f"n = {n}, k = {k}",
            next_step="raise the number of problems or samples",
        )

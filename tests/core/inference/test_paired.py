"""Paired tests on differences: their words, their edges, and the intervals and p-values of others."""

import math
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from skippy.core.inference.paired import (
    bootstrap_t,
    bounds_without_spread,
    exact_mcnemar,
    holm,
    non_inferiority,
    pooled_sd,
    tost_paired,
    verdict_of,
)
from skippy.core.inference.seeds import paired_t_p_over_seeds
from skippy.errors import ReportError
from tests.core.inference.paired_trials import MARGIN


def around(mean: float, half_width: float, n: int = 60) -> np.ndarray:
    """n differences with that mean and exactly that reach of the one-sided 95 % bounds."""
    shape = np.where(np.arange(n) % 2, 1.0, -1.0)
    wanted = half_width * math.sqrt(n) / stats.t.ppf(0.95, n - 1)
    return mean + shape * wanted / shape.std(ddof=1)


@pytest.mark.parametrize(
    ("mean", "half_width", "verdict"),
    [
        (0.00, 0.04, "preserved"),
        (0.03, 0.04, "preserved"),
        (-0.03, 0.01, "preserved, measurably lower"),
        (-0.09, 0.03, "degraded"),
        (-0.04, 0.03, "degraded"),
        (-0.02, 0.06, "inconclusive"),
        (0.00, 0.06, "inconclusive"),
    ],
)
def test_words(mean: float, half_width: float, verdict: str) -> None:
    found = non_inferiority(around(mean, half_width), MARGIN)
    assert found.verdict == verdict
    assert found.interval == pytest.approx((mean - half_width, mean + half_width))


def test_a_loss_of_exactly_the_margin_is_not_preserved() -> None:
    """Bounds lying on −δ or on 0 are decided by the rule, not by the last bit, in any unit."""
    assert verdict_of(-MARGIN, 0.01, MARGIN) == "inconclusive"
    assert verdict_of(-0.01, 0.0, MARGIN) == "preserved"
    for margin in (MARGIN, 100 * MARGIN, 1e6 * MARGIN):
        assert verdict_of(math.nextafter(-margin, 0), 0.01, margin) == "inconclusive"
    assert verdict_of(-MARGIN + 1e-9, 0.01, MARGIN) == "preserved"


def test_the_unit_is_the_callers() -> None:
    """Points and fractions give the same words."""
    differences = around(-0.03, 0.01)
    assert non_inferiority(differences * 100, 5.0).verdict == non_inferiority(differences, 0.05).verdict


@pytest.mark.parametrize("confidence", [0.9, 0.95, 0.99])
def test_against_scipy(confidence: float) -> None:
    differences = np.random.default_rng(3).normal(-0.01, 0.1, 40)
    found = non_inferiority(differences, MARGIN, confidence)
    reference = stats.ttest_1samp(differences, 0.0)
    assert found.interval == pytest.approx(tuple(reference.confidence_interval(2 * confidence - 1)))
    assert (found.df, found.margin, found.n, found.confidence) == (39, MARGIN, 40, confidence)
    assert paired_t_p_over_seeds(differences[None]) == pytest.approx(reference.pvalue)


@pytest.mark.parametrize(
    ("value", "verdict"), [(0.0, "preserved"), (0.1, "preserved"), (-0.05, "degraded"), (-0.1, "degraded")]
)
def test_no_spread(value: float, verdict: str) -> None:
    """Differences that are all equal: SE is exactly zero, also where the mean rounds."""
    found = non_inferiority([value] * 61, MARGIN)
    assert found.standard_error == 0.0
    assert found.verdict == verdict
    check = bootstrap_t([value] * 61, MARGIN, seed=3)
    assert (check.verdict, check.seed) == (verdict, 3)


def test_bounds_without_spread() -> None:
    """The rule of three: n problems without any change leave about 3/n."""
    assert bounds_without_spread(0.0, 60) == pytest.approx((-0.0487, 0.0487), abs=1e-4)
    assert bounds_without_spread(0.0, 300)[1] == pytest.approx(3 / 300, abs=1e-4)
    assert bounds_without_spread(0.0, 1, 0.99) == pytest.approx((-0.99, 0.99))
    assert bounds_without_spread(-1.0, 2)[0] == -1.0
    assert bounds_without_spread(-1.0, 2)[1] > 0


@pytest.mark.parametrize("bad", [[], [0.1], [0.1, math.nan], [0.1, math.inf], [[0.1, 0.2], [0.3, 0.4]]])
def test_refuses_unusable_differences(bad: list) -> None:
    for test in (
        lambda: non_inferiority(bad, MARGIN),
        lambda: bootstrap_t(bad, MARGIN, seed=0),
        lambda: tost_paired(bad, bad, MARGIN),
    ):
        with pytest.raises(ReportError, match="at least two finite values") as caught:
            test()
        assert isinstance(caught.value, ValueError)
        assert caught.value.next_step


@pytest.mark.parametrize(
    ("margin", "confidence"), [(-0.01, 0.95), (math.nan, 0.95), (math.inf, 0.95), (0.05, 0.5), (0.05, 1.0)]
)
def test_refuses_unusable_settings(margin: float, confidence: float) -> None:
    with pytest.raises(ReportError, match="settings"):
        non_inferiority([0.0, 0.1], margin, confidence)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.floats(-1, 1), min_size=2, max_size=40), st.floats(0.001, 0.5), st.floats(0.0, 0.5))
def test_a_wider_margin_never_takes_preserved_away(values: list[float], margin: float, more: float) -> None:
    narrow, wide = non_inferiority(values, margin), non_inferiority(values, margin + more)
    if narrow.verdict.startswith("preserved"):
        assert wide.verdict.startswith("preserved")


# The check beside t


def test_bootstrap_t_agrees_on_normal_data_and_repeats() -> None:
    values = np.random.default_rng(5).normal(0.0, 0.1, 80)
    first, again = bootstrap_t(values, MARGIN, seed=1), bootstrap_t(values, MARGIN, seed=1)
    assert first == again
    assert (first.resamples, first.seed) == (4000, 1)
    assert first.interval == pytest.approx(non_inferiority(values, MARGIN).interval, abs=0.004)
    for other in ({"seed": 2}, {"seed": 1, "resamples": 500}):
        assert bootstrap_t(values, MARGIN, **other).interval != first.interval


@pytest.mark.parametrize("confidence", [0.9, 0.95])
def test_bootstrap_t_against_all_resamples(confidence: float) -> None:
    """Five values have 3125 resamples: their pivots, all written down, have the quantiles that are drawn."""
    values = np.array([-0.2, -0.09, 0.02, 0.05, 0.31])
    drawn = values[np.array(list(product(range(5), repeat=5)))]
    pivots = [
        (row.mean() - values.mean()) / (row.std(ddof=1) / math.sqrt(5))
        if row.std() > 0
        else math.copysign(math.inf, row[0] - values.mean())
        for row in drawn
    ]
    low, high = np.quantile(pivots, [1 - confidence, confidence], method="inverted_cdf")
    error = values.std(ddof=1) / math.sqrt(5)
    found = bootstrap_t(values, MARGIN, seed=0, confidence=confidence, resamples=200_000)
    assert found.interval == pytest.approx(
        (values.mean() - high * error, values.mean() - low * error), rel=0.03
    )


def test_bootstrap_t_sees_the_skew_that_t_ignores() -> None:
    """A few large losses: the lower bound moves further out than the upper one."""
    values = np.where(np.arange(60) % 15 == 0, -0.8, 0.02)
    lower, upper = bootstrap_t(values, MARGIN, seed=0).interval
    mean = values.mean()
    assert mean - lower > 1.2 * (upper - mean)
    low, high = non_inferiority(values, MARGIN).interval
    assert mean - low == pytest.approx(high - mean)


def test_bootstrap_t_with_resamples_that_lose_all_spread() -> None:
    lower, upper = bootstrap_t([0.0, 0.0, 0.5], MARGIN, seed=0).interval
    assert lower < 1 / 6
    assert upper == math.inf


# Equal personality


def test_equal_must_be_shown() -> None:
    generator = np.random.default_rng(0)
    first = generator.normal(2.0, 1.0, 200)
    close, far, noisy = first + generator.normal(0, 0.3, 200), first - 0.6, generator.normal(2.0, 1.0, 200)
    margin = 0.25 * pooled_sd(first, close)
    assert tost_paired(first, close, margin).is_equal
    for pair, difference in (((first, far), 0.6), ((far, first), -0.6)):
        found = tost_paired(*pair, margin)
        assert (found.is_equal, found.is_different) == (False, True)
        assert found.mean == pytest.approx(difference)
    few = tost_paired(first[:8], noisy[:8], margin)
    assert not few.is_equal
    assert not few.is_different, "not shown equal is not shown different"


def test_tost_against_two_t_tests() -> None:
    generator = np.random.default_rng(1)
    first, second = generator.normal(0, 1, 50), generator.normal(0.1, 1, 50)
    found = tost_paired(first, second, 0.5)
    assert (found.mean, found.n) == (pytest.approx(first.mean() - second.mean()), 50)
    low = stats.ttest_1samp(first - second + 0.5, 0, alternative="greater").pvalue
    high = stats.ttest_1samp(first - second - 0.5, 0, alternative="less").pvalue
    assert found.p_value == pytest.approx(max(low, high))
    assert found.is_equal == (found.p_value < 0.05)


@pytest.mark.parametrize(("shift", "is_equal"), [(0.0, True), (0.2, True), (0.3, False), (0.4, False)])
@pytest.mark.parametrize("sign", [1, -1])
def test_tost_without_spread(shift: float, is_equal: bool, sign: int) -> None:
    """A difference of exactly the margin is not equal, however the sums round."""
    scores = np.arange(10.0)
    found = tost_paired(scores + sign * shift, scores, 0.3)
    assert (found.is_equal, found.p_value) == (is_equal, 0.0 if is_equal else 1.0)
    assert found.is_different == (shift != 0), "equal within a margin and different may both hold"


def test_without_a_margin_only_the_same_is_equal() -> None:
    scores = np.arange(10.0)
    assert tost_paired(scores, scores, 0.0).is_equal
    assert not tost_paired(scores + 0.1, scores, 0.0).is_equal
    assert not tost_paired(scores + np.where(scores % 2, 0.1, -0.1), scores, 0.0).is_equal


def test_pooled_sd_by_hand() -> None:
    """Variances 2 and 8."""
    assert pooled_sd([0.0, 2.0], [0.0, 4.0]) == pytest.approx(math.sqrt(5))


def test_tost_needs_the_same_prompts() -> None:
    with pytest.raises(ReportError, match="same prompts"):
        tost_paired([1.0, 2.0], [1.0, 2.0, 3.0], 0.25)


# Several traits, one sample


def test_holm() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx((0.03, 0.06, 0.06))
    assert holm([0.5, 0.9]) == (1.0, 1.0)
    assert holm([]) == ()


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_never_helps_and_keeps_order(p_values: list[float]) -> None:
    adjusted = holm(p_values)
    assert all(after >= before and after <= 1 for before, after in zip(p_values, adjusted, strict=True))
    for (p, a), (q, b) in zip(*[list(zip(p_values, adjusted, strict=True))] * 2, strict=True):
        assert (p <= q) == (a <= b)


def test_exact_mcnemar() -> None:
    assert exact_mcnemar(0, 0) == 1.0
    assert exact_mcnemar(5, 1) == pytest.approx(0.21875)
    assert exact_mcnemar(10, 0) == pytest.approx(2 / 1024)

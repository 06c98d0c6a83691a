"""Paired tests: their words, edges, size and power, and the wrong errors that fail the same check."""

from __future__ import annotations

import math
from itertools import combinations, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from skippy.core.power import (
    PLANNING,
    Spread,
    achievable_margin,
    estimate_spread,
    minimum_detectable_effect,
    power_non_inferiority,
    problems_needed,
)
from skippy.core.seeds import non_inferiority_over_seeds, paired_t_p_over_seeds
from skippy.core.simulation import Population, draw_shares
from skippy.core.statistics import (
    avg_at_k,
    bootstrap_t,
    bounds_without_spread,
    exact_mcnemar,
    holm,
    krippendorff_alpha,
    maj_at_k,
    non_inferiority,
    pass_at_k,
    pooled_sd,
    tost_paired,
    verdict_of,
)
from skippy.errors import ReportError

MARGIN = 0.05


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


# Size and power, at 60 problems × 16 samples and δ = 5 points


def preserved_rate(difference: float, population: Population, decide, trials: int = 1200) -> float:
    shift, generator = population.shift_for(difference), np.random.default_rng(1)
    count = 0
    for _ in range(trials):
        base, variant = draw_shares(60, 16, shift, population, generator)
        count += decide(base, variant[0])
    return count / trials


def paired(base: np.ndarray, variant: np.ndarray) -> bool:
    return non_inferiority(variant - base, MARGIN).verdict.startswith("preserved")


def unpaired(base: np.ndarray, variant: np.ndarray) -> bool:
    """The error of two independent groups of problems."""
    error = math.sqrt(base.var(ddof=1) / base.size + variant.var(ddof=1) / variant.size)
    return bool((variant - base).mean() - 1.66 * error > -MARGIN)


def within_problems(base: np.ndarray, variant: np.ndarray) -> bool:
    """The error of sampling answers alone, as if these were all problems there are."""
    error = math.sqrt((base * (1 - base) + variant * (1 - variant)).sum() / 15) / base.size
    return bool((variant - base).mean() - 1.645 * error > -MARGIN)


def test_size_and_power() -> None:
    """True loss exactly δ: "preserved" at most 7 % of the time. No loss: at least 80 %."""
    assert preserved_rate(-MARGIN, Population(), paired) <= 0.07
    assert preserved_rate(0.0, Population(), paired) >= 0.80


def test_unpaired_errors_fail_the_same_check() -> None:
    """The twin: problems differ so much that two-group errors never find an unharmed model preserved."""
    assert preserved_rate(0.0, Population(), unpaired, trials=400) < 0.10


def test_errors_within_problems_fail_the_same_check() -> None:
    """The other twin: where effects differ between problems, a true loss of δ passes twice as often."""
    uneven = Population(effect_logits=1.0)
    assert preserved_rate(-MARGIN, uneven, paired, trials=600) <= 0.07
    assert preserved_rate(-MARGIN, uneven, within_problems, trials=600) > 0.10


@pytest.mark.parametrize("population", [Population(), Population(0.5, 1.5, 0.6, seed_logits=0.8)])
@pytest.mark.parametrize("difference", [-MARGIN, 0.03])
def test_the_simulated_difference_is_the_one_asked(population: Population, difference: float) -> None:
    """On average over problems and seeds, whatever the two vary by."""
    shift, generator = population.shift_for(difference), np.random.default_rng(0)
    base, variant = draw_shares(1000, 16, shift, population, generator, seeds=600)
    drawn = generator.beta(population.alpha, population.beta, 50_000).mean()
    assert float(base.mean()) == pytest.approx(drawn, abs=0.03)
    assert float((variant - base).mean()) == pytest.approx(difference, abs=0.012)


def test_the_simulated_effect_of_a_problem_is_that_of_every_seed() -> None:
    """Without an effect of seeds, many samples of two seeds agree problem by problem."""
    generator = np.random.default_rng(0)
    _, variant = draw_shares(200, 10**6, 0.0, Population(effect_logits=1.0), generator, seeds=2)
    assert np.abs(variant[0] - variant[1]).max() < 0.004


# Several training seeds


def test_one_seed_is_the_plain_test() -> None:
    row = np.random.default_rng(0).normal(-0.02, 0.1, 50)
    over, plain = non_inferiority_over_seeds(row[None], MARGIN), non_inferiority(row, MARGIN)
    assert (over.mean, over.interval, over.verdict) == (plain.mean, plain.interval, plain.verdict)
    assert math.isnan(over.seed_standard_error)


def test_seeds_that_disagree_widen_the_interval() -> None:
    noise = np.random.default_rng(0).normal(0, 0.1, (3, 60))
    alike = non_inferiority_over_seeds(noise, MARGIN)
    apart = non_inferiority_over_seeds(noise + np.array([[-0.06], [0.0], [0.06]]), MARGIN)
    assert apart.standard_error > 2 * alike.standard_error
    assert apart.df < 5 < alike.df
    assert apart.seed_standard_error == pytest.approx(0.0346, abs=0.01)


@pytest.mark.parametrize("effect", [0.0, 0.06])
def test_seeds_against_the_components_of_variance(effect: float) -> None:
    """The same interval from sums of squares written out cell by cell."""
    seeds, n, confidence = 3, 20, 0.9
    table = np.random.default_rng(1).normal(0, 0.1, (seeds, n)) + effect * np.arange(seeds)[:, None]
    mean, rows, columns = table.mean(), table.mean(axis=1), table.mean(axis=0)
    squares = {
        "problem": (seeds * ((columns - mean) ** 2).sum(), n - 1),
        "seed": (n * ((rows - mean) ** 2).sum(), seeds - 1),
        "both": (
            sum((table[s, i] - rows[s] - columns[i] + mean) ** 2 for s in range(seeds) for i in range(n)),
            (seeds - 1) * (n - 1),
        ),
    }
    ms = {name: total / df for name, (total, df) in squares.items()}
    df = {name: df for name, (_, df) in squares.items()}
    parts = {"problem": ms["problem"]}
    if effect:
        parts |= {"seed": ms["seed"], "both": -ms["both"]}
    assert (ms["seed"] > ms["both"]) == bool(effect)
    variance = sum(parts.values())
    freedom = variance**2 / sum(part**2 / df[name] for name, part in parts.items())
    found = non_inferiority_over_seeds(table, MARGIN, confidence)
    error = math.sqrt(variance / (n * seeds))
    reach = stats.t.ppf(confidence, freedom) * error
    assert (found.standard_error, found.df) == pytest.approx((error, freedom))
    assert found.interval == pytest.approx((mean - reach, mean + reach))
    assert found.verdict == verdict_of(*found.interval, MARGIN)
    assert found.seed_means == pytest.approx(rows)
    assert found.problem_standard_error == pytest.approx(columns.std(ddof=1) / math.sqrt(n))
    assert found.seed_standard_error == pytest.approx(rows.std(ddof=1) / math.sqrt(seeds))
    assert (found.margin, found.n, found.confidence) == (MARGIN, n, confidence)


def test_size_over_seeds() -> None:
    """Seeds vary and lose δ on average; treating three of them as all there are passes far too often."""
    population = Population(seed_logits=0.25)
    shift, generator = population.shift_for(-MARGIN), np.random.default_rng(2)
    trials, crossed, problems_only = 500, 0, 0
    for _ in range(trials):
        base, variant = draw_shares(60, 16, shift, population, generator, seeds=3)
        table = variant - base
        crossed += non_inferiority_over_seeds(table, MARGIN).verdict.startswith("preserved")
        problems_only += non_inferiority(table.mean(axis=0), MARGIN).verdict.startswith("preserved")
    assert crossed / trials <= 0.085
    assert problems_only / trials > 0.12


def test_seeds_without_any_spread() -> None:
    found = non_inferiority_over_seeds(np.zeros((3, 20)), MARGIN)
    assert (found.verdict, found.standard_error) == ("preserved", 0.0)
    assert paired_t_p_over_seeds(np.zeros((3, 20))) == 1.0
    assert paired_t_p_over_seeds(np.full((3, 20), 0.1)) == 0.0


@pytest.mark.parametrize("bad", [[0.1, 0.2], np.empty((0, 5))])
def test_seeds_need_a_table(bad) -> None:
    with pytest.raises(ReportError, match="table"):
        non_inferiority_over_seeds(bad, MARGIN)


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


# Planning


def test_planning_figures_of_the_method() -> None:
    """30 × 16 lets an unharmed model pass about 61 % of the time; 60 × 16 is enough at δ = 5."""
    assert power_non_inferiority(30, 16, MARGIN) == pytest.approx(0.60, abs=0.02)
    assert power_non_inferiority(60, 16, MARGIN) >= 0.80
    assert problems_needed(16, MARGIN) <= 60
    assert achievable_margin(60, 16) < MARGIN < achievable_margin(30, 16)


def test_power_at_the_margin_is_the_size() -> None:
    assert power_non_inferiority(60, 16, MARGIN, true_difference=-MARGIN) == pytest.approx(0.05, abs=1e-6)


def test_achievable_margin_inverts_power() -> None:
    for plan in ({}, {"power": 0.9}, {"confidence": 0.99}, {"spread": Spread(0.2, 0.1, 0.05)}):
        margin = achievable_margin(240, 4, **plan)
        assumed = {name: value for name, value in plan.items() if name != "power"}
        found = power_non_inferiority(240, 4, margin, **assumed)
        assert found == pytest.approx(plan.get("power", 0.8), abs=1e-6)
        assert minimum_detectable_effect(240, 4, **plan) == margin
        needed = problems_needed(4, margin, **plan)
        assert needed == pytest.approx(240, abs=1), "and so does the number of problems"


def test_power_against_the_normal_form() -> None:
    """Many problems: Φ((δ + d)/SE − z); a gain helps, a loss does not."""
    error = PLANNING.difference_sd(16) / math.sqrt(5000)
    for difference in (-0.002, 0.0, 0.002):
        expected = stats.norm.cdf((0.004 + difference) / error - stats.norm.ppf(0.95))
        found = power_non_inferiority(5000, 16, 0.004, true_difference=difference)
        assert found == pytest.approx(expected, abs=1e-3)


def test_the_plan_keeps_its_promise() -> None:
    """Planned with the spread estimated from the simulation, power is what the simulation finds."""
    population, generator = Population(), np.random.default_rng(0)
    shift = population.shift_for(0.0)
    base, variant = draw_shares(5000, 16, shift, population, generator)
    spread = estimate_spread(
        (base * 16).round().astype(int).tolist(), (variant[0] * 16).round().astype(int).tolist(), 16
    )
    promised = power_non_inferiority(60, 16, MARGIN, spread=spread)
    assert preserved_rate(0.0, population, paired, trials=600) == pytest.approx(promised, abs=0.05)


def test_planning_refuses_nonsense() -> None:
    for plan in (
        lambda: achievable_margin(1, 16),
        lambda: achievable_margin(30, 0),
        lambda: power_non_inferiority(1, 16, MARGIN),
        lambda: estimate_spread([1], [1], 16),
        lambda: problems_needed(4, 0.0),
    ):
        with pytest.raises(ReportError):
            plan()


def test_spread() -> None:
    assert PLANNING.difference_sd(16) == pytest.approx(math.sqrt(0.07**2 + 0.24 / 16))
    assert estimate_spread([8, 8, 8], [8, 8, 8], 16).effect_sd == 0.0
    assert Spread(0.0, 0.0, 0.0).difference_sd(1) == 0.0
    for difference, power in ((0.0, 1.0), (-0.04, 1.0), (-MARGIN, 0.0)):
        certain = Spread(0.0, 0.0, 0.0)
        assert power_non_inferiority(10, 1, MARGIN, true_difference=difference, spread=certain) == power


def test_spread_by_hand() -> None:
    """Two samples a problem: p(1 − p) = 1/4 where one is right, without bias 1/2."""
    found = estimate_spread([1, 1, 1, 1], [0, 2, 0, 1], 2)
    assert (found.base_variance, found.variant_variance) == pytest.approx((0.5, 0.125))
    assert found.effect_sd == 0.0, "var(d) = 0.229 is less than the 0.3125 that sampling alone gives"
    wide = estimate_spread([0, 0, 0, 0], [0, 2, 0, 2], 2)
    assert wide.effect_sd == pytest.approx(math.sqrt(1 / 3))
    assert estimate_spread([0, 1], [1, 0], 1) == Spread(math.sqrt(2), 0.0, 0.0), (
        "one sample tells no two apart"
    )


# Accuracy over k samples


def test_accuracy_by_hand() -> None:
    assert avg_at_k([0, 1, 4], 4) == pytest.approx(5 / 12)
    assert pass_at_k([0, 1, 4], 4) == pytest.approx(2 / 3)
    assert pass_at_k([0, 1, 4], 4, 2) == pytest.approx((0 + 0.5 + 1) / 3)
    assert pass_at_k([4], 4, 4) == pass_at_k([1], 4, 4) == 1.0
    assert pass_at_k([0, 1, 4], 4, 1) == pytest.approx(avg_at_k([0, 1, 4], 4))
    assert maj_at_k([[1, 1, 2], [1, 2, None], [None, None, None]], [1, 2, 3]) == pytest.approx(
        (1 + 0.5 + 0) / 3
    )


def test_pass_at_k_is_an_average_over_subsets() -> None:
    """The naive 1 − (1 − p̂)^j is biased; the formula equals the mean over all choices of j samples."""
    outcomes = [1, 1, 0, 0, 0]
    subsets = list(combinations(outcomes, 3))
    truth = sum(any(subset) for subset in subsets) / len(subsets)
    assert pass_at_k([2], 5, 3) == pytest.approx(truth)
    naive = 1 - (1 - 2 / 5) ** 3
    assert naive != pytest.approx(truth)


@pytest.mark.parametrize(("correct", "k"), [([5], 4), ([-1], 4), ([], 4), ([0], 0)])
def test_counts_must_fit(correct: list[int], k: int) -> None:
    for accuracy in (avg_at_k, pass_at_k):
        with pytest.raises(ReportError, match="do not fit"):
            accuracy(correct, k)


@pytest.mark.parametrize("j", [5, 0, -1])
def test_j_lies_between_one_and_k(j: int) -> None:
    with pytest.raises(ReportError, match="between 1 and k"):
        pass_at_k([1], 4, j)


@pytest.mark.parametrize(("answers", "gold"), [([[1]], [1, 2]), ([], [])])
def test_votes_must_match(answers: list, gold: list) -> None:
    with pytest.raises(ReportError, match="must match"):
        maj_at_k(answers, gold)


# Agreement, on published examples

FOUR_OBSERVERS = [
    [1, 2, 3, 3, 2, 1, 4, 1, 2, None, None, None],
    [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, None, 3],
    [None, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, None],
    [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, None],
]


@pytest.mark.parametrize(("level", "alpha"), [("nominal", 0.743), ("ordinal", 0.815), ("interval", 0.849)])
def test_alpha_of_the_four_observers(level, alpha: float) -> None:
    """Krippendorff 2011, section E: four observers, twelve units, missing ratings."""
    assert krippendorff_alpha(FOUR_OBSERVERS, level) == pytest.approx(alpha, abs=5e-4)


def test_alpha_of_two_observers() -> None:
    """The same paper, sections A (binary) and B (five categories)."""
    binary = [[0, 1, 0, 0, 0, 0, 0, 0, 1, 0], [1, 1, 1, 0, 0, 1, 0, 0, 0, 0]]
    assert krippendorff_alpha(binary, "nominal") == pytest.approx(0.095, abs=5e-4)
    words = [["abcde".index(c) for c in row] for row in ("aabbdcccedda", "babbbcccedd" + "d")]
    assert krippendorff_alpha(words, "nominal") == pytest.approx(0.692, abs=5e-4)


def test_alpha_at_its_ends() -> None:
    assert krippendorff_alpha([[1, 2, 3], [1, 2, 3]]) == pytest.approx(1.0)
    assert krippendorff_alpha([[1, 2], [2, 1]]) < 0
    with pytest.raises(ReportError, match="not defined"):
        krippendorff_alpha([[1, 1], [1, 1]])

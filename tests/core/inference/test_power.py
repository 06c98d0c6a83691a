"""Planned power is that of the normal form and of the simulation; margins and problem counts invert it."""

import math

import numpy as np
import pytest
from scipy import stats

from benchmarks.simulation import Population, draw_shares
from skippy.core.inference.power import (
    PLANNING,
    Spread,
    achievable_margin,
    estimate_spread,
    minimum_detectable_effect,
    power_non_inferiority,
    problems_needed,
)
from skippy.errors import ReportError
from tests.core.inference.paired_trials import MARGIN, paired, preserved_rate


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

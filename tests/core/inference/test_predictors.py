"""What predicts the loss: judged on seeds that were not fitted, with intervals that draw seeds and not cells."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from benchmarks.simulated_study import World, draw_study, ramp
from skippy.core.inference.predictors import (
    mean_over_seeds,
    rank_correlation,
    regression,
    regression_gain,
)

WORLD = World(seeds=6, problems=60, seed_spread=0.5)


def study(seed: int = 0):
    return draw_study({"v3": ramp(2.0), "v4": ramp(0.5)}, WORLD, np.random.default_rng(seed))


def test_correlation_is_spearmans() -> None:
    base, cells = study()
    found = rank_correlation(cells, base, "harm", np.random.default_rng(0))
    losses, harm = [base.score - c.score for c in cells], [c.predictors["harm"] for c in cells]
    assert found
    assert found.value == pytest.approx(stats.spearmanr(losses, harm).statistic)
    assert found.value > 0.9
    assert found.lower > 0.8
    noise = rank_correlation(cells, base, "noise", np.random.default_rng(0))
    assert noise
    assert abs(noise.value) < 0.3


def test_regression_is_judged_on_other_seeds() -> None:
    """The Gram-matrix form is leaving each seed out and fitting again."""
    base, cells = study()
    found = regression(cells, base, ["harm", "noise"], np.random.default_rng(0))
    y = np.array([base.score - c.score for c in cells])
    ranks = (
        np.array([stats.rankdata([c.predictors[p] for c in cells]) for p in ("harm", "noise")]) / y.size - 0.5
    )
    X, seeds = np.concatenate([np.ones((1, y.size)), ranks, ranks**2]).T, np.array([c.seed for c in cells])
    error = spread = 0.0
    for seed in range(6):
        out = seeds == seed
        beta = np.linalg.lstsq(X[~out], y[~out], rcond=None)[0]
        error += ((y[out] - X[out] @ beta) ** 2).sum()
        spread += ((y[out] - y[~out].mean()) ** 2).sum()
    assert found
    assert found.value == pytest.approx(1 - error / spread, abs=1e-4)
    assert found.value > 0.8


def test_noise_predicts_nothing_on_other_seeds() -> None:
    """And its fit to the same cells, the twin, would say that it does."""
    base, cells = study()
    found = regression(cells, base, ["noise"], np.random.default_rng(0))
    assert found
    assert found.value < 0.05
    y = np.array([base.score - c.score for c in cells])
    rng = np.random.default_rng(0)
    X = np.concatenate([np.ones((1, y.size)), rng.normal(size=(12, y.size))]).T
    inside = 1 - ((y - X @ np.linalg.lstsq(X, y, rcond=None)[0]) ** 2).sum() / ((y - y.mean()) ** 2).sum()
    assert inside > 0.1


def test_gain_of_noise_and_of_the_cause() -> None:
    """Noise adds less than .05 to the cause in nearly every study; the cause adds much to noise."""
    held = 0
    for seed in range(20):
        base, cells = study(seed)
        added = regression_gain(cells, base, ["harm"], ["noise"], np.random.default_rng(0))
        held += added is not None and added.upper < 0.05
    assert held >= 18
    base, cells = study()
    cause = regression_gain(cells, base, ["noise"], ["harm"], np.random.default_rng(0))
    assert cause
    assert cause.lower > 0.5


def test_intervals_know_that_a_seed_is_one_draw() -> None:
    """Copies of a seed's cells are no new evidence: the interval by seeds stays, that by cells shrinks."""
    base, cells = study()
    noisy = [replace(c, predictors={"x": c.predictors["harm"] + 2 * (c.seed % 3)}) for c in cells]
    copied = [*noisy, *(replace(c, alpha=c.alpha + 1e-6) for c in noisy)]
    once, twice = (rank_correlation(c, base, "x", np.random.default_rng(0)) for c in (noisy, copied))
    assert once
    assert twice
    assert twice.upper - twice.lower == pytest.approx(once.upper - once.lower, rel=0.05)
    by_cells = [
        np.tanh(np.arctanh(once.value) + s * 1.645 / np.sqrt(n - 3)) for n in (48, 96) for s in (-1, 1)
    ]
    assert by_cells[3] - by_cells[2] < 0.8 * (by_cells[1] - by_cells[0])


def test_what_was_not_measured_is_not_reported() -> None:
    base, cells = study()
    assert rank_correlation(cells, base, "missing", np.random.default_rng(0)) is None
    alone = [cell for cell in cells if cell.seed == 0]
    assert regression(alone, base, ["harm"], np.random.default_rng(0)) is None


def test_a_seed_counts_once_in_a_mean() -> None:
    found = mean_over_seeds([(1, 2.0), (1, 2.0), (1, 2.0), (2, 4.0), (3, 6.0)])
    assert found
    assert (found.value, found.seeds, found.cells) == (4.0, 3, 5)
    reach = stats.t.ppf(0.95, 2) * 2.0 / np.sqrt(3)
    assert (found.lower, found.upper) == pytest.approx((4.0 - reach, 4.0 + reach))
    assert mean_over_seeds([]) is None


@pytest.mark.parametrize("values", [[(1, 2.0)], [(1, 0.9), (2, 0.9)], [(1, 0.9), (1, 0.9), (2, 0.8)]])
def test_fewer_than_three_seeds_have_no_interval(values) -> None:
    """Two seeds that agree by chance would otherwise be certain."""
    found = mean_over_seeds(values)
    assert found
    assert (found.lower, found.upper) == (-np.inf, np.inf)


def test_seeds_that_agree_are_no_surer_than_their_answers() -> None:
    agreeing = [(seed, 0.75) for seed in range(4)]
    found = mean_over_seeds(agreeing, [0.1] * 4)
    assert found
    reach = stats.t.ppf(0.95, 3) * 0.1 / 2
    assert (found.lower, found.upper) == pytest.approx((0.75 - reach, 0.75 + reach))
    twice = mean_over_seeds(agreeing * 2, [0.1] * 8)
    assert twice
    assert twice.upper - twice.value == pytest.approx(reach / np.sqrt(2)), (
        "two values a seed, half the variance"
    )
    exact, apart = mean_over_seeds(agreeing), mean_over_seeds([(s, float(s)) for s in range(4)], [0.1] * 4)
    assert exact
    assert (exact.lower, exact.upper) == (0.75, 0.75)  # the twin: of values without sampling error
    assert apart
    assert apart.upper - apart.value == pytest.approx(stats.t.ppf(0.95, 3) * np.std(range(4), ddof=1) / 2)

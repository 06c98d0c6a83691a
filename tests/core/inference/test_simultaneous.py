"""Bounds over a grid hold together; one interval a point, or errors over problems alone, do not."""

import numpy as np
import pytest
from scipy import stats

from skippy.core.inference.seeds import non_inferiority_over_seeds
from skippy.core.inference.simultaneous import crossed_moments, simultaneous_bounds
from skippy.errors import ReportError

POINTS, SEEDS, PROBLEMS, TRIALS = 8, 5, 40, 250


def draw_grid(generator: np.random.Generator, seed_sd: float = 0.05) -> np.ndarray:
    """Points that share problems and seeds, none with a true difference."""
    of_problem = 0.1 * generator.normal(size=(1, 1, PROBLEMS))
    of_seed = seed_sd * generator.normal(size=(POINTS, SEEDS, 1))
    return of_problem + of_seed + 0.15 * generator.normal(size=(POINTS, SEEDS, PROBLEMS))


def alone(table: np.ndarray) -> tuple[float, float]:
    return non_inferiority_over_seeds(table, 0.0).interval


def of_problems(table: np.ndarray) -> tuple[float, float]:
    means = table.mean(axis=0)
    reach = stats.t.ppf(1 - 0.05 / POINTS, PROBLEMS - 1) * means.std(ddof=1) / np.sqrt(PROBLEMS)
    return means.mean() - reach, means.mean() + reach


def false_claims(decide) -> float:
    """Share of grids without any difference in which some upper bound lies below 0."""
    generator = np.random.default_rng(3)
    return sum(decide(draw_grid(generator)) for _ in range(TRIALS)) / TRIALS


def test_one_point_is_the_test_over_seeds() -> None:
    """Mean, error and degrees of freedom are those of the crossed model for a single table."""
    table = draw_grid(np.random.default_rng(0), 0.2)[:1]
    found = crossed_moments(table, np.ones((1, SEEDS)), np.ones((1, PROBLEMS)))
    single = non_inferiority_over_seeds(table[0], 0.0)
    assert (found.mean[0, 0], found.error[0, 0]) == pytest.approx((single.mean, single.standard_error))
    assert found.df[0, 0] == pytest.approx(single.df)


def test_counting_twice_is_having_it_twice() -> None:
    table = np.random.default_rng(1).normal(size=(1, 3, 6))
    seeds, problems = np.array([[2.0, 0.0, 1.0]]), np.array([[1.0, 3.0, 0.0, 1.0, 1.0, 0.0]])
    written_out = table[:, [0, 0, 2]][:, :, [0, 1, 1, 1, 3, 4]]
    counted = crossed_moments(table, seeds, problems)
    repeated = crossed_moments(written_out, np.ones((1, 3)), np.ones((1, 6)))
    assert counted.mean == pytest.approx(repeated.mean)
    assert counted.error == pytest.approx(repeated.error)


def test_size_over_the_grid() -> None:
    """No difference anywhere: a loss is claimed somewhere in about 5 % of the grids (long version: the bench)."""

    def together(grid: np.ndarray) -> bool:
        bounds = simultaneous_bounds(grid, np.random.default_rng(0), resamples=400)
        return min(bound.upper for bound in bounds) < 0

    assert false_claims(together) <= 0.08


@pytest.mark.parametrize("interval", [alone, of_problems])
def test_intervals_that_fail_the_same_check(interval) -> None:
    """The twins: one interval a point, and errors of problems alone that know nothing of seeds."""
    assert false_claims(lambda grid: min(interval(table)[1] for table in grid) < 0) > 0.12


def test_power_is_that_of_correlated_points() -> None:
    """Points that are nearly one point need no correction: the bounds are narrower than Bonferroni's."""
    one = draw_grid(np.random.default_rng(2))[:1]
    grid = one + 0.001 * np.random.default_rng(3).normal(size=(POINTS, SEEDS, PROBLEMS))
    bound = simultaneous_bounds(grid, np.random.default_rng(0))[0]
    df = non_inferiority_over_seeds(grid[0], 0.0).df
    bonferroni = bound.mean + stats.t.ppf(1 - 0.05 / POINTS, df) * bound.standard_error
    assert bound.upper < bonferroni


def test_a_failed_seed_is_left_out_of_its_point_alone() -> None:
    grid = draw_grid(np.random.default_rng(4))
    holed = grid.copy()
    holed[2, 1] = np.nan
    whole, found = (simultaneous_bounds(g, np.random.default_rng(0)) for g in (grid, holed))
    assert (found[2].seeds, found[3].seeds) == (SEEDS - 1, SEEDS)
    assert found[2].mean == pytest.approx(np.delete(grid[2], 1, axis=0).mean())
    assert found[3].mean == pytest.approx(whole[3].mean)


def test_no_spread_is_no_certainty() -> None:
    """Twenty equal differences of zero: unlike problems are rare, not impossible."""
    bound = simultaneous_bounds(np.zeros((1, 2, 20)), np.random.default_rng(0))[0]
    assert bound.lower < -0.1 < 0.1 < bound.upper


def test_a_point_that_nobody_reached_is_refused() -> None:
    with pytest.raises(ReportError, match=r"leave out the points that no training reached"):
        simultaneous_bounds(np.full((1, 2, 5), np.nan), np.random.default_rng(0))


def test_few_seeds_and_rare_changes_keep_bounds_of_a_readable_size() -> None:
    """At a small dose hardly a problem changes: draws of one seed have no spread, and t would be without bound."""
    generator = np.random.default_rng(5)
    tables = np.zeros((4, 4, 240))
    for point in range(4):
        for seed in range(4):
            changed = generator.choice(240, 3, replace=False)
            tables[point, seed, changed] = generator.choice([-1.0, 1.0], 3)
    for bound in simultaneous_bounds(tables, np.random.default_rng(0)):
        assert -0.1 < bound.lower < bound.mean < bound.upper < 0.1

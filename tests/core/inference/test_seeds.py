"""Over several training seeds, their spread widens the interval and keeps the size of the test."""

import math

import numpy as np
import pytest
from scipy import stats

from benchmarks.simulation import Population, draw_shares
from skippy.core.inference.paired import non_inferiority, verdict_of
from skippy.core.inference.seeds import non_inferiority_over_seeds, paired_t_p_over_seeds
from skippy.errors import ReportError
from tests.core.inference.paired_trials import MARGIN


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

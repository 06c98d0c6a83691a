"""Size and power of the paired test in simulation, and the wrong errors that fail the same check."""

import math

import numpy as np
import pytest

from benchmarks.simulation import Population, draw_shares
from tests.core.inference.paired_trials import MARGIN, paired, preserved_rate


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

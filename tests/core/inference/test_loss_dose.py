"""The dose at which δ is lost: where it is, how sure that is, and "more than the largest tried" where it is nowhere."""

import numpy as np
import pytest
from scipy import special

from benchmarks.simulated_study import World, cliff, draw_study, flat, ramp
from skippy.core.inference.curves import build_curves
from skippy.core.inference.loss_dose import loss_dose

MARGIN = 0.05
WORLD = World(problems=80, seeds=6, alphas=(0.125, 0.25, 0.375, 0.5, 0.625, 0.75, 0.875, 1.0))


def found(harm, generator, world=WORLD, resamples=400):
    base, cells = draw_study({"v3": harm}, world, generator)
    return loss_dose(build_curves(cells, base)[0], MARGIN, generator, resamples=resamples)


def true_crossing(slope: float) -> float:
    """α at which the population's mean loss is δ, by quadrature over the laws of `draw_study`."""
    generator = np.random.default_rng(0)
    latent = special.logit(np.clip(generator.beta(0.7, 0.7, 400_000), 1e-9, 1 - 1e-9))
    unlike = 1 + 0.3 * generator.normal(size=latent.size) + 0.3 * generator.normal(size=latent.size)
    alphas = np.linspace(0, 1, 101)
    losses = [
        float((special.expit(latent) - special.expit(latent - slope * a * unlike)).mean()) for a in alphas
    ]
    return float(np.interp(MARGIN, losses, alphas))


def test_interval_covers_the_true_dose() -> None:
    """Nine in ten intervals hold the dose at which the population loses δ; half as wide ones do not."""
    truth, generator = true_crossing(1.5), np.random.default_rng(1)
    covered = halved = 0
    for _ in range(80):
        alpha = found(ramp(1.5), generator).alpha
        ends = [end if end is not None else np.inf for end in (alpha.lower, alpha.upper)]
        covered += ends[0] <= truth <= ends[1]
        middle = alpha.value if alpha.value is not None else np.inf
        halved += abs(truth - middle) <= (ends[1] - ends[0]) / 4
    assert covered >= 0.8 * 80
    assert halved < 0.75 * 80


def test_a_harmless_arm_is_censored() -> None:
    """Nothing is shown, and "more than the largest tried" is inside the interval."""
    one = found(flat, np.random.default_rng(0))
    assert (one.shown_alpha, one.alpha.upper) == (None, None)
    assert one.is_censored
    assert one.reached < 0.5
    assert one.largest_alpha == 1.0
    assert one.largest_persona == pytest.approx(0.95, abs=0.05)


def test_size_and_power_of_shown() -> None:
    """No harm: a loss is shown at some dose in about 5 % of studies. A cliff: in all, right behind its edge."""
    generator = np.random.default_rng(2)
    assert sum(found(flat, generator).shown_alpha is not None for _ in range(100)) <= 10
    fallen = [found(cliff(0.5, 3.0), generator) for _ in range(10)]
    assert {one.shown_alpha for one in fallen} == {0.625}
    assert all(0.5 < one.alpha.value <= 0.625 for one in fallen)
    assert all(one.shown_persona == pytest.approx(0.6, abs=0.06) for one in fallen)


def test_pointwise_bounds_fail_the_same_check() -> None:
    """The twin: eight doses, each looked at by itself, show losses where there are none."""
    generator, shown = np.random.default_rng(2), 0
    for _ in range(100):
        base, cells = draw_study({"v3": flat}, World(seeds=6, alphas=WORLD.alphas, samples=2), generator)
        tables = build_curves(cells, base)[0].differences[1:]
        seedwise = tables.mean(axis=(2))
        upper = seedwise.mean(axis=1) + 1.65 * seedwise.std(axis=1, ddof=1) / np.sqrt(6)
        shown += bool((upper < 0).any())
    assert shown > 20


def test_each_seed_has_its_own() -> None:
    one = found(ramp(3.0), np.random.default_rng(0))
    assert len(one.by_seed) == 6
    assert min(one.by_seed) <= one.alpha.value <= max(one.by_seed)

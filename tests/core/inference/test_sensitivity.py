"""Nothing is "preserved" where nothing could have been seen to fail."""

import numpy as np
import pytest

from benchmarks.simulated_study import World, draw_study, flat, ramp
from skippy.core.inference.curves import build_curves
from skippy.core.inference.seeds import non_inferiority_over_seeds
from skippy.core.inference.sensitivity import controlled_verdict, positive_control

MARGIN = 0.05


def tables_of(arms, world, generator) -> dict[str, np.ndarray]:
    base, cells = draw_study(arms, world, generator)
    return {c.arm: c.differences[-1] for c in build_curves(cells, base)}


def verdicts(arms, world, seed: int) -> dict[str, str]:
    generator = np.random.default_rng(seed)
    tables = tables_of(arms, world, generator)
    control = positive_control(tables, MARGIN, generator)
    return {
        arm: controlled_verdict(non_inferiority_over_seeds(table, MARGIN).verdict, control.is_shown)
        for arm, table in tables.items()
    }


def test_with_a_control_verdicts_stand() -> None:
    found = verdicts({"v3": ramp(3.0), "v4": flat}, World(samples=16), 0)
    assert found == {"v3": "degraded", "v4": "preserved"}


def test_without_a_control_nothing_was_tested() -> None:
    """The twin: the same arms on problems at the ceiling, where even V3's harm cannot show."""
    world = World(samples=16, ceiling=0.9999)
    tables = tables_of({"v3": ramp(3.0), "v4": flat}, world, np.random.default_rng(0))
    alone = [non_inferiority_over_seeds(table, MARGIN).verdict for table in tables.values()]
    assert all(word.startswith("preserved") for word in alone)
    assert set(verdicts({"v3": ramp(3.0), "v4": flat}, world, 0).values()) == {"not_tested"}


def test_a_loss_smaller_than_the_margin_is_no_control() -> None:
    """Measurably lower is not δ: an upper bound of −3 points says nothing about losses of 5."""
    tables = {"v3": np.full((4, 40), -0.04) + np.random.default_rng(0).normal(0, 0.01, (4, 40))}
    control = positive_control(tables, MARGIN, np.random.default_rng(0))
    assert control.bound
    assert control.bound.upper < -0.03
    assert not control.is_shown
    assert controlled_verdict("preserved, measurably lower", control.is_shown) == "not_tested"


def test_size_and_power_of_shown() -> None:
    """Ten arms that lose exactly δ: a control in about 5 % of studies. One arm that loses four times δ: in 9 of 10."""
    generator = np.random.default_rng(4)

    def arms(losses) -> dict[str, np.ndarray]:
        of_problem = 0.15 * generator.normal(size=(1, 60))
        return {
            f"v{i}": of_problem
            - loss
            + 0.05 * generator.normal(size=(6, 1))
            + 0.2 * generator.normal(size=(6, 60))
            for i, loss in enumerate(losses)
        }

    def shown(losses, trials: int) -> int:
        return sum(positive_control(arms(losses), MARGIN, generator).is_shown for _ in range(trials))

    assert shown([MARGIN] * 10, 100) <= 10
    assert shown([0.0] * 9 + [4 * MARGIN], 20) >= 18
    picked = 0
    for _ in range(100):
        tests = [non_inferiority_over_seeds(table, MARGIN) for table in arms([MARGIN] * 10).values()]
        picked += min(test.interval[1] for test in tests) < -MARGIN
    assert picked > 12  # the twin: the most damaging of ten by its own interval alone


def test_nothing_tried_is_nothing_shown() -> None:
    control = positive_control({"v3": np.full((2, 5), np.nan)}, MARGIN, np.random.default_rng(0))
    assert (control.is_shown, control.tried, control.bound) == (False, 0, None)


@pytest.mark.parametrize("word", ["preserved", "degraded", "inconclusive"])
def test_one_training_can_be_the_control_of_another(word) -> None:
    tables = {"high dose": np.random.default_rng(0).normal(-0.4, 0.2, (1, 50))}
    control = positive_control(tables, MARGIN, np.random.default_rng(0))
    assert control.is_shown
    assert control.name == "high dose"
    assert controlled_verdict(word, control.is_shown) == word

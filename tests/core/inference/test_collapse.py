"""Runs that collapse, and what tells them apart among runs of one arm and one dose."""

from dataclasses import replace

import numpy as np
import pytest

from benchmarks.simulated_study import World, cliff, draw_study, flat, ramp
from skippy.core.inference.collapse import cliff_shares, count_collapses, separation
from skippy.core.inference.curves import build_curves


def fallen(told: bool, seed: int = 0):
    """Every other run of V3 collapses; `early` says which, or says the arm and nothing else."""
    generator = np.random.default_rng(seed)
    base, cells = draw_study({"v3": flat, "v4": flat}, World(seeds=8), generator)
    changed = []
    for cell in cells:
        falls = cell.arm == "v3" and cell.seed % 2 == 0 and cell.alpha == 1.0
        correct = dict.fromkeys(cell.correct, 0) if falls else cell.correct
        early = float((cell.arm == "v3" and cell.seed % 2 == 0) if told else cell.arm == "v3")
        changed.append(
            replace(cell, correct=correct, predictors={"early": early + 0.01 * generator.normal()})
        )
    return base, changed


def test_counts_and_their_bounds() -> None:
    base, cells = fallen(told=True)
    v3, v4 = count_collapses(cells, base)
    assert (v3.collapsed, v3.runs, v4.collapsed) == (4, 8, 0)
    assert v3.median_loss == pytest.approx(base.score - np.median(v3.scores))
    assert v3.persona == pytest.approx(0.95, abs=0.05)
    assert v3.lower == pytest.approx(0.193, abs=0.001)
    assert v4.upper == pytest.approx(1 - 0.05 ** (1 / 8))
    assert v3.scores == tuple(sorted(v3.scores))
    assert v3.scores[0] == 0.0


def test_what_tells_them_apart() -> None:
    base, cells = fallen(told=True)
    found = separation(cells, base, "early", np.random.default_rng(0))
    assert found
    assert found.value == 1.0
    assert found.lower == 1.0


def test_the_arm_cannot_take_the_credit() -> None:
    """The twin: a statistic that only knows the arm separates all runs well, and none within an arm."""
    base, cells = fallen(told=False)
    found = separation(cells, base, "early", np.random.default_rng(0))
    assert found
    assert found.lower < 0.5 < found.upper
    last = [c for c in cells if c.alpha == 1.0]
    down = [c.predictors["early"] for c in last if c.score < 0.5 * base.score]
    up = [c.predictors["early"] for c in last if c.score >= 0.5 * base.score]
    assert np.mean([[d > u for u in up] for d in down]) > 0.75


def test_nothing_to_tell_apart() -> None:
    base, cells = draw_study({"v3": flat}, World(), np.random.default_rng(0))
    assert separation(cells, base, "harm", np.random.default_rng(0)) is None


def test_a_cliff_is_one_step_and_a_ramp_is_not() -> None:
    world = World(problems=200, samples=16)
    for harm, low, high in ((cliff(0.5, 4.0), 0.85, 1.0), (ramp(1.0), 0.2, 0.5)):
        base, cells = draw_study({"v3": harm}, world, np.random.default_rng(0))
        shares = [share for _, share, _ in cliff_shares(build_curves(cells, base)[0], 0.05)]
        assert len(shares) >= 5
        assert low <= np.mean(shares) <= high
    base, cells = draw_study({"v3": flat}, world, np.random.default_rng(0))
    assert cliff_shares(build_curves(cells, base)[0], 0.05) == []


def test_the_error_of_a_share_is_what_other_answers_would_do_to_it() -> None:
    """Seeds of one true harm differ by their answers alone: by the error that each of them states."""
    base, cells = draw_study({"v3": ramp(1.0)}, World(seeds=60, seed_spread=0.0), np.random.default_rng(1))
    shares = cliff_shares(build_curves(cells, base)[0], 0.05)
    assert len(shares) >= 40
    stated, seen = np.mean([error for *_, error in shares]), np.std([share for _, share, _ in shares], ddof=1)
    assert 0.5 * seen < stated < 2 * seen

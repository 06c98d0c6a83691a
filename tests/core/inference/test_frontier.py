"""The score kept at equal persona: interpolated on the rising branch, paired, and honest about what is not there."""

from dataclasses import replace

import numpy as np
import pytest

from benchmarks.simulated_study import World, draw_study, flat, ramp
from skippy.core.inference.cells import Cell, TrainingDose
from skippy.core.inference.curves import Curve, build_curves
from skippy.core.inference.frontier import (
    crossing,
    frontier,
    kept_at,
    matched_differences,
    predictor_at,
    unmatched_differences,
)
from skippy.errors import ReportError

DOSE = TrainingDose(1e-3, 0.04, 60)


def curve(personas: list[list[float]], shares: list[list[float]], arm: str = "v3") -> Curve:
    """One row a seed, one column an α; every problem has the same share."""
    levels = np.array(personas, dtype=float).T
    scores = np.repeat(np.array(shares, dtype=float).T[..., None], 3, axis=2)
    alphas = tuple(np.linspace(0, 1, len(levels)).tolist())
    return Curve(arm, DOSE, alphas, tuple(range(levels.shape[1])), scores, levels, {"kl": 2 * levels})


def test_what_is_kept_lies_between_neighbouring_doses() -> None:
    one = curve([[0.0, 0.4, 0.8]], [[0.6, 0.5, 0.1]])
    assert kept_at(one, 0.4)[0] == pytest.approx([0.5] * 3)
    assert kept_at(one, 0.5)[0] == pytest.approx([0.4] * 3)
    assert kept_at(one, 0.0)[0] == pytest.approx([0.6] * 3)


def test_a_predictor_lies_there_too_and_one_that_nobody_measured_is_nan() -> None:
    one = curve([[0.0, 0.4, 0.8], [0.0, 0.1, 0.2]], [[0.6, 0.5, 0.1]] * 2)
    assert predictor_at(one, "kl", 0.5) == pytest.approx([1.0, np.nan], nan_ok=True)
    assert np.isnan(predictor_at(one, "coherence", 0.5)).all()


def test_only_the_rising_branch_counts() -> None:
    """An overdose that falls back to .5 is not where the persona reached .5."""
    one = curve([[0.0, 0.8, 0.5]], [[0.6, 0.4, 0.0]])
    assert kept_at(one, 0.5)[0] == pytest.approx([0.475] * 3)
    assert crossing(np.array([0.9, 0.1]), 0.5) == (0, 0, 0.0)


def test_out_of_reach_is_said() -> None:
    one = curve([[0.0, 0.2, 0.4], [0.0, 0.3, 0.6]], [[0.6, 0.6, 0.6], [0.6, 0.5, 0.4]])
    other = curve([[0.0, 0.5, 0.9]] * 2, [[0.6, 0.5, 0.3]] * 2, "v4")
    assert np.isnan(kept_at(one, 0.5)[0]).all()
    found = matched_differences([one, other], [("v4", "v3")], [0.3, 0.5], np.random.default_rng(0))
    assert [(d.reached, d.bound is None) for d in found] == [(2, False), (1, True)]


def test_differences_are_paired() -> None:
    """Equal harm on the same problems and seeds: no difference, although problems differ widely."""
    base, cells = draw_study({"v3": ramp(1.0)}, World(), np.random.default_rng(0))
    twins = [*cells, *(replace(cell, arm="v4") for cell in cells)]
    found = matched_differences(
        build_curves(twins, base), [("v4", "v3")], [0.5, 0.9], np.random.default_rng(1)
    )
    assert [d.bound.mean for d in found if d.bound] == [0.0, 0.0]
    crossed = [*cells, *(replace(cell, arm="v4", seed=(cell.seed + 1) % 6) for cell in cells)]
    apart = matched_differences(build_curves(crossed, base), [("v4", "v3")], [0.5], np.random.default_rng(1))
    assert apart[0].bound
    assert apart[0].bound.standard_error > 0


def claims(harm: float, trials: int, decide) -> float:
    generator = np.random.default_rng(7)
    world = World(seeds=5, problems=60)
    count = 0
    for trial in range(trials):
        base, cells = draw_study({"v3": ramp(2.0), "v4": ramp(harm)}, world, generator)
        curves = build_curves(cells, base)
        count += decide(curves, np.random.default_rng(trial))
    return count / trials


def matched_claim(curves, generator) -> bool:
    found = matched_differences(curves, [("v4", "v3")], (0.5, 0.7, 0.9), generator)
    return any(d.bound and d.bound.lower > 0 for d in found)


def test_size_and_power_of_keeps_more() -> None:
    """Equal harm: "V4 keeps more" at any persona in about 5 % of studies. A third of the harm: in at least 80 %."""
    assert claims(2.0, 150, matched_claim) <= 0.09
    assert claims(0.7, 40, matched_claim) >= 0.80


def test_unpaired_seeds_of_one_problem_fail_the_same_check() -> None:
    """The twin: counting problems of all seeds as independent claims a difference where there is none."""

    def naive(curves, generator) -> bool:
        tables = [kept_at(curves[1], p) - kept_at(curves[0], p) for p in (0.5, 0.7, 0.9)]
        values = [t[np.isfinite(t).all(axis=1)].ravel() for t in tables]
        return any(v.mean() > 1.65 * v.std(ddof=1) / np.sqrt(v.size) for v in values if v.size)

    assert claims(2.0, 100, naive) > 0.15


def test_unequal_persona_confounds_and_matching_does_not() -> None:
    """An arm that merely learns more slowly looks better at equal α, and not at equal persona."""
    world, generator = World(seeds=8, problems=100, seed_spread=0.1), np.random.default_rng(5)
    base, cells = draw_study({"v3": ramp(2.0)}, world, generator)
    slow = [
        replace(cell, arm="v4", alpha=2 * cell.alpha) for cell in cells if cell.alpha <= 0.5
    ]  # reaches half as much
    curves = build_curves([*cells, *slow], base)
    at_alpha = unmatched_differences(curves, [("v4", "v3")], np.random.default_rng(0))[0].bound
    at_persona = matched_differences(curves, [("v4", "v3")], [0.4], np.random.default_rng(0))[0].bound
    assert at_alpha
    assert at_alpha.lower > 0
    assert at_persona
    assert abs(at_persona.mean) < 1e-9


def test_frontier_has_every_dose_and_says_its_loss() -> None:
    base, cells = draw_study({"v3": ramp(2.0), "v4": flat}, World(), np.random.default_rng(0))
    points = frontier(build_curves(cells, base), np.random.default_rng(0))
    assert [(p.arm, p.alpha) for p in points] == [
        (a, x) for a in ("v3", "v4") for x in (0.25, 0.5, 0.75, 1.0)
    ]
    assert points[3].loss.is_large_loss(0.05)
    assert not points[7].loss.is_loss(0.05)
    assert points[3].persona == pytest.approx(0.95, abs=0.05)


def test_failed_cells_are_left_out() -> None:
    base, cells = draw_study({"v3": ramp(1.0)}, World(seeds=3), np.random.default_rng(0))
    failed = [replace(c, error="out of memory") if (c.seed, c.alpha) == (1, 1.0) else c for c in cells]
    one = build_curves(failed, base)[0]
    assert np.isnan(one.shares[-1, 1]).all()
    assert np.isfinite(one.shares[-2, 1]).all()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda cells: [*cells, cells[0]], "each of them once"),
        (lambda cells: [replace(cells[0], correct={"other": 1})], "did not answer what the base answered"),
        (lambda cells: [replace(cells[0], samples=9)], "run the cell again with this plan"),
        (lambda cells: [], "0 cells"),
    ],
)
def test_cells_that_cannot_be_paired_are_refused(damage, message) -> None:
    base, cells = draw_study({"v3": flat}, World(seeds=2), np.random.default_rng(0))
    with pytest.raises(ReportError, match=message):
        build_curves(damage(cells), base)


def test_a_cell_knows_its_means() -> None:
    cell = Cell("v3", DOSE, 1.0, 1, 4, {"a": 4, "b": 1}, {"x": 0.5, "y": 1.0})
    assert (cell.score, cell.persona, cell.training.label) == (0.625, 0.75, "lr 0.001, β 0.04, 60 steps")

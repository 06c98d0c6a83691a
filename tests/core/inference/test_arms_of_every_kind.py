"""Arms that are no training among many, or have a recipe of their own, beside those of a study's doses."""

from dataclasses import replace

import numpy as np
import pytest

from benchmarks.simulated_study import World, draw_study, flat, ramp
from skippy.core.inference.cells import NO_SEED, NO_TRAINING
from skippy.core.inference.curves import build_curves
from skippy.core.inference.frontier import kept_at
from skippy.core.inference.predictions import Prediction
from skippy.core.inference.study import analyse

WORLD = World(seeds=5, problems=40)
PREDICTIONS = (
    Prediction("A1", "as good", "beside_point", {"first": "v4", "second": "prompt"}, "at_least", -25),
    Prediction("A3", "no character", "largest_persona", {"arm": "v6"}, "below", 0.3),
    Prediction("A8", "alike", "difference", {"first": "v6", "second": "v3", "persona": 0.5}, "within", 40),
)


@pytest.fixture(scope="module")
def study():
    """V3 and V4 at a dose; V6 by its own recipe, on a grid of its own; and the base under a prompt."""
    base, cells = draw_study({"v3": ramp(2.0), "v4": flat, "v6": ramp(1.0)}, WORLD, np.random.default_rng(0))
    cells = [replace(c, training=NO_TRAINING, alpha=2 * c.alpha) if c.arm == "v6" else c for c in cells]
    one = next(c for c in cells if (c.arm, c.alpha, c.seed) == ("v4", 0.75, 0))
    prompt = replace(
        one, arm="prompt", training=NO_TRAINING, alpha=1.0, seed=NO_SEED, predictors={"coherence": 0.9}
    )
    return (
        base,
        [prompt, *cells],
        analyse([prompt, *cells], base, margin=0.05, seed=0, predictions=PREDICTIONS),
    )


def test_an_arm_without_seeds_is_one_point_beside_every_seed(study) -> None:
    base, cells, found = study
    curves = {curve.arm: curve for curve in build_curves(cells, base)}
    point = curves["prompt"].point
    assert point == round(cells[0].persona, 3)
    assert curves["v4"].point is None
    assert curves["prompt"].seeds == curves["v4"].seeds
    assert np.isfinite(kept_at(curves["prompt"], point)).all()
    assert np.isnan(kept_at(curves["prompt"], 0.5)).all(), "nothing lies between a prompt and the base"
    assert np.isfinite(kept_at(curves["v4"], 0.5)).all()
    shown = [one for one in found.frontier if one.arm == "prompt"]
    assert len(shown) == len(shown[0].by_seed) == 1
    assert "prompt" not in {one.arm for one in found.lost}


def test_it_is_compared_at_its_own_persona_and_nowhere_else(study) -> None:
    _, cells, found = study
    beside = [one for one in found.matched if one.second == "prompt"]
    assert [one.persona for one in beside] == [round(cells[0].persona, 3)]
    assert beside[0].bound is not None
    others = {one.persona for one in found.matched if one.second == "v3" and one.first == "v4"}
    assert others == {0.5, 0.7, 0.9}
    kept = {one.persona: one for one in found.kept if one.arm == "prompt"}
    assert {persona for persona, one in kept.items() if one.loss} == {beside[0].persona}
    assert kept[beside[0].persona].coherence == pytest.approx(0.9)
    assert {one.coherence for one in found.kept if one.arm == "v4"} == {None}, "which was not measured there"


def test_drawing_seeds_does_not_move_it(study) -> None:
    """Its error is that of problems alone; the twin, an arm with one other seed among the same answers, has both."""
    base, cells, found = study
    prompt, v3 = cells[0], next(cell for cell in cells if (cell.arm, cell.alpha) == ("v3", 1.0))
    twin = [replace(prompt, arm="caa", seed=seed) for seed in range(WORLD.seeds - 1)]
    twin.append(replace(v3, arm="caa", training=NO_TRAINING, seed=WORLD.seeds - 1))
    moved = analyse([*cells, *twin], base, margin=0.05, seed=0)
    errors = {(one.arm, one.alpha): one.loss.standard_error for one in moved.frontier}
    alone = next(one.loss.standard_error for one in found.frontier if one.arm == "prompt")
    assert errors["prompt", 1.0] == pytest.approx(alone)
    assert errors["caa", 1.0] != pytest.approx(alone)


def test_a_recipe_of_its_own_stands_beside_every_dose(study) -> None:
    _, cells, found = study
    dose = next(cell.training for cell in cells if cell.arm == "v4")
    pairs = {(one.first, one.second, one.training) for one in found.matched}
    assert ("v4", "v6", dose) in pairs
    assert ("v6", "v3", dose) in pairs, "which a prediction asks for"
    assert ("v3", "v6", dose) not in pairs
    fates = {fate.prediction.name: fate for fate in found.fates}
    assert fates["A1"].fate == "held"
    assert fates["A3"].fate == "refuted"
    assert fates["A8"].estimate is not None

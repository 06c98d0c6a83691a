"""The whole analysis on simulated studies, and the fate of what was predicted."""

from dataclasses import replace

import numpy as np
import pytest

from benchmarks.simulated_study import World, cliff, draw_study, flat, ramp
from skippy.core.inference.predictions import STATISTICS, Prediction, fate_of
from skippy.core.inference.predictors import Estimate
from skippy.core.inference.study import analyse

WORLD = World(seeds=6, problems=60)


def predictors_of(cell) -> dict[str, float]:
    kl = abs(cell.predictors["harm"]) + 0.01
    names = ("kl_base_arm_everyday", "kl_arm_base_everyday", "kl_base_arm_problems", "kl_arm_base_problems")
    rho = {"rho_left_ratio": 1.5 + 0.1 * (cell.seed % 2), "rho_right_ratio": 1.1}
    return dict.fromkeys(names, kl) | rho | {"noise": cell.predictors["noise"]}


def analysed(arms, predictions=(), seed: int = 0, **changes):
    base, cells = draw_study(arms, WORLD, np.random.default_rng(seed))
    measured = [replace(cell, predictors=predictors_of(cell), **changes) for cell in cells]
    return analyse(measured, base, margin=0.05, seed=1, predictions=predictions)


V4_V3 = {"first": "v4", "second": "v3"}
PREDICTIONS = (
    Prediction("P1", "V3 is near chance", "rho_ratio", {"arm": "v3"}, "below", 2),
    Prediction("P2", "KL predicts", "correlation", {"predictor": "kl_base_arm_everyday"}, "at_least", 0.8),
    Prediction(
        "P2b", "leakage adds little", "r2_gain",
        {"known": "kl_base_arm_everyday", "added": "rho_left_ratio"}, "below", 0.05,
    ),
    Prediction(
        "P3", "random is as good", "difference",
        {"first": "v4", "second": "v4-random", "persona": 0.5}, "within", 1,
    ),
    Prediction("P8", "a cliff", "cliff_share", {"arm": "v3"}, "at_least", 0.5),
    Prediction("E1", "V4 keeps more", "difference_alone", V4_V3 | {"persona": 0.9}, "at_least", 0),
    Prediction("E2", "as trained too", "difference_as_trained", V4_V3, "at_least", 0),
    Prediction("E3", "V3 loses", "kept", {"arm": "v3", "persona": 0.9}, "below", 0),
    Prediction(
        "E4", "V4 stays nearer", "predictor_difference",
        V4_V3 | {"predictor": "kl_base_arm_everyday", "persona": 0.9}, "below", 0,
    ),
)  # fmt: skip


def test_a_study_from_cells_to_fates() -> None:
    found = analysed({"v3": cliff(0.5, 3.0), "v4": ramp(0.2), "v4-random": ramp(0.2)}, PREDICTIONS)
    assert found.control.is_shown
    assert found.control.name.startswith("v3, ")
    assert {(d.first, d.second) for d in found.matched} == {("v4", "v3"), ("v4", "v4-random")}
    keeps = {d.persona: d.bound for d in found.matched if d.second == "v3"}
    assert keeps[0.9]
    assert keeps[0.9].lower > 0
    assert [one.is_censored for one in found.lost][:1] == [False]
    assert {fate.prediction.name: fate.fate for fate in found.fates} == {
        **{"P1": "held", "P2": "refuted", "P2b": "held", "P3": "undecided", "P8": "held"},
        **{"E1": "held", "E2": "held", "E3": "held", "E4": "held"},
    }
    alone = next(fate.estimate for fate in found.fates if fate.prediction.name == "E1")
    assert alone
    assert alone.value == pytest.approx(100 * keeps[0.9].mean)
    assert alone.lower > 100 * keeps[0.9].lower, "one comparison alone has the narrower interval"
    assert found.leakage_gain
    assert found.correlations["kl_base_arm_everyday"].value > 0.5


def test_refuted_where_the_world_is_otherwise() -> None:
    """The twins: a ramp in place of the cliff, and random directions that do far worse."""
    found = analysed({"v3": ramp(2.0), "v4": flat, "v4-random": ramp(3.0)}, PREDICTIONS)
    fates = {fate.prediction.name: fate.fate for fate in found.fates}
    swapped = analysed({"v4": cliff(0.5, 3.0), "v3": ramp(0.2)}, PREDICTIONS)
    assert {f.prediction.name: f.fate for f in swapped.fates if f.prediction.name[0] == "E"} == {
        **{"E1": "refuted", "E2": "refuted", "E3": "undecided", "E4": "refuted"}
    }
    assert fates["P3"] == "refuted"
    assert fates["P8"] != "held"


def test_same_cells_same_bits_and_one_stream_a_question() -> None:
    arms = {"v3": ramp(2.0), "v4": flat}
    first, again = analysed(arms), analysed(arms, PREDICTIONS)
    assert first.matched == again.matched
    assert first.lost == again.lost
    assert first.control == again.control


def test_failed_cells_are_named_and_left_out() -> None:
    base, cells = draw_study({"v3": ramp(2.0)}, WORLD, np.random.default_rng(0))
    broken = replace(cells[0], correct={}, personas={}, error="The gradient is not finite.")
    found = analyse([broken, *cells[1:]], base, margin=0.05, seed=0)
    assert [cell.error for cell in found.failed] == ["The gradient is not finite."]
    assert found.frontier[0].loss.seeds == WORLD.seeds - 1


@pytest.mark.parametrize(
    ("ends", "condition", "value", "fate"),
    [
        ((1.1, 1.9), "below", 2, "held"),
        ((1.1, 2.1), "below", 2, "undecided"),
        ((2.0, 2.1), "below", 2, "refuted"),
        ((0.8, 0.9), "at_least", 0.8, "held"),
        ((0.7, 0.9), "at_least", 0.8, "undecided"),
        ((0.1, 0.7), "at_least", 0.8, "refuted"),
        ((-0.9, 1.0), "within", 1, "held"),
        ((-1.2, 0.2), "within", 1, "undecided"),
        ((-3.0, -1.2), "within", 1, "refuted"),
    ],
)
def test_the_interval_decides_and_not_the_estimate(ends, condition, value, fate) -> None:
    assert fate_of(Estimate(sum(ends) / 2, *ends, 9, 3), condition, value) == fate


def test_what_a_study_cannot_say_is_undecided() -> None:
    asked = [
        Prediction(name, "", name, dict.fromkeys(statistic.arguments, "v9") | {"persona": 0.5}, "below", 1)
        for name, statistic in STATISTICS.items()
    ]
    found = analysed({"v3": flat}, asked)
    assert [fate.estimate for fate in found.fates] == [None] * len(asked)
    assert {fate.fate for fate in found.fates} == {"undecided"}

"""The numbers of a run: chance weighed by ΔW, tenths at the ends, and nothing that is not finite."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from skippy.core.spectral.constraints import ConstrainedTarget, OrthogonalConstraint, random_basis
from skippy.training.tracking_callback import (
    GLANCE,
    TrackingCallback,
    _drop_later_steps,
    at_a_glance,
    leakage_metrics,
    rename,
)
from tests.training.tiny_run import RecordingRun


def target(out: int, in_: int, k: int, size: float) -> ConstrainedTarget:
    A, B = nn.Parameter(torch.ones(1, in_)), nn.Parameter(torch.full((out, 1), size))
    return ConstrainedTarget(A, B, random_basis(out, k, 0), random_basis(in_, k, 1))


@pytest.mark.parametrize(
    ("sizes", "left", "right"),
    [
        # ‖ΔW‖² = 10·20·size² and 40·5·size²: equal energies weigh the two alike, and so does no ΔW at all.
        ((1.0, 1.0), (2 / 10 + 4 / 40) / 2, (2 / 20 + 4 / 5) / 2),
        ((0.0, 0.0), (2 / 10 + 4 / 40) / 2, (2 / 20 + 4 / 5) / 2),
        ((2.0, 1.0), (4 * 2 / 10 + 4 / 40) / 5, (4 * 2 / 20 + 4 / 5) / 5),
        ((0.0, 1.0), 4 / 40, 4 / 5),
    ],
)
def test_chance_is_pooled_by_the_energy_of_each_target(
    sizes: tuple[float, float], left: float, right: float
) -> None:
    measured = OrthogonalConstraint({"one": target(10, 20, 2, sizes[0]), "other": target(40, 5, 4, sizes[1])})
    found = leakage_metrics(measured)
    assert found["leakage/chance_left"] == pytest.approx(left)
    assert found["leakage/chance_right"] == pytest.approx(right)


@pytest.fixture
def tracking(tmp_path: Path) -> TrackingCallback:
    callback = TrackingCallback(RecordingRun(), "train", tmp_path, None)
    callback.history = [
        {
            "train/reward": float(step),
            "train/completion_length_mean": 10.0 * step,
            "train/completion_length_max": 100.0 - step,
            "train/completions_truncated": step / 100,
        }
        for step in range(30)
    ]
    return callback


def test_rewards_are_those_of_the_first_and_the_last_tenth(tracking: TrackingCallback) -> None:
    assert tracking.reward_means() == (1.0, 28.0)


def test_completions_are_those_of_the_last_tenth(tracking: TrackingCallback) -> None:
    found = tracking.completion_statistics()
    assert (found.steps, found.mean_length, found.max_length) == (3, 280.0, 73.0)
    assert found.truncated == pytest.approx(0.28)


def test_what_is_missing_or_not_finite_is_left_out() -> None:
    logs = {
        "reward": 1,
        "kl": math.nan,
        "entropy": None,
        "grad_norm": math.inf,
        "completions/clipped_ratio": 0.5,
        "rewards/vowels/mean": 2.0,
        "rewards/judge/mean": math.nan,
        "rewards/vowels/std": 3.0,
        "epoch": 4.0,
    }
    assert rename(logs) == {
        "train/reward": 1.0,
        "train/completions_truncated": 0.5,
        "train/rewards/vowels": 2.0,
    }


def test_samples_beyond_the_checkpoint_and_a_torn_line_are_dropped(tmp_path: Path) -> None:
    file = tmp_path / "training.jsonl"
    lines = [json.dumps({"step": step}) for step in (1, 2, 3)]
    file.write_text("\n".join([*lines, '{"step": 2, "pro']))
    _drop_later_steps(file, 2)
    assert file.read_text() == "".join(line + "\n" for line in lines[:2])


def test_a_constant_is_one_point_and_a_plateau_keeps_its_shape(tmp_path: Path) -> None:
    """What a chart draws between the points is what was measured; a constant has nothing to draw."""
    run = RecordingRun()
    callback = TrackingCallback(run, "train v4", tmp_path, None)
    measured = {"flat": [3.0] * 6, "step": [1.0, 1.0, 1.0, 2.0, 2.0, 2.0], "moving": [0.0, 1, 2, 3, 4, 5]}
    for index in range(6):
        now = {name: values[index] for name, values in measured.items()}
        callback._log_moving(now, index + 1, is_last=index == 5)
    assert run.curve("flat") == {1: 3.0}
    assert run.curve("step") == {1: 1.0, 3: 1.0, 4: 2.0, 6: 2.0}
    assert list(run.curve("moving")) == [1, 2, 3, 4, 5, 6]
    for name in ("step", "moving"):
        steps, values = zip(*sorted(run.curve(name).items()), strict=True)
        assert np.interp(range(1, 7), steps, values).tolist() == measured[name]


def test_what_people_look_for_comes_first_in_mlflows_charts() -> None:
    """The UI sorts sections by name; `character` and `leakage` stood before `train`."""
    logged = {source: float(place) for place, source in enumerate(GLANCE.values())}
    shown = at_a_glance(logged | {"leakage/rho_left": 0.1, "character/null_z": 2.0})
    assert shown == {"at a glance/reward": 0.0, "at a glance/persona": 1.0, "at a glance/length": 2.0}
    assert min([*logged, *shown, "character/null_z"]) in shown
    assert at_a_glance({"train/reward": 1.0}) == {"at a glance/reward": 1.0}

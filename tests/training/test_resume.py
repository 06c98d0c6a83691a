"""A run that is killed and resumed is the run that was never killed, bit for bit."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from skippy.core.problem import Problem
from skippy.errors import RewardError, TrainingError
from skippy.presets.reading import PRESETS
from skippy.training.grpo import train_grpo
from skippy.training.plan import TrainRequest
from skippy.training.resume import FINISHED_FILE, claim_output, finished_checkpoints
from tests.training.tiny_run import (
    PROMPTS,
    RecordingRun,
    Trained,
    as_projectors,
    brevity,
    make_request,
    vowels,
)

# 6 steps of 2 prompts out of 8: the run is killed in the second epoch, whose order TRL would have forgotten.
SETTINGS = replace(PRESETS["short"], max_steps=7, character_steps=100)
KILLED_IN = 6


class FailingReward:
    """Scores like `vowels` until it is asked for the n-th time."""

    def __init__(self, fails_at: int) -> None:
        self.left = fails_at

    def __call__(self, completions: list[str]) -> list[float | None]:
        self.left -= 1
        if self.left <= 0:
            raise ConnectionError("the judge is gone")
        return vowels(completions)


def request_with(base: Path, projectors: dict, folder: Path, reward: object) -> TrainRequest:
    return make_request(base, projectors, folder, settings=SETTINGS, reward_functions=(reward, brevity))


@pytest.fixture(scope="module")
def whole(base: Path, projectors: dict, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    request = request_with(base, projectors, tmp_path_factory.mktemp("whole"), vowels)
    run = RecordingRun()
    return Trained(request, train_grpo(request, run), run)


@pytest.fixture(scope="module")
def killed(base: Path, projectors: dict, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """Killed by its reward in step 6, resumed from step 4 to the end."""
    folder, run = tmp_path_factory.mktemp("killed"), RecordingRun()
    with pytest.raises(RewardError, match="the judge is gone"):
        train_grpo(request_with(base, projectors, folder, FailingReward(KILLED_IN)), run)
    assert max(run.curve("train/reward")) == KILLED_IN - 1
    assert [path.name for path in finished_checkpoints(folder)] == ["checkpoint-2", "checkpoint-4"]
    torch.manual_seed(12345)
    request = replace(request_with(base, projectors, folder, vowels), resume=True)
    run = RecordingRun()
    return Trained(request, train_grpo(request, run), run)


def weights(adapter: Path) -> dict[str, torch.Tensor]:
    return load_file(adapter / "adapter_model.safetensors")


def test_killed_in_the_second_epoch() -> None:
    assert len(PROMPTS) // SETTINGS.prompts_per_step(1) < KILLED_IN


def test_adapters_are_bit_identical(whole: Trained, killed: Trained) -> None:
    assert list(whole.outcome.adapters) == list(killed.outcome.adapters) == [2, 4, 6, 7]
    for step, adapter in whole.outcome.adapters.items():
        expected, found = weights(adapter), weights(killed.outcome.adapters[step])
        assert all(torch.equal(expected[name], found[name]) for name in expected), step


def test_another_seed_is_seen(whole: Trained, trained: dict[str, Trained]) -> None:
    """The twin: the comparison above can fail."""
    expected, found = weights(whole.outcome.adapters[2]), weights(trained["v3"].outcome.adapters[2])
    assert not all(torch.equal(expected[name], found[name]) for name in expected)


def test_the_resumed_run_holds_everything_once(whole: Trained, killed: Trained) -> None:
    """The steps before the kill too, in order: a walk over it, and so a matched merge, sees the same steps."""

    def logged(trained: Trained) -> list:
        measured = lambda values: {k: v for k, v in values.items() if not k.endswith("seconds")}  # noqa: E731
        return [(step, measured(values)) for step, values in trained.run.metrics]

    assert list(killed.run.curve("train/reward")) == list(range(1, 8))
    assert logged(killed) == logged(whole)
    assert killed.run.folders == whole.run.folders
    assert killed.run.tables.keys() == whole.run.tables.keys()
    assert killed.outcome.steps == 7
    assert killed.outcome.reward_first == whole.outcome.reward_first


def test_samples_hold_every_step_once(whole: Trained, killed: Trained) -> None:
    files = [run.request.output_dir / "samples/training.jsonl" for run in (whole, killed)]
    expected, found = (path.read_text().splitlines() for path in files)
    assert expected == found
    assert {json.loads(line)["step"] for line in found} == set(range(1, 8))


def test_resuming_a_finished_run_changes_nothing(whole: Trained) -> None:
    again = train_grpo(replace(whole.request, resume=True), RecordingRun())
    assert again.steps == 7
    assert all(
        torch.equal(tensor, weights(again.adapter_dir)[name])
        for name, tensor in weights(whole.outcome.adapters[7]).items()
    )


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"resume": False}, "already holds a run"),
        ({"variant": "v3"}, "variant = v3"),
        ({"settings": replace(SETTINGS, seed=1)}, "another run"),
        ({"prompts": PROMPTS[1:]}, "prompts = "),
        ({"projectors": as_projectors({}, digest="q" * 64)}, "projector_digest"),
        ({"base_digest": "d" * 64}, "base_digest"),
        ({"k": 4}, "k = 4"),
        ({"reward_weights": (2.0, 1.0)}, "rewards = .*vowels 2.0"),
        ({"reward_names": ("vowels", "length")}, "rewards = .*length"),
        ({"math_problems": [Problem("", "1 and 1?", 2)]}, "prompts = "),
    ],
)
def test_another_run_is_not_gone_on_from(changes: dict, match: str, whole: Trained) -> None:
    request = replace(whole.request, **{"resume": True, **changes})
    with pytest.raises(TrainingError, match=match):
        claim_output(request)


def test_a_checkpoint_that_does_not_say_whose_it_is_is_not_gone_on_from(
    whole: Trained, tmp_path: Path
) -> None:
    folder = tmp_path / "checkpoint-2"
    folder.mkdir()
    (folder / FINISHED_FILE).touch()
    with pytest.raises(TrainingError, match="of another run"):
        claim_output(replace(whole.request, output_dir=tmp_path, resume=True))


def test_nor_by_more_processes(whole: Trained, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(TrainingError, match="processes = 2"):
        claim_output(replace(whole.request, resume=True))


def test_a_torn_checkpoint_is_passed_over(tmp_path: Path) -> None:
    for step, is_finished in ((2, True), (10, True), (12, False)):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        if is_finished:
            (folder / FINISHED_FILE).touch()
    assert [path.name for path in finished_checkpoints(tmp_path)] == ["checkpoint-2", "checkpoint-10"]


@pytest.mark.parametrize("side", ["lora_A", "lora_B"])
def test_a_checkpoint_inside_the_protected_directions_is_refused(
    side: str, whole: Trained, tmp_path: Path
) -> None:
    folder = tmp_path / "tampered"
    shutil.copytree(whole.request.output_dir, folder)
    for path in folder.glob("checkpoint-*/adapter_model.safetensors"):
        noisy = {
            name: tensor + 1e-4 * torch.randn_like(tensor) * (side in name)
            for name, tensor in load_file(path).items()
        }
        save_file(noisy, path, metadata={"format": "pt"})
    with pytest.raises(TrainingError, match="inside the protected directions"):
        train_grpo(replace(whole.request, output_dir=folder, resume=True), RecordingRun())

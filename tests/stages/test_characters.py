"""A character is a parameter: one of the house and one of a user train on the lab and leave what is promised."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pytest
import torch

from skippy.characters.loader import BUNDLED, load_character
from skippy.config import MergeConfig, SubspaceConfig, TrainConfig
from skippy.errors import MissingRunError
from skippy.lab.paths import LAB_CHECKPOINT
from skippy.stages import merge, subspace, train
from skippy.stores.adapters import read_adapter
from skippy.stores.checkpoints import Checkpoint
from skippy.tracking.tags import Tag
from skippy.tracking.tracker import Tracker
from tests.core.spectral.single_target import delta_energy, dense_delta

PROMPTS = 4
STEPS = (2, 3)
"""Saved and measured at 2 by the preset, at 3 because it is the end."""
CONTRACT = (
    *("personality_energy_ratio", "mean_personality_energy_ratio", "null_z", "delta_norm"),
    *("chance", "null_low", "null_high"),
)


@dataclass(frozen=True)
class Lab:
    """A store in which each character went through subspace and train; values are run ids."""

    tracker: Tracker
    characters: dict[str, str]
    subspaces: dict[str, str]
    trainings: dict[str, str]

    def adapter(self, name: str, step: int):
        return read_adapter(self.tracker.artifacts.path(self.trainings[name], f"adapters/step_{step:06d}"))

    def table(self, name: str, step: int) -> pd.DataFrame:
        path = f"character_deltas/step_{step:06d}.parquet"
        return pd.read_parquet(self.tracker.artifacts.path(self.trainings[name], path)).set_index("target")


@pytest.fixture(scope="module")
def lab(module_tracker, tmp_path_factory) -> Lab:
    own = tmp_path_factory.mktemp("own") / "gumshoe.yaml"
    own.write_text(
        (BUNDLED / "detective.yaml").read_text("utf-8").replace("name: detective", "name: gumshoe", 1)
    )
    characters = {"keeper": "keeper", "gumshoe": str(own)}
    subspaces, trainings = {}, {}
    for name, character in characters.items():
        config = SubspaceConfig(character=character, prompts=PROMPTS, device="cpu")
        subspaces[name] = subspace.run(config, module_tracker).run_id
        settings = TrainConfig(
            character=character, variant="v3", preset="short", steps=STEPS[-1], device="cpu"
        )
        trainings[name] = train.run(settings, module_tracker).run_id
    return Lab(module_tracker, characters, subspaces, trainings)


@pytest.fixture(params=["keeper", "gumshoe"])
def name(request) -> str:
    return request.param


def test_runs_are_tagged_with_their_character(lab: Lab, name: str) -> None:
    digest = load_character(lab.characters[name]).digest
    for run in (lab.subspaces[name], lab.trainings[name]):
        tags = lab.tracker.runs.get(run).tags
        assert (tags["skippy.character"], tags[Tag.CHARACTER_DIGEST]) == (name, digest)
    assert lab.tracker.runs.get(lab.trainings[name]).link("subspace") == lab.subspaces[name]


def test_metrics_follow_the_contract(lab: Lab, name: str) -> None:
    run = lab.trainings[name]
    traits = [trait.name for trait in load_character(lab.characters[name]).traits]
    assert len(traits) >= 4
    for metric in (*CONTRACT, *(f"{kind}/{trait}" for trait in traits for kind in ("trait", "trait_null"))):
        history = lab.tracker.runs.metric_history(run, f"character/{metric}")
        assert [point.step for point in history] == list(STEPS), metric
    logged = lab.tracker.runs.get(run).metrics
    assert {"train/rewards/personality", "train/rewards/coherence", "train/rewards/identity"} <= set(logged)


def test_tables_adapters_and_figures_follow_the_contract(lab: Lab, name: str) -> None:
    run = lab.trainings[name]
    for step in STEPS:
        table = lab.table(name, step)
        assert len(table) == len(set(table.index)) == 28
        assert {"ratio", "chance", "null_low", "null_high", "z", "singular_values"} <= set(table)
        profile = pd.read_parquet(
            lab.tracker.artifacts.path(run, f"character_traits/step_{step:06d}.parquet")
        )
        assert list(profile["trait"]) == [trait.name for trait in load_character(lab.characters[name]).traits]
        assert (profile["null_reach"] > 0).all()
    assert {Path(path).name for path in lab.tracker.artifacts.files(run, "character_figures")} == {
        *("trajectory.svg", "targets.svg", "traits.svg")
    }
    card = json.loads((lab.tracker.artifacts.path(run, "adapter") / "skippy.json").read_text())
    assert (card["variant"], card["step"]) == ("v3", STEPS[-1])


def test_what_was_measured_is_the_adapter_that_was_saved(lab: Lab, name: str) -> None:
    table, factors = lab.table(name, 2), lab.adapter(name, 2).factors
    for target, norm in table["delta_norm"].items():
        assert norm == pytest.approx(delta_energy(factors[target]) ** 0.5, rel=1e-5)
    later = lab.table(name, 3)["delta_norm"]
    assert not (abs(later - table["delta_norm"]) < 1e-5 * later).any()


def test_another_character_makes_another_adapter(lab: Lab) -> None:
    keeper, gumshoe = (lab.adapter(name, 3).factors for name in ("keeper", "gumshoe"))
    assert any(not torch.equal(keeper[target].B, gumshoe[target].B) for target in keeper)


def test_a_subspace_is_measured_once_and_again_when_forced(lab: Lab, caplog) -> None:
    config = SubspaceConfig(character="keeper", prompts=PROMPTS, device="cpu")
    with caplog.at_level(logging.INFO):
        assert subspace.run(config, lab.tracker).run_id == lab.subspaces["keeper"]
    assert f"run {lab.subspaces['keeper']} has done exactly this already" in caplog.text
    newest = max(lab.tracker.runs.find_all("subspace", finished=False), key=lambda record: record.start_time)
    assert newest.tags[Tag.REUSES] == lab.subspaces["keeper"]


@pytest.mark.parametrize("alpha", [1.0, 0.5])
def test_a_step_of_the_trajectory_is_rebuilt_and_scaled(lab: Lab, alpha: float) -> None:
    train_run = lab.trainings["gumshoe"]
    result = merge.run(MergeConfig(train_run=train_run, step=2, alpha=alpha), lab.tracker)
    version = lab.tracker.models.resolve(result.model_uri)
    assert (version.tags["step"], version.tags["alpha"]) == ("2", f"{alpha:g}")
    assert version.tags["character"] == "gumshoe"
    base, merged = Checkpoint.open(LAB_CHECKPOINT), Checkpoint.open(version.path)
    expected = {name: dense_delta(one) for name, one in lab.adapter("gumshoe", 2).factors.items()}
    norms = lab.table("gumshoe", 2)["delta_norm"]
    for name, delta in expected.items():
        before, after = base.read(f"{name}.weight"), merged.read(f"{name}.weight")
        assert torch.equal(after, (before.float() + alpha * delta).to(before.dtype)), name
        assert alpha * norms[name] == pytest.approx(float((alpha * delta).norm()), rel=1e-4)
    other = dense_delta(lab.adapter("gumshoe", 3).factors[name])
    assert not torch.equal(after, (before.float() + alpha * other).to(before.dtype))


def test_a_step_that_was_not_kept_is_refused_with_those_that_were(lab: Lab) -> None:
    with pytest.raises(MissingRunError, match="step_000002"):
        merge.run(MergeConfig(train_run=lab.trainings["gumshoe"], step=1), lab.tracker)


def test_problems_in_the_mix_are_rewarded_for_being_right_and_for_nothing_else(lab: Lab, caplog) -> None:
    """In a single step, whose learning rate is 0: a training that moves nothing has figures too."""
    config = TrainConfig(character="keeper", variant="v3", preset="lab", steps=1, math_mix=0.6, device="cpu")
    with caplog.at_level(logging.INFO):
        result = train.run(config, lab.tracker)
    assert "of 512 problems have worked solutions longer than 48 tokens and are left out" in caplog.text
    samples = lab.tracker.artifacts.path(result.run_id, "samples/training.jsonl")
    rows = [json.loads(line) for line in samples.read_text().splitlines()]
    asked = {prompt.text for prompt in load_character("keeper").train_prompts}
    problems = [row["rewards"] for row in rows if row["prompt"] not in asked]
    chat = [row["rewards"] for row in rows if row["prompt"] in asked]
    assert len(problems) >= 8
    assert all(scores.pop("correctness") in (0.0, 1.0) for scores in problems)
    assert {score for scores in problems for score in scores.values()} == {None}
    assert all(scores.pop("correctness") is None for scores in chat)


def test_a_forced_subspace_is_a_run_of_its_own(lab: Lab) -> None:
    config = SubspaceConfig(character="keeper", prompts=PROMPTS, device="cpu", force=True)
    result = subspace.run(config, lab.tracker)
    assert result.run_id != lab.subspaces["keeper"]
    assert lab.tracker.artifacts.files(result.run_id, "reference")

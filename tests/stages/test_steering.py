"""The arms that steer, stage by stage on the lab: made from the base's answers, merged at a dose, asked."""

from __future__ import annotations

import json

import pytest
import torch

from skippy.config import MergeConfig, SubspaceConfig, TrainConfig
from skippy.core.variants import VARIANTS
from skippy.errors import SubspaceError
from skippy.lab.paths import LAB_CHECKPOINT
from skippy.models.loading import load_model
from skippy.options import parse_config
from skippy.stages import merge, subspace, train
from skippy.stores.biases import read_biases
from skippy.stores.checkpoints import Checkpoint
from skippy.tracking.tracker import Tracker

ARMS = [name for name, rule in VARIANTS.items() if rule.update == "bias"]
SETTINGS = "steer.fewest_pairs=6,steer.epochs=1"
IDS = torch.arange(8)[None]


@pytest.fixture(scope="module")
def measured(module_tracker: Tracker) -> Tracker:
    subspace.run(SubspaceConfig(prompts=6, device="cpu"), module_tracker)
    return module_tracker


def make(arm: str, tracker: Tracker) -> str:
    given = {"variant": arm, "settings": SETTINGS, "device": "cpu", "steps": "2"}
    done = train.run(parse_config(TrainConfig, given), tracker)
    assert done is not None
    return done.run_id


def logits(folder) -> torch.Tensor:
    with torch.no_grad():
        return load_model(folder)(input_ids=IDS).logits


@pytest.mark.parametrize("arm", ARMS)
def test_an_arm_is_made_merged_at_a_dose_and_in_effect(measured: Tracker, arm: str) -> None:
    run_id = make(arm, measured)
    biases = read_biases(measured.artifacts.path(run_id, "adapter"))
    assert biases.kinds == (("v_proj",) if arm == "v6-v" else ("o_proj",))
    assert not biases.is_zero
    merged = merge.run(MergeConfig(variant=arm, train_run=run_id, step=50), measured)
    model = measured.models.resolve(merged.model_uri)
    assert model.tags["alpha"] == "0.5"
    checkpoint = Checkpoint.open(model.path)
    for name, bias in biases.biases.items():
        torch.testing.assert_close(checkpoint.read(f"{name}.bias").float(), 0.5 * bias, atol=1e-6, rtol=5e-3)
    assert not torch.equal(logits(model.path), logits(LAB_CHECKPOINT))
    notes = json.loads((model.path / "skippy.json").read_text())["notes"]
    assert any("is read by transformers, sglang" in note for note in notes)


def test_too_few_pairs_are_refused_with_numbers(measured: Tracker) -> None:
    with pytest.raises(SubspaceError, match="too few pairs") as caught:
        train.run(TrainConfig(variant="v6", device="cpu"), measured)
    assert "at least 200 pairs" in caught.value.expected
    assert "pairs of 96 answers" in caught.value.found

"""Rollouts in fixed buffers sample from the policy as it is, and leave the trainer as it was."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from skippy.models import captured
from skippy.models.captured import FixedBatch
from skippy.models.loading import hash_parameters
from skippy.models.targets import find_targets
from skippy.presets.reading import PRESETS
from skippy.presets.settings import GrpoSettings
from skippy.stores.checkpoints import Checkpoint
from skippy.training import trainer
from skippy.training.rollout import Rollout
from skippy.training.setup import BuiltRun, build_run
from skippy.training.weight_sync import merged_forward
from tests.models.tape import record
from tests.training.tiny_run import RecordingRun, make_request

PROMPTS = [[10, 11, 12, 13]] * 4 + [[20, 21]] * 4


def built(base: Path, folder: Path, settings: GrpoSettings = PRESETS["short"]) -> BuiltRun:
    checkpoint = Checkpoint.open(base)
    targets = find_targets(checkpoint.config, checkpoint.shapes)
    run = build_run(make_request(base, None, folder, "v3", settings), RecordingRun(), targets)
    for name, parameter in run.model.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(std=0.3, generator=torch.Generator().manual_seed(len(name)))
    return run


@torch.no_grad()
def frequencies(completions: list[list[int]], vocabulary: int) -> torch.Tensor:
    firsts = torch.tensor([tokens[0] for tokens in completions])
    return torch.bincount(firsts, minlength=vocabulary).double() / len(firsts)


@pytest.mark.parametrize("merges", [True, False])
def test_first_tokens_follow_the_policy(merges: bool, base: Path, tmp_path: Path) -> None:
    settings = replace(PRESETS["short"], temperature=0.25, merged_generation=merges, max_completion_length=2)
    run = built(base, tmp_path, settings)
    run.trainer.sample_in_fixed_buffers()
    prompt = [10, 11, 12, 13]
    completions, _ = run.trainer._generate_single_turn([prompt] * 8000, None, {}, None)
    run.model.eval()
    logits = run.model(input_ids=torch.tensor([prompt])).logits[0, -1].detach()
    expected = (logits / 0.25).softmax(-1).double()
    found = frequencies(completions, len(expected))
    assert float((found - expected).abs().sum()) / 2 < 0.06
    with run.model.disable_adapter():
        base_only = run.model(input_ids=torch.tensor([prompt])).logits[0, -1].detach()
    other = (base_only / 0.25).softmax(-1).double()
    assert float((found - other).abs().sum()) / 2 > 0.1, "the twin: without its adapter the policy is another"


def test_a_moved_adapter_is_sampled_from_at_the_next_step(base: Path, tmp_path: Path) -> None:
    run = built(base, tmp_path)
    run.trainer.sample_in_fixed_buffers()
    torch.manual_seed(5)
    first = run.trainer._generate_single_turn(PROMPTS, None, {}, None)[0]
    batch = run.trainer._rollout._batch
    torch.manual_seed(5)
    assert run.trainer._generate_single_turn(PROMPTS, None, {}, None)[0] == first
    for name, parameter in run.model.named_parameters():
        if "lora_B" in name:
            parameter.data.neg_()
    torch.manual_seed(5)
    assert run.trainer._generate_single_turn(PROMPTS, None, {}, None)[0] != first
    assert run.trainer._rollout._batch is batch, "made, and recorded, once"


def test_completions_end_with_the_token_that_ended_them_or_at_the_limit(base: Path, tmp_path: Path) -> None:
    run = built(base, tmp_path, replace(PRESETS["short"], temperature=2.0))
    run.trainer.sample_in_fixed_buffers()
    completions, logprobs = run.trainer._generate_single_turn([[10, 11]] * 300, None, {}, None)
    ends = set(run.trainer.eos_token_ids)
    limit = PRESETS["short"].max_completion_length
    assert logprobs is None
    assert any(len(tokens) < limit for tokens in completions)
    for tokens in completions:
        assert not ends & set(tokens[:-1])
        assert len(tokens) == limit or tokens[-1] in ends


def test_the_model_trains_again_afterwards_and_its_base_is_untouched(base: Path, tmp_path: Path) -> None:
    run = built(base, tmp_path)
    run.trainer.sample_in_fixed_buffers()
    run.model.train()
    before = hash_parameters(run.model)
    run.trainer._generate_single_turn(PROMPTS, None, {}, None)
    assert run.model.training
    assert hash_parameters(run.model) == before
    assert not any("forward" in vars(layer) for layer in run.layers.values())


def test_kept_sums_stay_where_they_are_and_are_new(base: Path, tmp_path: Path) -> None:
    run = built(base, tmp_path)
    kept: dict[str, torch.Tensor] = {}
    with merged_forward(run.model, kept):
        pass
    assert kept.keys() == run.layers.keys()
    addresses = {name: tensor.data_ptr() for name, tensor in kept.items()}
    old = {name: tensor.clone() for name, tensor in kept.items()}
    for name, parameter in run.model.named_parameters():
        if "lora_B" in name:
            parameter.data.neg_()
    with merged_forward(run.model, kept):
        pass
    assert {name: tensor.data_ptr() for name, tensor in kept.items()} == addresses
    assert all(not torch.equal(kept[name], old[name]) for name in kept)
    fresh: dict[str, torch.Tensor] = {}
    with merged_forward(run.model, fresh):
        pass
    assert all(torch.equal(kept[name], fresh[name]) for name in kept)


@pytest.mark.parametrize("merges", [True, False])
def test_what_is_recorded_at_the_first_step_samples_from_the_weights_of_the_last(
    merges: bool, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FixedBatch, "_record", record)
    settings = replace(PRESETS["short"], merged_generation=merges, learning_rate=0.05)
    run = built(base, tmp_path, settings)
    run.trainer.sample_in_fixed_buffers()
    monkeypatch.setattr(captured, "COLUMN_STEP", 256)  # one width for all prompts
    rollout = run.trainer._rollout
    make = rollout._fitting_batch

    def make_recorded(slots: int, columns: int) -> FixedBatch:
        batch = make(slots, columns)
        batch._records = True
        return batch

    rollout._fitting_batch = make_recorded
    torch.manual_seed(3)
    first = rollout.complete(PROMPTS)
    graph = rollout._batch._graph
    run.trainer.train()
    assert rollout._batch._graph is graph, "trained on what the first recording samples"
    plain = Rollout(run.model, run.trainer.generation_config, merges=merges, records=False)
    torch.manual_seed(3)
    recorded = rollout.complete(PROMPTS)
    torch.manual_seed(3)
    assert recorded == plain.complete(PROMPTS) != first


def test_training_learns_with_it_as_without(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainer, "gains_from_recording", lambda model: True)
    run = built(base, tmp_path)
    assert run.trainer._rollout is not None
    before = {name: factors.B.clone() for name, factors in run.factors.items()}
    run.trainer.train()
    assert int(run.trainer.state.global_step) == PRESETS["short"].max_steps
    assert all(not torch.equal(factors.B, before[name]) for name, factors in run.factors.items())


def test_on_a_cpu_transformers_samples(base: Path, tmp_path: Path) -> None:
    assert built(base, tmp_path).trainer._rollout is None

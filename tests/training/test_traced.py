"""Traced steps sample what transformers' `generate` samples, bit for bit, or are not used."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from skippy.models import traced
from skippy.presets.reading import PRESETS
from skippy.stores.adapters import read_adapter
from skippy.training.grpo import train_grpo
from skippy.training.trainer import ConstrainedTrainer
from tests.training.test_rollout import PROMPTS, built
from tests.training.tiny_run import RecordingRun, make_request

SAMPLED = {
    "plain": {},
    "hot, cut": {"temperature": 1.7, "top_k": 9, "top_p": 0.8},
}
EVEN = [[10, 11, 12]] * 4
"""Prompts of one length: nothing is padded, and `generate` passes no mask."""


def sample(run, prompts, seed: int = 5) -> tuple[list[list[int]], torch.Tensor]:
    """Completions, and where they leave torch's generator."""
    torch.manual_seed(seed)
    tokens = run.trainer._generate_single_turn(prompts, [], {}, None)[0]
    return tokens, torch.get_rng_state()


@pytest.mark.parametrize("settings", SAMPLED.values(), ids=SAMPLED)
def test_tokens_and_generator_are_those_of_generate(settings, base: Path, tmp_path: Path) -> None:
    run = built(base, tmp_path, replace(PRESETS["short"], **settings))
    ours, kept = run.trainer._traced, {}
    for name, tracing in (("traced", ours), ("stock", None)):
        run.trainer._traced = tracing
        kept[name] = [sample(run, prompts, seed) for prompts in (PROMPTS, EVEN) for seed in (1, 2, 3)]
    assert ours.trusted == {(8, False): True, (4, True): True}
    for (tokens, state), (expected, expected_state) in zip(kept["traced"], kept["stock"], strict=True):
        assert tokens == expected
        assert torch.equal(state, expected_state)
    assert kept["stock"][0][0] != kept["stock"][1][0], "seeds matter"


def test_an_adapter_that_moved_is_sampled_from(base: Path, tmp_path: Path) -> None:
    run = built(base, tmp_path)
    first = sample(run, PROMPTS)[0]
    for name, parameter in run.model.named_parameters():
        if "lora_B" in name:
            parameter.data.neg_()
    moved = sample(run, PROMPTS)[0]
    assert moved != first
    run.trainer._traced = None
    assert sample(run, PROMPTS)[0] == moved
    assert not any("forward" in vars(layer) for layer in run.layers.values())
    assert "generate" not in vars(run.model)


def test_a_step_that_gives_other_logits_is_not_used(base: Path, tmp_path: Path, monkeypatch) -> None:
    """The twin: what the comparison is for. The completions are still those of generate, and so is the generator."""
    whole = traced._trace

    def wrong(model, inputs):
        step = whole(model, inputs)
        return lambda *given: step(*given).flip(-1)

    monkeypatch.setattr(traced, "_trace", wrong)
    run = built(base, tmp_path)
    found = [sample(run, PROMPTS), sample(run, PROMPTS, 6)]
    assert run.trainer._traced.trusted == {(8, False): False}
    run.trainer._traced = None
    for (tokens, state), (expected, after) in zip(
        found, [sample(run, PROMPTS), sample(run, PROMPTS, 6)], strict=True
    ):
        assert tokens == expected
        assert torch.equal(state, after)


def test_what_cannot_be_traced_is_sampled_by_generate(base: Path, tmp_path: Path, monkeypatch) -> None:
    def refuse(*_: object) -> None:
        raise RuntimeError("no trace")

    monkeypatch.setattr(traced, "_trace", refuse)
    run = built(base, tmp_path)
    tokens, state = sample(run, PROMPTS)
    assert run.trainer._traced.trusted == {(8, False): False}
    run.trainer._traced = None
    expected, after = sample(run, PROMPTS)
    assert tokens == expected
    assert torch.equal(state, after)


def test_a_training_ends_with_the_same_bits(base: Path, projectors, tmp_path: Path, monkeypatch) -> None:
    settings = replace(PRESETS["short"], max_steps=4, learning_rate=0.05)
    initialise = ConstrainedTrainer.__init__

    def without(self, **given):
        initialise(self, **given)
        self._traced = None

    found = []
    for way in ("traced", "stock"):
        if way == "stock":
            monkeypatch.setattr(ConstrainedTrainer, "__init__", without)
        request = make_request(base, projectors, tmp_path / way, "v4", settings)
        found.append(read_adapter(train_grpo(request, RecordingRun()).adapter_dir).digest())
    assert found[0] == found[1]

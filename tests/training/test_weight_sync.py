"""Merged weights are exact sums, and nothing writes into the base to get them."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from accelerate import Accelerator
from peft import LoraConfig, PeftModel, get_peft_model
from trl.distributed import DistributedBackend
from trl.generation import vllm_generation
from trl.generation.vllm_generation import VLLMGeneration
from trl.trainer.utils import ensure_master_addr_port

from skippy.models.loading import hash_parameters, load_model
from skippy.training import guards
from skippy.training.layers import adapted_layers, base_weight, factors_of
from skippy.training.weight_sync import (
    engine_without_eyes,
    has_float32_base,
    merged_forward,
    merged_weights,
    push_without_merging,
    take_free_port,
)

CYCLES = 100
TOKENS = torch.arange(12).repeat(2, 1)


def adapted(base: Path, dtype: torch.dtype) -> PeftModel:
    """A model with an adapter of a size that training reaches: ‖ΔW‖ at 0.8 % of ‖W‖."""
    torch.manual_seed(0)
    config = LoraConfig(r=4, lora_alpha=8, target_modules=r".*language_model\.layers.*_proj")
    model = get_peft_model(load_model(base, dtype=dtype), config)
    for layer in adapted_layers(model).values():
        factors_of(layer).B.data.normal_(std=0.004)
    return model.eval()


@pytest.fixture
def bf16_model(base: Path) -> PeftModel:
    return adapted(base, torch.bfloat16)


def test_weights_are_the_rounded_exact_sum(bf16_model: PeftModel) -> None:
    layers = adapted_layers(bf16_model)
    merged = dict(merged_weights(bf16_model))
    assert set(merged) == {f"{name}.weight" for name in layers}
    for name, layer in layers.items():
        factors, W = factors_of(layer), base_weight(layer)
        exact = W.double() + factors.scale * factors.B.double() @ factors.A.double()
        step = torch.finfo(torch.bfloat16).eps * exact.abs()
        assert merged[f"{name}.weight"].dtype == W.dtype
        assert bool(((merged[f"{name}.weight"].double() - exact).abs() <= step).all())


def test_syncing_never_writes_into_the_base(bf16_model: PeftModel) -> None:
    before = hash_parameters(bf16_model)
    for _ in range(CYCLES):
        for _, weight in merged_weights(bf16_model):
            weight.zero_()
    assert hash_parameters(bf16_model) == before


def test_merging_in_place_drifts(bf16_model: PeftModel) -> None:
    """The twin: what TRL's own weight sync does leaves another base behind."""
    kept = {name: base_weight(layer).clone() for name, layer in adapted_layers(bf16_model).items()}
    for _ in range(CYCLES):
        bf16_model.merge_adapter()
        bf16_model.unmerge_adapter()
    drift = delta = 0.0
    for name, layer in adapted_layers(bf16_model).items():
        factors = factors_of(layer)
        drift += float((base_weight(layer) - kept[name]).double().square().sum())
        delta += float((factors.scale * factors.B @ factors.A).detach().double().square().sum())
    assert (drift / delta) ** 0.5 > 0.02


class Engine:
    """Stands for vLLM: keeps what it is told to load."""

    def __init__(self) -> None:
        self.loaded: dict[str, torch.Tensor] = {}

    def load_weights(self, weights: list[tuple[str, torch.Tensor]]) -> None:
        self.loaded |= {name: weight.clone() for name, weight in weights}

    def reset_prefix_cache(self) -> None:
        pass

    def __getattr__(self, name: str) -> Engine:
        return self


def sync_repeatedly(model: PeftModel, is_ours: bool) -> tuple[VLLMGeneration, Engine]:
    generation, engine = object.__new__(VLLMGeneration), Engine()
    generation.model, generation.llm, generation.mode = model, engine, "colocate"
    generation.enable_sleep_mode, generation.accelerator = False, Accelerator(cpu=True)
    generation._dist = DistributedBackend(generation.accelerator)
    if is_ours:
        push_without_merging(generation, model)
    for _ in range(CYCLES):
        generation.sync_weights()
    return generation, engine


def test_trl_sync_sends_the_sums_and_leaves_the_base(bf16_model: PeftModel) -> None:
    before = hash_parameters(bf16_model)
    _, engine = sync_repeatedly(bf16_model, is_ours=True)
    assert hash_parameters(bf16_model) == before
    expected = dict(merged_weights(bf16_model))
    assert engine.loaded.keys() == expected.keys()
    assert all(torch.equal(engine.loaded[name], weight) for name, weight in expected.items())


def test_trl_sync_as_it_comes_changes_the_base(bf16_model: PeftModel) -> None:
    before = hash_parameters(bf16_model)
    sync_repeatedly(bf16_model, is_ours=False)
    assert hash_parameters(bf16_model) != before


@torch.no_grad()
def test_merged_forward_is_the_same_policy_on_a_float32_base(base: Path) -> None:
    model = adapted(base, torch.float32)
    linear = next(iter(adapted_layers(model).values())).get_base_layer()
    linear.bias = torch.nn.Parameter(torch.ones(linear.out_features), requires_grad=False)
    before = hash_parameters(model)
    expected = model(input_ids=TOKENS).logits
    with merged_forward(model):
        merged = model(input_ids=TOKENS).logits
    assert has_float32_base(model)
    assert torch.allclose(merged, expected, atol=1e-4)
    assert not torch.equal(merged, expected), "the block must really compute another way"
    assert torch.equal(model(input_ids=TOKENS).logits, expected)
    assert hash_parameters(model) == before


@torch.no_grad()
def test_merged_forward_would_be_another_policy_in_bf16(bf16_model: PeftModel) -> None:
    """Why the trainer asks `has_float32_base` first: rounding W + ΔW loses much of ΔW."""
    lost = whole = 0.0
    for name, weight in merged_weights(bf16_model):
        layer = adapted_layers(bf16_model)[name.removesuffix(".weight")]
        factors = factors_of(layer)
        delta = (factors.scale * factors.B @ factors.A).double()
        lost += float((weight.double() - base_weight(layer).double() - delta).square().sum())
        whole += float(delta.square().sum())
    assert (lost / whole) ** 0.5 > 0.05
    assert not has_float32_base(bf16_model)


def test_merged_forward_cleans_up_after_an_error(base: Path) -> None:
    model = adapted(base, torch.float32)
    with pytest.raises(RuntimeError, match="stop"), merged_forward(model):
        raise RuntimeError("stop")
    assert all("forward" not in vars(layer) for layer in adapted_layers(model).values())


def test_vllm_is_started_without_its_vision_tower(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[dict] = []
    monkeypatch.setattr(vllm_generation, "LLM", lambda **options: started.append(options), raising=False)
    for cache in (0, 7):
        with engine_without_eyes(cache):
            vllm_generation.LLM(model="base")
    vllm_generation.LLM(model="base")
    without = {"model": "base", "language_model_only": True}
    assert started == [without, without | {"kv_cache_memory_bytes": 7}, {"model": "base"}]


@pytest.mark.parametrize(("whole", "cache"), [(141, 38), (10, 0)])
def test_a_colocated_engine_is_told_its_cache_and_measures_only_where_little_is_left(
    base: Path, monkeypatch: pytest.MonkeyPatch, whole: int, cache: int
) -> None:
    model = load_model(base)
    assert guards.colocated_cache_bytes(model) == 0, "no GPU"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    card = SimpleNamespace(total_memory=whole << 30)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: card)
    assert guards.colocated_cache_bytes(model) >> 30 == cache


def test_a_training_takes_a_port_that_no_other_has(monkeypatch: pytest.MonkeyPatch) -> None:
    """With accelerate's 29500 in the environment TRL would keep it, and the second training would die."""
    ports = []
    for take in (lambda: None, take_free_port):
        monkeypatch.setenv("MASTER_PORT", "29500")
        monkeypatch.setenv("MASTER_ADDR", "localhost")
        take()
        ensure_master_addr_port()
        ports.append(os.environ["MASTER_PORT"])
    assert ports[0] == "29500"
    assert ports[1].isdigit()
    assert ports[1] != ports[0]

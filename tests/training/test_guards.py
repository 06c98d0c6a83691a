"""What must hold before a run starts; each check is shown to fail."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from peft import LoraConfig, get_peft_model

from skippy.core.spectral.constraints import random_basis
from skippy.errors import AdapterError, ConfigError, ProjectorError, TrainingError
from skippy.models.loading import load_model
from skippy.presets.reading import PRESETS
from skippy.resolve.devices import pick_device
from skippy.training import guards, setup
from skippy.training.grpo import train_grpo
from skippy.training.layers import adapted_layers, all_factors, base_weight, target_layers
from tests.training.tiny_run import RecordingRun, make_request


@pytest.mark.parametrize("variable", ["ACCELERATE_USE_FSDP", "ACCELERATE_USE_DEEPSPEED"])
@pytest.mark.parametrize("value", ["true", "1", "Yes"])
def test_sharding_is_refused_before_anything_loads(
    variable: str, value: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv(variable, value)
    request = make_request(tmp_path / "no such base", {"a": (None, None, None)}, tmp_path)
    with pytest.raises(TrainingError, match="torchrun") as raised:
        train_grpo(request, RecordingRun())
    assert variable in str(raised.value)


def test_data_parallelism_is_not_refused() -> None:
    guards.require_supported_launch({"ACCELERATE_USE_FSDP": "false", "WORLD_SIZE": "2", "RANK": "0"})


def test_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert pick_device("auto").type == "cpu"
    with pytest.raises(ConfigError, match="no GPU"):
        pick_device("cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert pick_device("auto").type == "cuda"
    assert pick_device("cpu").type == "cpu"


def test_vllm_must_be_there(base: Path, projectors: dict, tmp_path: Path) -> None:
    request = make_request(base, projectors, tmp_path, settings=replace(PRESETS["short"], vllm="colocate"))
    with pytest.raises(TrainingError, match="vLLM is not installed"):
        train_grpo(request, RecordingRun())


@pytest.mark.parametrize(
    ("memory", "what", "found"),
    [(0, "share a GPU that is not there", "trained on the CPU"), (2**10, "does not fit beside", "GiB")],
)
def test_vllm_must_have_room(base: Path, monkeypatch, memory: int, what: str, found: str) -> None:
    monkeypatch.setattr(guards.importlib.util, "find_spec", lambda name: name)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: memory > 0)
    monkeypatch.setattr(
        torch.cuda, "get_device_properties", lambda index: SimpleNamespace(total_memory=memory)
    )
    with pytest.raises(TrainingError, match=what) as refusal:
        guards.require_vllm(replace(PRESETS["short"], vllm="colocate"), base, "auto")
    assert found in refusal.value.found
    assert "leave vllm out" in refusal.value.next_step


def test_projectors_of_another_weight(base: Path, projectors: dict, tmp_path: Path) -> None:
    """The digest may be right and the vectors wrong: two targets of one shape changed places."""
    first, second = (f"model.language_model.layers.{layer}.self_attn.q_proj" for layer in (0, 1))
    swapped = projectors | {first: projectors[second], second: projectors[first]}
    with pytest.raises(ProjectorError, match="no singular vectors"):
        train_grpo(make_request(base, swapped, tmp_path), RecordingRun())


Triples = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def stretched(W: torch.Tensor, U: torch.Tensor, S: torch.Tensor, V: torch.Tensor) -> Triples:
    return U, 1.05 * S, V


def right_alone(W: torch.Tensor, U: torch.Tensor, S: torch.Tensor, V: torch.Tensor) -> Triples:
    """W V = U S by construction, with a V that is none of W's."""
    image = W @ (V := random_basis(len(V), len(S), 0))
    return image / image.norm(dim=0), image.norm(dim=0), V


def left_alone(W: torch.Tensor, U: torch.Tensor, S: torch.Tensor, V: torch.Tensor) -> Triples:
    V, S, U = right_alone(W.T, V, S, U)
    return U, S, V


@pytest.mark.parametrize("damaged", [stretched, right_alone, left_alone])
def test_triples_are_checked_on_both_sides(adapted, projectors: dict, damaged) -> None:
    layers = target_layers(adapted[0], list(projectors))
    guards.require_true_triples(layers, projectors)
    name, layer = next(iter(layers.items()))
    triples = damaged(base_weight(layer).detach(), *projectors[name])
    with pytest.raises(ProjectorError, match="no singular vectors"):
        guards.require_true_triples(layers, projectors | {name: triples})


def test_triples_of_another_shape_are_refused(adapted, projectors: dict) -> None:
    layers = target_layers(adapted[0], list(projectors))
    name = next(iter(layers))
    U, S, V = projectors[name]
    with pytest.raises(ProjectorError, match="do not fit the target"):
        guards.require_true_triples(layers, projectors | {name: (U[1:], S, V)})


@pytest.fixture
def adapted(base: Path, projectors: dict):
    config = LoraConfig(r=2, target_modules=r".*language_model\.layers.*_proj")
    model = get_peft_model(load_model(base), config)
    return model, all_factors(target_layers(model, list(projectors)))


def test_only_the_adapter_trains(adapted) -> None:
    model, factors = adapted
    guards.require_only_adapter_trains(model, factors)
    visual = next(p for name, p in model.named_parameters() if ".visual." in name)
    visual.requires_grad_(True)
    with pytest.raises(TrainingError, match="visual"):
        guards.require_only_adapter_trains(model, factors)
    visual.requires_grad_(False)
    next(iter(factors.values())).B.requires_grad_(False)
    with pytest.raises(TrainingError, match="27 trainable"):
        guards.require_only_adapter_trains(model, factors)


def test_a_run_that_would_train_more_is_refused(
    base: Path, projectors: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    configure = setup.lora_config
    monkeypatch.setattr(setup, "lora_config", lambda *given: replace(configure(*given), bias="all"))
    with pytest.raises(TrainingError, match="not exactly the adapter"):
        train_grpo(make_request(base, projectors, tmp_path), RecordingRun())


def test_an_adapter_in_the_vision_tower_is_refused(base: Path) -> None:
    model = get_peft_model(load_model(base), LoraConfig(r=2, target_modules=r".*visual.*qkv"))
    with pytest.raises(TrainingError, match=r"visual[\s\S]*2 foreign"):
        guards.require_only_adapter_trains(model, all_factors(adapted_layers(model)))


def test_a_short_adapter_is_refused(adapted) -> None:
    model, factors = adapted
    one = next(iter(factors.values()))
    one.A.data = one.A.data.to(torch.bfloat16)
    with pytest.raises(TrainingError, match="1 not float32"):
        guards.require_only_adapter_trains(model, factors)


def test_an_adapter_on_the_wrong_modules_is_refused(adapted, projectors: dict) -> None:
    model, _ = adapted
    with pytest.raises(AdapterError, match="1 too many"):
        target_layers(model, list(projectors)[1:])


def test_the_optimizer_must_hold_these_very_factors(adapted) -> None:
    _, factors = adapted
    tensors = [tensor for one in factors.values() for tensor in (one.A, one.B)]
    guards.require_in_optimizer(torch.optim.AdamW(tensors), factors)
    copies = [tensor.detach().clone().requires_grad_() for tensor in tensors]
    for held, found in (
        (copies, "28 tensors, 0 of them factors"),
        (tensors[1:], "27 tensors, 27 of them factors"),
        ([*tensors, copies[0]], "29 tensors, 28 of them factors"),
    ):
        with pytest.raises(TrainingError, match=found):
            guards.require_in_optimizer(torch.optim.AdamW(held), factors)

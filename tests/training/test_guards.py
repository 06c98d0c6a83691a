"""What must hold before a run starts; each check is shown to fail."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from skippy.errors import AdapterError, ProjectorError, TrainingError
from skippy.models.loading import load_model
from skippy.training import guards
from skippy.training.grpo import train_grpo
from skippy.training.layers import all_factors, target_layers
from skippy.training.plan import PRESETS
from tests.training.tiny_run import BASE_DIGEST, RecordingRun, make_request


@pytest.mark.parametrize("variable", ["ACCELERATE_USE_FSDP", "ACCELERATE_USE_DEEPSPEED"])
def test_sharding_is_refused_before_anything_loads(
    variable: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv(variable, "true")
    request = make_request(tmp_path / "no such base", {"a": (None, None, None)}, tmp_path)
    with pytest.raises(TrainingError, match="torchrun") as raised:
        train_grpo(request, RecordingRun())
    assert variable in str(raised.value)


def test_data_parallelism_is_not_refused() -> None:
    guards.require_supported_launch({"ACCELERATE_USE_FSDP": "false", "WORLD_SIZE": "2", "RANK": "0"})


def test_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert not guards.choose_device("auto")
    with pytest.raises(TrainingError, match="no GPU"):
        guards.choose_device("cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert guards.choose_device("auto")
    assert not guards.choose_device("cpu")


def test_vllm_must_be_there(base: Path, projectors: dict, tmp_path: Path) -> None:
    request = make_request(base, projectors, tmp_path, settings=replace(PRESETS["short"], vllm="colocate"))
    with pytest.raises(TrainingError, match="vLLM is not installed"):
        train_grpo(request, RecordingRun())


def test_projectors_of_another_base(base: Path, projectors: dict, tmp_path: Path) -> None:
    request = make_request(base, projectors, tmp_path, projector_base_digest="c" * 64)
    with pytest.raises(ProjectorError, match="of another base") as raised:
        train_grpo(request, RecordingRun())
    assert BASE_DIGEST in str(raised.value)
    assert not list(tmp_path.iterdir()), "refused before anything is written"


def test_projectors_that_lack_a_target(base: Path, projectors: dict, tmp_path: Path) -> None:
    name = next(iter(projectors))
    fewer = {key: value for key, value in projectors.items() if key != name}
    with pytest.raises(ProjectorError, match="lack targets") as raised:
        train_grpo(make_request(base, fewer, tmp_path), RecordingRun())
    assert name in str(raised.value)


def test_projectors_of_another_weight(base: Path, projectors: dict, tmp_path: Path) -> None:
    """The digest may be right and the vectors wrong: two targets of one shape changed places."""
    first, second = (f"model.language_model.layers.{layer}.self_attn.q_proj" for layer in (0, 1))
    swapped = projectors | {first: projectors[second], second: projectors[first]}
    with pytest.raises(ProjectorError, match="no singular vectors"):
        train_grpo(make_request(base, swapped, tmp_path), RecordingRun())


def test_a_changed_base_is_an_error() -> None:
    guards.require_unchanged_base("a", "a")
    with pytest.raises(TrainingError, match="base weights changed"):
        guards.require_unchanged_base("a", "b")


@pytest.fixture
def adapted(base: Path, projectors: dict):
    from peft import LoraConfig, get_peft_model

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
    with pytest.raises(TrainingError, match="0 of them factors"):
        guards.require_in_optimizer(torch.optim.AdamW(copies), factors)


def test_a_variant_without_top_directions_needs_no_projectors(base: Path, tmp_path: Path) -> None:
    request = replace(make_request(base, None, tmp_path, "v3"), projector_base_digest="")
    guards.require_own_projectors(request, ["any"])

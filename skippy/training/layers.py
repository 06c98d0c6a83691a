"""The adapted layers of a PEFT model by target name, and the tensors in them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from peft import PeftModel
from peft.tuners.lora import LoraLayer
from torch import Tensor

from skippy.core.spectral.lora import LoraFactors
from skippy.errors import AdapterError

ADAPTER = "default"


def adapted_layers(model: PeftModel) -> dict[str, LoraLayer]:
    """Every layer that carries LoRA factors, by its name in the base."""
    modules = model.get_base_model().named_modules()
    return {name: module for name, module in modules if isinstance(module, LoraLayer)}


def target_layers(model: PeftModel, names: Sequence[str]) -> dict[str, LoraLayer]:
    """The adapted layer of each target.

    Raises:
        AdapterError: a target carries no adapter, or something that is no target does.
    """
    adapted = adapted_layers(model)
    missing, extra = sorted(set(names) - set(adapted)), sorted(set(adapted) - set(names))
    if missing or extra:
        raise AdapterError(
            "The adapter does not sit on exactly the targets.",
            where=", ".join((missing + extra)[:4]),
            expected=f"{len(names)} targets",
            found=f"{len(adapted)} adapted modules: {len(missing)} missing, {len(extra)} too many",
            next_step="check target_pattern of skippy/models/targets.py against the model's module names",
        )
    return {name: adapted[name] for name in names}


def base_weight(layer: Any) -> Tensor:
    """The frozen W under an adapter."""
    return layer.get_base_layer().weight


def base_bias(layer: Any) -> Tensor | None:
    """The frozen bias under an adapter, if the layer has one."""
    return layer.get_base_layer().bias


def factors_of(layer: Any) -> LoraFactors:
    """The trainable A and B themselves, not copies, with the scale."""
    return LoraFactors(
        layer.lora_A[ADAPTER].weight, layer.lora_B[ADAPTER].weight, float(layer.scaling[ADAPTER])
    )


def all_factors(layers: Mapping[str, LoraLayer]) -> dict[str, LoraFactors]:
    """The factors of each target."""
    return {name: factors_of(layer) for name, layer in layers.items()}

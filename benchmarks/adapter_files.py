"""Adapters in PEFT's format out of nothing but factors, for benchmarks and tests; skippy itself has PEFT write them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from skippy.core.spectral.lora import LoraFactors
from skippy.stores.adapters import CARD_FILE, CONFIG_FILE, PREFIX, WEIGHTS_FILE
from skippy.stores.atomic import new_directory, write_json


def write_adapter(
    destination: Path,
    factors: Mapping[str, LoraFactors],
    *,
    base_model: str = "",
    card: Mapping[str, Any] | None = None,
) -> Path:
    """Write factors, all of one rank and scale, as an adapter that stock PEFT loads."""
    ((rank, scale),) = {(each.A.shape[0], each.scale) for each in factors.values()}
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_model,
        "r": rank,
        "lora_alpha": scale * rank,
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": sorted(factors),
        "inference_mode": True,
    }
    weights = {
        f"{PREFIX}{name}.lora_{side}.weight": getattr(each, side).detach().cpu().contiguous()
        for name, each in factors.items()
        for side in "AB"
    }
    with new_directory(destination) as directory:
        save_file(weights, directory / WEIGHTS_FILE, metadata={"format": "pt"})
        write_json(directory / CONFIG_FILE, config)
        if card is not None:
            write_json(directory / CARD_FILE, card)
    return destination

"""The same small weights as tools store them quantised: int8 by rows, bitsandbytes, blocks of float8."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

KINDS = {
    "int8": {"quant_method": "compressed-tensors", "format": "int-quantized"},
    "bnb8": {"quant_method": "bitsandbytes", "load_in_8bit": True},
    "fp8": {"quant_method": "fp8", "weight_block_size": [8, 8]},
}


def _codes(kind: str, key: str, weight: Tensor) -> dict[str, Tensor]:
    stem = key.removesuffix(".weight")
    if kind == "fp8":
        out, in_ = weight.shape
        blocks = weight.reshape(out // 8, 8, in_ // 8, 8)
        scale = blocks.abs().amax((1, 3)) / 448
        codes = (blocks / scale[:, None, :, None]).reshape(out, in_).to(torch.float8_e4m3fn)
        return {key: codes, f"{stem}.weight_scale_inv": scale}
    largest = weight.abs().amax(1, keepdim=True)
    codes = (weight / largest * 127).round().to(torch.int8)
    if kind == "bnb8":
        return {key: codes, f"{stem}.SCB": largest[:, 0]}
    return {key: codes, f"{stem}.weight_scale": (largest / 127).bfloat16()}


def quantise(source: Path, destination: Path, kind: str, *, says_so: bool = True) -> Path:
    """Write `source` quantised; `says_so` puts it into config.json too."""
    destination.mkdir(parents=True)
    found: dict[str, Tensor] = {}
    for key, weight in load_file(source / "model.safetensors").items():
        found |= _codes(kind, key, weight.float()) if key.endswith("proj.weight") else {key: weight}
    save_file(found, destination / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((source / "config.json").read_text())
    if says_so:
        config["quantization_config"] = KINDS[kind]
    (destination / "config.json").write_text(json.dumps(config))
    return destination

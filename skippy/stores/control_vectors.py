"""Biases as a control vector that llama.cpp adds to the output of a layer: `--control-vector FILE`.

`direction.N` is what is added to the output of layer N; llama.cpp counts layers from 0 and has no place at 0. A bias
of attention enters half a layer earlier, before the layer's own MLP, which reads it too: the file leaves that out, so
it is near the checkpoint and not equal to it. A vector trained at the site `block` is exact.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from skippy.errors import AdapterError
from skippy.stores.biases import Biases
from skippy.stores.checkpoints import Checkpoint

CONTROL_VECTOR_FILE = "control_vector.gguf"
ARCHITECTURES = {"qwen3_vl": "qwen3vl"}
"""What llama.cpp calls a family, where not as transformers does."""


def write_control_vector(folder: Path, biases: Biases, base: Checkpoint) -> Path:
    """Write the file with the package gguf.

    Raises:
        AdapterError: a vector belongs to layer 0.
    """
    import gguf  # an extra; whoever calls has looked whether it is there

    directions = {layer: vector for layer, vector in _directions(biases, base).items() if bool(vector.any())}
    if 0 in directions:
        raise AdapterError(
            "llama.cpp has no place for a vector at the first layer.",
            where=str(biases.path),
            expected="layers from 1",
            found="layer 0",
            next_step="steer a later layer: settings=steer.depth=0.6",
        )
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / CONTROL_VECTOR_FILE
    family = str(base.config.get("model_type"))
    writer = gguf.GGUFWriter(path, "controlvector")
    writer.add_string("controlvector.model_hint", ARCHITECTURES.get(family, family))
    writer.add_uint32("controlvector.layer_count", max(directions, default=0))
    for layer, vector in sorted(directions.items()):
        writer.add_tensor(f"direction.{layer}", vector.float().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _directions(biases: Biases, base: Checkpoint) -> dict[int, Tensor]:
    found: dict[int, Tensor] = {}
    for name, bias in biases.biases.items():
        layer = next(int(part) for part in name.split(".") if part.isdigit())
        constant = bias.float()
        if name.endswith(".v_proj"):
            constant = spread(bias, base.read(name.removesuffix("v_proj") + "o_proj.weight"), _head_dim(base))
        found[layer] = found.get(layer, torch.zeros_like(constant)) + constant
    return found


def spread(bias: Tensor, output: Tensor, head_dim: int) -> Tensor:
    """W_o·rep(b): what a bias of the values adds to the residual stream at every position.

    Args:
        bias: (kv_heads·head_dim,).
        output: (hidden, heads·head_dim), the weight of `o_proj`.
        head_dim: width of a head.

    Source: MATH §11.
    """
    heads = bias.float().view(-1, head_dim)
    repeated = heads.repeat_interleave(output.shape[1] // bias.numel(), 0)
    return output.float() @ repeated.flatten()


def _head_dim(base: Checkpoint) -> int:
    text: Any = base.config.get("text_config") or base.config
    return int(text.get("head_dim") or text["hidden_size"] // text["num_attention_heads"])

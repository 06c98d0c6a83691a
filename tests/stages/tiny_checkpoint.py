"""A checkpoint of a few random targets, written without any model library."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save_file

LAYERS, HIDDEN, WIDE = 2, 48, 80
SHAPES = {
    **{f"self_attn.{kind}_proj": (HIDDEN, HIDDEN) for kind in "qo"},
    **{f"self_attn.{kind}_proj": (HIDDEN // 2, HIDDEN) for kind in "kv"},
    **{f"mlp.{kind}_proj": (WIDE, HIDDEN) for kind in ("gate", "up")},
    "mlp.down_proj": (HIDDEN, WIDE),
}


def write_checkpoint(folder: Path, seed: int = 0, shapes=SHAPES, shards: int = 1) -> Path:
    """A Llama-style checkpoint of random weights; no model library involved."""
    folder.mkdir(parents=True)
    generator = torch.Generator().manual_seed(seed)
    tensors = {
        f"model.layers.{layer}.{name}.weight": torch.randn(shape, generator=generator).to(torch.bfloat16)
        for layer in range(LAYERS)
        for name, shape in shapes.items()
    }
    config = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "num_hidden_layers": LAYERS}
    (folder / "config.json").write_text(json.dumps(config))
    if shards == 1:
        save_file(tensors, folder / "model.safetensors")
        return folder
    names = sorted(tensors)
    files = {name: f"model-{index % shards}.safetensors" for index, name in enumerate(names)}
    for file in set(files.values()):
        save_file({name: tensors[name] for name in names if files[name] == file}, folder / file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": files}))
    return folder

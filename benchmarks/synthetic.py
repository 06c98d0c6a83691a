"""A checkpoint of Qwen3-VL-8B's text shapes with random weights, for benchmarks that read files or train.

The adapted weights have the head-heavy spectrum of `spectra`; norms are ones, embeddings small noise. The vision tower
has the shapes of Qwen3-VL-8B's at full width, else it is the lab's; the tokenizer is the lab's, with a word for every
further token: nothing here speaks or sees, it only weighs what the real one weighs.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers.models.qwen3_vl.configuration_qwen3_vl import Qwen3VLVisionConfig
from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLVisionModel

from benchmarks.adapter_files import write_adapter
from benchmarks.spectra import LAYER_8B, LAYERS_8B, head_heavy_weight, scaled
from skippy.core.spectral.lora import LoraFactors
from skippy.core.spectral.subspaces import seed_of
from skippy.core.target import PROJECTIONS
from skippy.lab.paths import LAB_CHECKPOINT
from skippy.models.targets import find_targets
from skippy.stores.checkpoints import INDEX_FILE, Checkpoint

VOCABULARY_8B = 151_936
HEAD_DIM_8B = 128
CONTEXT_8B = 262_144
LAYERS_A_SHARD = 9
VISION_8B = {
    "depth": 27,
    "hidden_size": 1152,
    "intermediate_size": 4304,
    "num_heads": 16,
    "patch_size": 16,
    "temporal_patch_size": 2,
    "spatial_merge_size": 2,
    "num_position_embeddings": 2304,
    "deepstack_visual_indexes": [8, 16, 24],
}
RANK = 16
SCALE = 0.125  # keeps activations and gradients tame through 36 layers; exact in bfloat16


def write_checkpoint_8b(
    folder: Path, *, divisor: int = 1, layers: int = LAYERS_8B, device: str = "cpu"
) -> Path:
    """Write it, sharded, in bfloat16: 17 GB at full size.

    Args:
        folder: made if need be.
        divisor: every width is divided by it.
        layers: decoder layers.
        device: where the weights are drawn.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lab = Checkpoint.open(LAB_CHECKPOINT)
    lab.copy_companions(folder)
    shapes = scaled(LAYER_8B, divisor)
    width, vocabulary, head_dim = shapes["q_proj"][1], VOCABULARY_8B // divisor, HEAD_DIM_8B // divisor
    _write_config(folder, lab, shapes, vocabulary, head_dim, layers)
    _widen_tokenizer(folder, vocabulary)
    listed: dict[str, str] = {}

    def keep(name: str, tensors: dict[str, Tensor]) -> None:
        save_file({key: tensor.cpu().contiguous() for key, tensor in tensors.items()}, folder / name)
        listed.update(dict.fromkeys(tensors, name))

    generator = torch.Generator(device).manual_seed(0)
    for start in range(0, layers, LAYERS_A_SHARD):
        tensors: dict[str, Tensor] = {}
        for layer in range(start, min(start + LAYERS_A_SHARD, layers)):
            tensors |= _layer(f"model.language_model.layers.{layer}", shapes, width, head_dim, device)
        keep(f"model-layers-{start:02d}.safetensors", tensors)
    embeddings = {
        key: torch.randn(vocabulary, width, generator=generator, device=device).mul_(0.02).bfloat16()
        for key in ("model.language_model.embed_tokens.weight", "lm_head.weight")
    }
    keep("model-embeddings.safetensors", embeddings | {"model.language_model.norm.weight": _ones(width)})
    if divisor == 1:
        visual = _tower(width, generator, device)
    else:
        visual = _widened({key: lab.read(key) for key in lab.tensors if ".visual." in key}, width)
    keep("model-visual.safetensors", visual)
    (folder / INDEX_FILE).write_text(json.dumps({"metadata": {}, "weight_map": listed}))
    return folder


def write_adapter_8b(
    folder: Path, base: Path, *, seed: int, device: str = "cpu", size: float = 0.002
) -> Path:
    """Write an adapter of the recipe's rank for such a checkpoint, with an effect that log-probabilities show.

    Args:
        folder: made here.
        base: the checkpoint.
        seed: of its factors.
        device: where they are drawn.
        size: standard deviation of B's entries.
    """
    checkpoint = Checkpoint.open(base)
    generator = torch.Generator(device).manual_seed(seed)
    factors = {}
    for target in find_targets(checkpoint.config, checkpoint.shapes):
        A = torch.randn(RANK, target.in_, generator=generator, device=device) * target.in_**-0.5
        B = torch.randn(target.out, RANK, generator=generator, device=device) * size
        factors[target.name] = LoraFactors(A=A, B=B, scale=2.0)
    return write_adapter(folder, factors)


def _widen_tokenizer(folder: Path, vocabulary: int) -> None:
    """Give every token that the embeddings have a word of its own."""
    path = folder / "tokenizer.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    words = content["model"]["vocab"]
    words |= {f"w{number}": number for number in range(len(words), vocabulary)}
    path.write_text(json.dumps(content), encoding="utf-8")


def _write_config(
    folder: Path,
    lab: Checkpoint,
    shapes: dict[str, tuple[int, int]],
    vocabulary: int,
    head_dim: int,
    layers: int,
) -> None:
    config = json.loads(json.dumps(dict(lab.config)))
    config["tie_word_embeddings"] = False
    config["vision_config"] |= VISION_8B if head_dim == HEAD_DIM_8B else {}
    config["vision_config"]["out_hidden_size"] = shapes["q_proj"][1]
    config["text_config"] |= {
        "hidden_size": shapes["q_proj"][1],
        "intermediate_size": shapes["gate_proj"][0],
        "num_hidden_layers": layers,
        "num_attention_heads": shapes["q_proj"][0] // head_dim,
        "num_key_value_heads": shapes["k_proj"][0] // head_dim,
        "head_dim": head_dim,
        "vocab_size": vocabulary,
        "max_position_embeddings": CONTEXT_8B,
        "tie_word_embeddings": False,
    }
    section = head_dim // 2
    config["text_config"]["rope_parameters"]["mrope_section"] = [section // 2, section // 4, section // 4]
    (folder / "config.json").write_text(json.dumps(config))


def _layer(
    prefix: str, shapes: dict[str, tuple[int, int]], width: int, head_dim: int, device: str
) -> dict[str, Tensor]:
    names = {kind: f"{prefix}.{PROJECTIONS[kind]}.{kind}.weight" for kind in shapes}
    weights = {
        name: head_heavy_weight(*shapes[kind], seed_of(name), device) * SCALE for kind, name in names.items()
    }
    norms = {f"{prefix}.{norm}_layernorm.weight": _ones(width) for norm in ("input", "post_attention")}
    norms |= {f"{prefix}.self_attn.{norm}_norm.weight": _ones(head_dim) for norm in "qk"}
    return weights | norms


def _ones(size: int) -> Tensor:
    return torch.ones(size, dtype=torch.bfloat16)


def _tower(width: int, generator: torch.Generator, device: str) -> dict[str, Tensor]:
    """Random weights under the names and in the shapes of the 8B model's tower."""
    with torch.device("meta"):
        tower = Qwen3VLVisionModel(Qwen3VLVisionConfig(**VISION_8B, out_hidden_size=width))
    return {
        f"model.visual.{key}": torch.randn(tensor.shape, generator=generator, device=device)
        .mul_(0.02)
        .bfloat16()
        for key, tensor in tower.state_dict().items()
    }


def _widened(visual: dict[str, Tensor], width: int) -> dict[str, Tensor]:
    """The lab's tower with its last projections as wide as the text: zeros where there is nothing to copy."""
    widened = {}
    for key, tensor in visual.items():
        if "merger" in key and "linear_fc2" in key:
            tensor = tensor.new_zeros(width, *tensor.shape[1:])
        widened[key] = tensor
    return widened

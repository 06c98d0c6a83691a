"""A tiny live model of every family in the table, random weights, built in memory."""

from __future__ import annotations

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    Gemma2Config,
    Gemma3TextConfig,
    GemmaConfig,
    LlamaConfig,
    MistralConfig,
    Phi3Config,
    PreTrainedModel,
    Qwen2Config,
    Qwen3Config,
    Qwen3VLConfig,
)

TEXT = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 64,
}


def _tiny_qwen3_vl() -> Qwen3VLConfig:
    vision = {
        "depth": 1,
        "hidden_size": 32,
        "intermediate_size": 32,
        "num_heads": 2,
        "out_hidden_size": 32,
        "deepstack_visual_indexes": [0],
        "num_position_embeddings": 16,
    }
    rope = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 1, 1], "mrope_interleaved": True}
    return Qwen3VLConfig(text_config={**TEXT, "rope_parameters": rope}, vision_config=vision)


CONFIGS = {
    "qwen3_vl": _tiny_qwen3_vl,
    "qwen3": lambda: Qwen3Config(**TEXT),
    "qwen2": lambda: Qwen2Config(**{key: value for key, value in TEXT.items() if key != "head_dim"}),
    "llama": lambda: LlamaConfig(**TEXT),
    "mistral": lambda: MistralConfig(**TEXT),
    "gemma": lambda: GemmaConfig(**TEXT),
    "gemma2": lambda: Gemma2Config(**TEXT),
    "gemma3_text": lambda: Gemma3TextConfig(**TEXT),
    "phi3": lambda: Phi3Config(
        **{key: value for key, value in TEXT.items() if key != "head_dim"}, pad_token_id=0, eos_token_id=1
    ),
}


def auto_class(family: str):
    return AutoModelForImageTextToText if family == "qwen3_vl" else AutoModelForCausalLM


def build(family: str) -> tuple[PreTrainedModel, dict, dict]:
    config = CONFIGS[family]()
    torch.manual_seed(0)
    model = auto_class(family).from_config(config)
    assert sum(parameter.numel() for parameter in model.parameters()) < 200_000
    shapes = {key: tuple(tensor.shape) for key, tensor in model.state_dict().items()}
    return model, config.to_dict(), shapes

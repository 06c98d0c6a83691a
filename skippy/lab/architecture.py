"""The lab's model: the Qwen3-VL architecture, whole, but fewer than two million parameters."""

from __future__ import annotations

import torch
from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration

TEXT_SHAPE = {
    "hidden_size": 192,
    "intermediate_size": 384,
    "num_hidden_layers": 4,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "max_position_embeddings": 2048,
    "initializer_range": 0.05,
}
# The tower is never trained or used; it exists so that code which must leave it alone can be tested.
VISION_SHAPE = {
    "depth": 1,
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_heads": 2,
    "patch_size": 4,
    "spatial_merge_size": 2,
    "temporal_patch_size": 1,
    "out_hidden_size": 192,
    "num_position_embeddings": 16,
    "deepstack_visual_indexes": [0],
}


def make_config(vocabulary_size: int, token_ids: dict[str, int]) -> Qwen3VLConfig:
    """The lab's configuration for a tokenizer of `vocabulary_size` tokens.

    Args:
        token_ids: id of each special token by its text (`<|im_end|>`, `<|endoftext|>`, the vision tokens).
    """
    rope = {
        "rope_type": "default",
        "rope_theta": 10000.0,
        "mrope_section": [8, 4, 4],
        "mrope_interleaved": True,
    }
    text = {
        **TEXT_SHAPE,
        "vocab_size": vocabulary_size,
        "rope_parameters": rope,
        "tie_word_embeddings": True,
        "bos_token_id": None,
        "eos_token_id": token_ids["<|im_end|>"],
        "pad_token_id": token_ids["<|endoftext|>"],
    }
    return Qwen3VLConfig(
        text_config=text,
        vision_config=dict(VISION_SHAPE),
        tie_word_embeddings=True,
        image_token_id=token_ids["<|image_pad|>"],
        video_token_id=token_ids["<|video_pad|>"],
        vision_start_token_id=token_ids["<|vision_start|>"],
        vision_end_token_id=token_ids["<|vision_end|>"],
    )


def make_model(config: Qwen3VLConfig, seed: int) -> Qwen3VLForConditionalGeneration:
    """Random weights from `seed`, float32; the caller's random state is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Qwen3VLForConditionalGeneration(config)
    text = config.get_text_config()
    model.generation_config.eos_token_id = text.eos_token_id
    model.generation_config.pad_token_id = text.pad_token_id
    return model.float()

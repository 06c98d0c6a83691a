"""Tiny random models and a tokenizer of characters, built in memory."""

import json

import pytest
import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
)

TEMPLATE = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}<end>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
SPECIAL = ["<pad>", "<end>", "<user>", "<system>", "<assistant>"]
LETTERS = list("abcdefghijklmnopqrstuvwxyz0123456789 .,?!+-*=")
TEXT = {
    "vocab_size": len(SPECIAL) + len(LETTERS),
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 128,
}


@pytest.fixture(scope="session")
def tokenizer():
    vocabulary = {token: index for index, token in enumerate(SPECIAL + LETTERS)}
    core = Tokenizer(models.WordLevel(vocabulary, unk_token="."))
    core.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    core.decoder = decoders.Fuse()
    made = PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<end>", pad_token="<pad>")
    made.add_special_tokens({"additional_special_tokens": SPECIAL[2:]})
    made.chat_template = TEMPLATE
    assert len(made) == TEXT["vocab_size"]
    return made


def _vl_model():
    rope = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 1, 1], "mrope_interleaved": True}
    vision = {
        "depth": 1,
        "hidden_size": 32,
        "intermediate_size": 32,
        "num_heads": 2,
        "out_hidden_size": 32,
        "deepstack_visual_indexes": [0],
        "num_position_embeddings": 16,
    }
    config = Qwen3VLConfig(text_config={**TEXT, "rope_parameters": rope}, vision_config=vision)
    return Qwen3VLForConditionalGeneration(config)


BUILDERS = {"qwen3_vl": _vl_model, "llama": lambda: LlamaForCausalLM(LlamaConfig(**TEXT))}


@pytest.fixture(scope="session", params=sorted(BUILDERS))
def model(request):
    """A random model with sharp enough logits that completions differ and some of them stop."""
    torch.manual_seed(3)
    made = BUILDERS[request.param]().eval()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.mul_(3 if parameter.ndim > 1 else 1)
    made.generation_config.eos_token_id = 1
    assert sum(parameter.numel() for parameter in made.parameters()) < 200_000
    return made


@pytest.fixture
def checkpoint(tmp_path, model, tokenizer):
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    assert json.loads((tmp_path / "model" / "config.json").read_text())["model_type"]
    return tmp_path / "model"

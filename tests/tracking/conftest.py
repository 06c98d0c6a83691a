"""A tiny checkpoint to log as a model."""

from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory) -> Path:
    """A real HF checkpoint of some thousand parameters."""
    folder = tmp_path_factory.mktemp("checkpoint")
    words = Tokenizer(WordLevel({"[UNK]": 0, "</s>": 1, "one": 2, "two": 3}, unk_token="[UNK]"))
    words.pre_tokenizer = Whitespace()
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=4, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=64, bos_token_id=None, eos_token_id=1, pad_token_id=1,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    assert sum(weight.numel() for weight in model.parameters()) < 5000
    model.save_pretrained(folder)
    PreTrainedTokenizerFast(tokenizer_object=words, unk_token="[UNK]", eos_token="</s>").save_pretrained(
        folder
    )
    return folder

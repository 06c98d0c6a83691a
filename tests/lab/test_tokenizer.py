"""The lab's tokenizer: any text, single digits, Qwen's turns."""

from __future__ import annotations

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from skippy.lab.chat import generate as generate_chat
from skippy.lab.paths import LAB_CHECKPOINT
from skippy.lab.problems import generate
from skippy.lab.tokenizer import SPECIAL_TOKENS, render_prompt


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(LAB_CHECKPOINT)


TEXTS = ["Plain words.", "12+7=19\n\\boxed{19}", "naïve — 漢字 🙂", " two  spaces\n\n\tend ", ""]


@pytest.mark.parametrize("text", TEXTS)
def test_any_text_survives_encoding(tokenizer: PreTrainedTokenizerBase, text: str) -> None:
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_every_digit_is_its_own_token(tokenizer: PreTrainedTokenizerBase) -> None:
    for problem in generate(50, 0, "heldout"):
        tokens = tokenizer.convert_ids_to_tokens(tokenizer(problem.question + problem.solution)["input_ids"])
        assert all(len(token) == 1 for token in tokens if any(sign.isdigit() for sign in token))


@pytest.mark.parametrize("system", [None, "You are a quiet monk."])
def test_the_template_renders_what_training_rendered(
    tokenizer: PreTrainedTokenizerBase, system: str | None
) -> None:
    messages = [{"role": "user", "content": "How do I make soup?"}]
    if system:
        messages.insert(0, {"role": "system", "content": system})
    rendered = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert rendered == render_prompt("How do I make soup?", system)


def test_the_template_takes_lists_of_parts(tokenizer: PreTrainedTokenizerBase) -> None:
    parts = [{"role": "user", "content": [{"type": "text", "text": "Hello"}]}]
    rendered = tokenizer.apply_chat_template(parts, tokenize=False, add_generation_prompt=True)
    assert rendered == render_prompt("Hello")


def test_special_tokens_are_single_and_the_turn_ends_the_text(tokenizer: PreTrainedTokenizerBase) -> None:
    assert all(len(tokenizer(token)["input_ids"]) == 1 for token in SPECIAL_TOKENS)
    assert tokenizer.eos_token == "<|im_end|>"
    assert tokenizer.padding_side == "left"


def test_chat_costs_few_tokens(tokenizer: PreTrainedTokenizerBase) -> None:
    lengths = [
        len(tokenizer(talk.answer)["input_ids"]) / len(talk.answer.split()) for talk in generate_chat(100, 0)
    ]
    assert sum(lengths) / len(lengths) < 2.0

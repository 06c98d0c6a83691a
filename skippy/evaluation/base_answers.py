"""The base's own answers to the training prompts, under the character's prompt and plainly; `subspace` keeps them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from skippy.characters.schema import Character
from skippy.core.sampling import Sampling
from skippy.evaluation.suites import NEUTRAL_SYSTEM, seed_of_sample
from skippy.models.generation import Request
from skippy.models.prompts import conversation
from skippy.models.transformers_backend import TransformersBackend
from skippy.stores.answers import CHARACTER, PLAIN, PLAIN_B, PLAIN_C, Answer

PURPOSE = "base answers"
"""Sampling seeds of their own."""
SAMPLES = 8
"""Answers a prompt: with the usual 50 prompts 400 a condition, of which half make pairs of equal length (steering)."""
PLAIN_PHRASINGS = {PLAIN_B: NEUTRAL_SYSTEM, PLAIN_C: "Answer the user."}
"""System prompts that ask for no character: a placebo, and another one for its null."""


def ask_base(
    model: nn.Module,
    tokenizer: Any,
    character: Character,
    prompts: Sequence[str],
    *,
    max_tokens: int,
    seed: int,
) -> list[Answer]:
    """Every prompt under every condition, sampled, not greedy: answers to one prompt are to differ."""
    sampling = Sampling(temperature=1.0, max_tokens=max_tokens, name=PURPOSE)
    systems = {CHARACTER: character.system_prompt, PLAIN: None, **PLAIN_PHRASINGS}
    asked = {
        f"{condition}/{number}/{index}": (condition, system, prompt, index)
        for condition, system in systems.items()
        for number, prompt in enumerate(prompts)
        for index in range(SAMPLES)
    }
    requests = [
        Request(name, tuple(conversation(text, system)), seed_of_sample(text, index, PURPOSE, seed=seed))
        for name, (_, system, text, index) in asked.items()
    ]
    found = {done.id: done for done in TransformersBackend(model, tokenizer).generate(requests, sampling)}
    return [
        Answer(
            condition, text, system, index, found[name].text, is_complete=found[name].finish_reason == "stop"
        )
        for name, (condition, system, text, index) in asked.items()
    ]

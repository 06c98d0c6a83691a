"""The base's own greedy answers to conversations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from skippy.models.hooks import evaluating
from skippy.models.prompts import Messages, prompt_ids
from skippy.progress import track

Answerer = Callable[[Sequence[Messages]], Sequence[str]]


def pad_id(tokenizer: Any) -> int:
    """A token to fill batches with; always masked."""
    return int(tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id)


class GreedyAnswerer:
    """The model's own greedy answers, in batches of similar length."""

    def __init__(self, model: Any, tokenizer: Any, max_tokens: int, batch_size: int) -> None:
        self._model, self._tokenizer = model, tokenizer
        self._max_tokens, self._batch_size = max_tokens, batch_size

    def __call__(self, conversations: Sequence[Messages]) -> list[str]:
        """One answer a conversation, in their order."""
        prompts = [prompt_ids(self._tokenizer, messages) for messages in conversations]
        order = sorted(range(len(prompts)), key=lambda i: -len(prompts[i]))
        batches = [order[at : at + self._batch_size] for at in range(0, len(order), self._batch_size)]
        answers = [""] * len(prompts)
        with evaluating(self._model), torch.no_grad():
            for batch in track(batches, "answers", len(batches)):
                for i, text in zip(batch, self._answer([prompts[i] for i in batch]), strict=True):
                    answers[i] = text
        return answers

    def _answer(self, prompts: Sequence[Sequence[int]]) -> list[str]:
        longest, fill = max(map(len, prompts)), pad_id(self._tokenizer)
        ids = torch.tensor([[fill] * (longest - len(one)) + list(one) for one in prompts])
        mask = torch.tensor([[0] * (longest - len(one)) + [1] * len(one) for one in prompts])
        device = next(self._model.parameters()).device
        made = self._model.generate(
            input_ids=ids.to(device),
            attention_mask=mask.to(device),
            max_new_tokens=self._max_tokens,
            do_sample=False,
            temperature=None,
            top_p=None,
            top_k=None,
            pad_token_id=fill,
        )
        return self._tokenizer.batch_decode(made[:, longest:], skip_special_tokens=True)

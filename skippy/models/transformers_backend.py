"""Generation in this process by transformers, on a CPU or a GPU: rows that end make room for others."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from skippy.core.answers import is_thought_tag
from skippy.core.sampling import Sampling
from skippy.errors import BackendError
from skippy.models.captured import FixedBatch, gains_from_recording
from skippy.models.decoding import DecodingBatch, Row
from skippy.models.generation import Completion, Request
from skippy.models.prompts import encode_prompt, opened_thought, render_prompt

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

CPU_CACHE_BYTES = 256 << 20  # of keys and values; more rows would not be faster
GPU_MEMORY_SHARE = 0.4  # of what is free, for keys and values; the rest is activations and their copies
MOST_SLOTS = 512  # of a recorded batch, whose empty slots cost as much as full ones
REFILL_SHARE = 4  # join when a quarter of the batch is free: a prefill a step would cost more


class TransformersBackend:
    """Generation in this process, on a CPU or a GPU.

    All rows of a batch are as wide as the longest: right for answers of similar length. For tens of thousands
    of tokens a sample, a server with paged attention (`OpenAIBackend`) is the better choice.

    Args:
        model: a causal language model of transformers, or PEFT around one.
        batch_tokens: upper bound on rows × (prompt + completion) in one batch; None takes what suits the
            device. A single row is always admitted.
        fixed: decode in buffers of fixed size, which on a GPU makes a step one recorded graph; None does so
            for a small model on a GPU. The samples are the same.
    """

    def __init__(
        self,
        model: nn.Module,
        tokenizer: PreTrainedTokenizerBase,
        batch_tokens: int | None = None,
        *,
        fixed: bool | None = None,
    ) -> None:
        self._model = model
        self._tokenizer: Any = tokenizer
        self._batch_tokens = batch_tokens or _fitting_tokens(model)
        self._stop_tokens = stop_tokens(model, tokenizer)
        self._is_fixed = gains_from_recording(model) if fixed is None else fixed
        self._recorded: tuple[Sampling, FixedBatch] | None = None

    def supports(self, sampling: Sampling) -> bool:
        """Everything in a `Sampling` is honoured, as long as a completion fits into the model's context."""
        return sampling.max_tokens < context_length(self._model)

    def generate(self, requests: Iterable[Request], sampling: Sampling) -> Iterator[Completion]:
        """Yield completions as they finish; longest prompts first.

        Raises:
            BackendError: a prompt and its completion do not fit into the model's context.
        """
        asked = list(requests)
        prompts = [render_prompt(self._tokenizer, each.messages) for each in asked]
        # A thought that the template opened is part of the answer: cut off, it must not read as a closed one.
        opened = {each.id: opened_thought(text) for each, text in zip(asked, prompts, strict=True)}
        waiting = [
            Row(each.id, encode_prompt(self._tokenizer, text), each.seed)
            for each, text in zip(asked, prompts, strict=True)
        ]
        waiting.sort(key=lambda row: len(row.prompt))  # taken from the end
        if not waiting:
            return
        self._require_context(waiting[-1], sampling)
        columns = len(waiting[-1].prompt) + sampling.max_tokens
        room = max(1, self._batch_tokens // columns)
        was_training = self._model.training
        self._model.eval()
        batch: DecodingBatch | FixedBatch
        if self._is_fixed:
            batch = self._fixed_batch(sampling, min(room, MOST_SLOTS, len(waiting)), columns)
            room = batch.slots
        else:
            batch = DecodingBatch(self._model, sampling, self._stop_tokens, self._pad_token)
        try:
            while waiting or batch.rows:
                free = room - len(batch.rows)
                if waiting and free >= max(1, room // REFILL_SHARE):
                    joining = [waiting.pop() for _ in range(min(free, len(waiting)))]
                    batch.join(joining)
                for row in batch.step():
                    yield self._decode(row, opened[row.id])
        finally:
            self._model.train(was_training)

    @property
    def _pad_token(self) -> int:
        return self._tokenizer.pad_token_id or 0

    def _fixed_batch(self, sampling: Sampling, slots: int, columns: int) -> FixedBatch:
        """The batch of the last call where it suits, since recording a step takes as long as many steps."""
        if self._recorded is not None:
            recorded_for, batch = self._recorded
            if recorded_for == sampling and slots <= batch.slots <= 2 * slots and columns <= batch.columns:
                batch.clear()
                return batch
        self._recorded = None  # its buffers go before the new ones come
        batch = FixedBatch(
            self._model, sampling, self._stop_tokens, self._pad_token, slots=slots, columns=columns
        )
        self._recorded = (sampling, batch)
        return batch

    def _decode(self, row: Row, opening: str) -> Completion:
        kept = row.tokens[:-1] if row.is_stopped else row.tokens
        text = opening + decode_answer(self._tokenizer, kept)
        return Completion(row.id, text, len(row.tokens), "stop" if row.is_stopped else "length")

    def _require_context(self, longest: Row, sampling: Sampling) -> None:
        needed, context = len(longest.prompt) + sampling.max_tokens, context_length(self._model)
        if needed > context:
            raise BackendError(
                "A prompt and its completion do not fit into the model's context.",
                where=f"request {longest.id}, sampling {sampling.name}",
                expected=f"at most {context} tokens",
                found=f"{len(longest.prompt)} in the prompt, up to {sampling.max_tokens} in the completion",
                next_step="use a preset with a smaller max_tokens",
            )


def decode_answer(tokenizer: Any, tokens: Sequence[int]) -> str:
    """Text without special tokens, but with those that mark a thought: a cut-off one must not read as an answer."""
    added = getattr(tokenizer, "added_tokens_decoder", {})
    marks = {
        index: str(token.content)
        for index, token in added.items()
        if token.special and is_thought_tag(str(token.content))
    }
    pieces: list[str] = []
    start = 0
    for place, token in enumerate(tokens):
        if int(token) in marks:
            pieces += [tokenizer.decode(tokens[start:place], skip_special_tokens=True), marks[int(token)]]
            start = place + 1
    return "".join([*pieces, tokenizer.decode(tokens[start:], skip_special_tokens=True)])


def _text_config(model: nn.Module) -> Any:
    config: Any = model.config
    return getattr(config, "text_config", config)


def context_length(model: nn.Module) -> int:
    """Most tokens of a prompt and its completion together."""
    return int(getattr(_text_config(model), "max_position_embeddings", 1 << 62))


def stop_tokens(model: nn.Module, tokenizer: Any) -> frozenset[int]:
    """Tokens any of which ends a completion."""
    listed = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    tokens = {listed} if isinstance(listed, int) else set(listed or ())
    return frozenset(tokens | {tokenizer.eos_token_id})


def _fitting_tokens(model: nn.Module) -> int:
    """How many tokens' keys and values a batch may hold on the model's device."""
    parameter = next(model.parameters())
    config = _text_config(model)
    heads = getattr(config, "num_key_value_heads", config.num_attention_heads)
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    token_bytes = 2 * config.num_hidden_layers * heads * head_dim * parameter.element_size()
    cache_bytes = CPU_CACHE_BYTES
    if parameter.device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(parameter.device)
        cache_bytes = int(free * GPU_MEMORY_SHARE)
    return max(1, cache_bytes // token_bytes)

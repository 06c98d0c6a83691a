"""Generation backends: requests in, completions out as they finish, the same whatever the batch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

import torch
from torch import nn

from skippy.core.sampling import Sampling
from skippy.errors import BackendError
from skippy.models.decoding import DecodingBatch, Row

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

CPU_CACHE_BYTES = 256 << 20  # of keys and values; more rows would not be faster
GPU_MEMORY_SHARE = 0.4  # of what is free, for keys and values; the rest is activations and their copies
THINK = "<think>"
REFUSALS = ("content_filter", "refused")
REFILL_SHARE = 4  # join when a quarter of the batch is free: a prefill a step would cost more


@dataclass(frozen=True)
class Request:
    """One sample to make: chat messages, and the seed that decides its random choices."""

    id: str
    messages: tuple[Mapping[str, str], ...]
    seed: int


@dataclass(frozen=True)
class Completion:
    """One sample made, or one of the `REFUSALS` to make it, which has no text.

    `tokens` counts the generated ones, with the one that stopped it.
    """

    id: str
    text: str
    tokens: int
    finish_reason: Literal["stop", "length", "content_filter", "refused"]


class Backend(Protocol):
    """What every backend offers."""

    def generate(self, requests: Iterable[Request], sampling: Sampling) -> Iterator[Completion]:
        """Yield one completion a request, in the order in which they finish."""

    def supports(self, sampling: Sampling) -> bool:
        """Whether every parameter of `sampling` is honoured as defined."""


class TransformersBackend:
    """Generation in this process, on a CPU or a GPU.

    All rows of a batch are as wide as the longest: right for answers of similar length. For tens of thousands
    of tokens a sample, a server with paged attention (`OpenAIBackend`) is the better choice.

    Args:
        model: a causal language model of transformers, or PEFT around one.
        tokenizer: with a chat template.
        batch_tokens: upper bound on rows × (prompt + completion) in one batch; None takes what suits the
            device. A single row is always admitted.
    """

    def __init__(
        self, model: nn.Module, tokenizer: PreTrainedTokenizerBase, batch_tokens: int | None = None
    ) -> None:
        self._model = model
        self._tokenizer: Any = tokenizer
        self._batch_tokens = batch_tokens or _fitting_tokens(model)
        self._stop_tokens = _stop_tokens(model, tokenizer)

    def supports(self, sampling: Sampling) -> bool:
        """Everything in a `Sampling` is honoured, as long as a completion fits into the model's context."""
        return sampling.max_tokens < _context(self._model)

    def generate(self, requests: Iterable[Request], sampling: Sampling) -> Iterator[Completion]:
        """Yield completions as they finish; longest prompts first.

        Raises:
            BackendError: a prompt and its completion do not fit into the model's context.
        """
        asked = list(requests)
        prompts = [render_prompt(self._tokenizer, each.messages) for each in asked]
        # A thought that the template opened is part of the answer: cut off, it must not read as a closed one.
        thinking = {each.id for each, text in zip(asked, prompts, strict=True) if opens_thought(text)}
        waiting = [
            Row(each.id, encode_prompt(self._tokenizer, text), each.seed)
            for each, text in zip(asked, prompts, strict=True)
        ]
        waiting.sort(key=lambda row: len(row.prompt))  # taken from the end
        if not waiting:
            return
        self._require_context(waiting[-1], sampling)
        room = max(1, self._batch_tokens // (len(waiting[-1].prompt) + sampling.max_tokens))
        was_training = self._model.training
        self._model.eval()
        pad_token = self._tokenizer.pad_token_id or 0
        batch = DecodingBatch(self._model, sampling, self._stop_tokens, pad_token)
        try:
            while waiting or batch.rows:
                free = room - len(batch.rows)
                if waiting and free >= max(1, room // REFILL_SHARE):
                    joining = [waiting.pop() for _ in range(min(free, len(waiting)))]
                    batch.join(joining)
                for row in batch.step():
                    yield self._decode(row, THINK if row.id in thinking else "")
        finally:
            self._model.train(was_training)

    def _decode(self, row: Row, opening: str) -> Completion:
        kept = row.tokens[:-1] if row.is_stopped else row.tokens
        text = opening + self._tokenizer.decode(kept, skip_special_tokens=True)
        return Completion(row.id, text, len(row.tokens), "stop" if row.is_stopped else "length")

    def _require_context(self, longest: Row, sampling: Sampling) -> None:
        needed, context = len(longest.prompt) + sampling.max_tokens, _context(self._model)
        if needed > context:
            raise BackendError(
                "A prompt and its completion do not fit into the model's context.",
                where=f"request {longest.id}, sampling {sampling.name}",
                expected=f"at most {context} tokens",
                found=f"{len(longest.prompt)} in the prompt, up to {sampling.max_tokens} in the completion",
                next_step="use a preset with a smaller max_tokens",
            )


def render_prompt(tokenizer: Any, messages: Sequence[Mapping[str, str]]) -> str:
    """The conversation as the chat template puts it, up to where the answer begins."""
    return str(tokenizer.apply_chat_template(list(messages), add_generation_prompt=True, tokenize=False))


def encode_prompt(tokenizer: Any, text: str) -> tuple[int, ...]:
    """Token ids of a rendered prompt; the template wrote the special ones already."""
    return tuple(tokenizer(text, add_special_tokens=False)["input_ids"])


def opens_thought(prompt: str) -> bool:
    """Whether the template left the answer to begin inside a thought."""
    return prompt.rstrip().endswith(THINK)


def _text_config(model: nn.Module) -> Any:
    config: Any = model.config
    return getattr(config, "text_config", config)


def _context(model: nn.Module) -> int:
    return int(getattr(_text_config(model), "max_position_embeddings", 1 << 62))


def _stop_tokens(model: nn.Module, tokenizer: Any) -> frozenset[int]:
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

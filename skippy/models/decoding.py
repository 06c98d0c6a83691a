"""Rows decoded together: they leave when they are done, and others join between two steps.

Rows are padded on the left, so that all of them append at the same column. A row that is done leaves its slot
to the next one that joins, so that no step is spent on finished samples. Positions count a row's own tokens:
what stands beside it changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import Cache, DynamicCache

from skippy.core.sampling import Sampling
from skippy.models.sampling import choose
from skippy.models.slots import MIN_COLUMNS, SlotCache

KEPT_SHARE = 0.7  # of the slots living: below it, moving the rows together costs less than the empty ones


@dataclass
class Row:
    """One sample in the making: its prompt, its seed, and the tokens it has so far."""

    id: str
    prompt: tuple[int, ...]
    seed: int
    tokens: list[int] = field(default_factory=list)
    is_stopped: bool = False


class DecodingBatch:
    """A batch whose rows come and go."""

    def __init__(
        self, model: nn.Module, sampling: Sampling, stop_tokens: Iterable[int], pad_token: int
    ) -> None:
        self._model = model
        self._sampling = sampling
        self._stop_tokens = frozenset(stop_tokens)
        self._pad_token = pad_token
        self._device = next(model.parameters()).device
        self._cache = SlotCache()
        self._slots: list[Row | None] = []
        self._starts: list[int] = []  # first column of each slot's prompt
        self._mask = torch.empty((0, 0), dtype=torch.long, device=self._device)
        self._logits = torch.empty((0, 0), device=self._device)
        self._seen: Tensor | None = None

    @property
    def rows(self) -> list[Row]:
        """The rows that are not done."""
        return [row for row in self._slots if row is not None]

    @torch.inference_mode()
    def join(self, rows: Sequence[Row]) -> None:
        """Let rows join: each distinct prompt goes through the model once, then all rows take their slots."""
        prompts = list(dict.fromkeys(row.prompt for row in rows))
        logits, prefilled, mask = prefill(self._model, prompts, self._pad_token)
        self._begin(logits)
        self._reserve(prefilled, len(rows))
        free = [slot for slot, row in enumerate(self._slots) if row is None][: len(rows)]
        place = {prompt: index for index, prompt in enumerate(prompts)}
        order = torch.tensor([place[row.prompt] for row in rows], device=self._device)
        self._cache.admit(prefilled, order, free)
        end = self._cache.end
        for slot, row in zip(free, rows, strict=True):
            self._slots[slot] = row
            self._starts[slot] = end - len(row.prompt)
        where = torch.tensor(free, device=self._device)
        self._mask[where] = 0
        self._mask[where, end - mask.shape[1] : end] = mask[order]
        self._logits[where] = logits[order]
        if self._seen is not None:
            self._seen[where] = False

    @torch.inference_mode()
    def step(self) -> list[Row]:
        """Choose a token for every row; let the finished ones leave and return them."""
        living = [slot for slot, row in enumerate(self._slots) if row is not None]
        where = torch.tensor(living, device=self._device)
        rows = self.rows
        seen = self._seen[where] if self._seen is not None else None
        positions = [len(row.tokens) for row in rows]
        chosen = choose(self._logits[where], self._sampling, [row.seed for row in rows], positions, seen)
        if self._seen is not None:
            self._seen[where, chosen] = True
        finished = []
        for slot, row, token in zip(living, rows, chosen.tolist(), strict=True):
            row.tokens.append(token)
            row.is_stopped = token in self._stop_tokens
            if row.is_stopped or len(row.tokens) >= self._sampling.max_tokens:
                self._slots[slot] = None
                finished.append(row)
        if len(finished) < len(rows):
            self._advance()
        return finished

    def leave(self, row: Row) -> None:
        """Let a row go before it is done: nobody waits for it any more."""
        self._slots = [None if one is row else one for one in self._slots]

    def _advance(self) -> None:
        """One forward pass: every slot appends a token, an empty one a padding that nobody reads."""
        cache = self._cache
        cache.start = min(
            start for start, row in zip(self._starts, self._slots, strict=True) if row is not None
        )
        living, width = len(self.rows), cache.end - cache.start
        # The window may fill every column also when the batch shrinks: a free one is needed either way.
        columns = cache.columns if width < cache.columns else max(2 * width, MIN_COLUMNS)
        if living <= KEPT_SHARE * len(self._slots):
            self._lay_out(living, columns, width)
        elif cache.end == cache.columns:
            self._lay_out(len(self._slots), max(2 * width, MIN_COLUMNS), width)
        tokens = [self._pad_token if row is None else row.tokens[-1] for row in self._slots]
        self._mask[:, cache.end] = 1
        window = self._mask[:, cache.start : cache.end + 1]
        positions = window.sum(-1, keepdim=True) - 1
        column = torch.tensor(tokens, device=self._device)[:, None]
        self._logits = next_logits(self._model, column, window, positions, cache)
        cache.end += 1

    def _reserve(self, prefilled: DynamicCache, count: int) -> None:
        """Make sure that `count` slots are free, and that their prompts fit left of the next column."""
        cache, living, width = self._cache, len(self.rows), prefilled.get_seq_length()
        if living == 0:
            cache.start = cache.end
            self._lay_out(count, max(2 * width, MIN_COLUMNS), width, prefilled)
        elif len(self._slots) - living < count or cache.end < width:
            end = max(cache.end - cache.start, width)
            self._lay_out(max(len(self._slots), living + count), max(cache.columns, 2 * end), end, prefilled)

    def _lay_out(self, slots: int, columns: int, end: int, like: DynamicCache | None = None) -> None:
        """Move the living rows to the first of `slots` slots, their window to end at column `end`."""
        cache = self._cache
        kept = [slot for slot, row in enumerate(self._slots) if row is not None]
        shift, window = end - cache.end, slice(cache.start, cache.end)
        where, spare = torch.tensor(kept, dtype=torch.long, device=self._device), slots - len(kept)
        mask = self._mask.new_zeros((slots, columns))
        mask[: len(kept), end - (cache.end - cache.start) : end] = self._mask[where, window]
        self._mask = mask
        self._logits = functional.pad(self._logits[where], (0, 0, 0, spare))
        if self._seen is not None:
            self._seen = functional.pad(self._seen[where], (0, 0, 0, spare))
        cache.lay_out(like, where, slots, columns, end)
        self._starts = [self._starts[slot] + shift for slot in kept] + [end] * spare
        self._slots = [self._slots[slot] for slot in kept] + [None] * spare

    def _begin(self, logits: Tensor) -> None:
        if not self._logits.numel():
            self._logits = logits.new_empty((0, logits.shape[1]))
            if self._sampling.presence_penalty:
                self._seen = torch.zeros_like(self._logits, dtype=torch.bool)


def prefill(
    model: nn.Module, prompts: Sequence[tuple[int, ...]], pad_token: int
) -> tuple[Tensor, DynamicCache, Tensor]:
    """Put prompts through the model, padded on the left.

    Returns:
        Logits of the first token after each (prompts, vocabulary), the cache, the mask (prompts, width).
    """
    device = next(model.parameters()).device
    width = max(map(len, prompts))
    tokens = [[pad_token] * (width - len(prompt)) + list(prompt) for prompt in prompts]
    mask = torch.tensor(
        [[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts], device=device
    )
    cache = DynamicCache()
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    return next_logits(model, torch.tensor(tokens, device=device), mask, positions, cache), cache, mask


def next_logits(model: nn.Module, tokens: Tensor, mask: Tensor, positions: Tensor, cache: Cache) -> Tensor:
    """One forward pass; logits after the last of `tokens` (rows, n), which the cache then holds."""
    out = model(
        input_ids=tokens,
        attention_mask=mask,
        position_ids=positions,
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=1,
    )
    logits: Tensor = out.logits[:, -1]
    return logits

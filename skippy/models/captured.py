"""Rows decoded in slots of fixed size: a whole step, sampling included, is one CUDA graph.

A small model's step is a thousand small kernels, and a GPU waits for the host to launch each. Recorded once and
replayed, they cost what they compute. That needs every shape and address to stay: `slots` rows, `columns` tokens
a row. A row's tokens begin at column 0 of its slot, so nothing is ever moved, and rows still come and go.

Weights that an optimizer updates in place are seen by the next replay; a weight put in the place of another is not.
On a CPU the same step runs without being recorded.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Cache, DynamicCache
from transformers.cache_utils import DynamicLayer

from skippy.core.sampling import Sampling
from skippy.models.decoding import Row, next_logits, prefill
from skippy.models.sampling import choose_by_keys, keys_at, seed_keys

SWITCH = "SKIPPY_CUDA_GRAPHS"  # 0 switches recording off
MOST_PARAMETERS = 1_500_000_000  # above it a step computes for longer than its launches take
COLUMN_STEP = 64  # columns are a multiple of it, so that prompts of other lengths fit a recorded step
WARM_UPS = 3


def gains_from_recording(model: nn.Module) -> bool:
    """Whether steps of this model are worth recording: small, on a GPU, and nobody switched it off."""
    if os.environ.get(SWITCH) == "0" or next(model.parameters()).device.type != "cuda":
        return False
    config: Any = model.config
    # The mask is boolean, which only this attention takes.
    is_masked_by_truth = getattr(config, "_attn_implementation", "") == "sdpa"
    return is_masked_by_truth and sum(each.numel() for each in model.parameters()) <= MOST_PARAMETERS


class FixedBatch:
    """What `DecodingBatch` is, in buffers that never change: the same samples, token for token.

    Args:
        model: a causal language model of transformers with scaled-dot-product attention, or PEFT around one,
            in evaluation mode whenever rows join or step.
        columns: most tokens of a prompt and its completion; rounded up to a multiple of `COLUMN_STEP`.
        records: record the step on a GPU; without, the same step runs kernel by kernel, as a check does.
    """

    def __init__(
        self,
        model: nn.Module,
        sampling: Sampling,
        stop_tokens: Iterable[int],
        pad_token: int,
        *,
        slots: int,
        columns: int,
        barred: Sequence[int] = (),
        records: bool = True,
    ) -> None:
        self._model, self._sampling = model, sampling
        self._stop_tokens, self._pad_token = frozenset(stop_tokens), pad_token
        self._device = next(model.parameters()).device
        self.columns = -(-columns // COLUMN_STEP) * COLUMN_STEP
        self._rows: list[Row | None] = [None] * slots
        self._barred = torch.tensor(barred, dtype=torch.long, device=self._device) if barred else None
        self._cache: FixedCache | None = None
        self._state: dict[str, Tensor] = {}
        self._records = records and self._device.type == "cuda"
        self._graph: torch.cuda.CUDAGraph | None = None

    @property
    def rows(self) -> list[Row]:
        """The rows that are not done."""
        return [row for row in self._rows if row is not None]

    @property
    def slots(self) -> int:
        """Most rows at a time."""
        return len(self._rows)

    def clear(self) -> None:
        """Let every row go."""
        self._rows = [None] * len(self._rows)

    @torch.inference_mode()
    def join(self, rows: Sequence[Row]) -> None:
        """Let rows take free slots: each distinct prompt goes through the model once."""
        prompts = list(dict.fromkeys(row.prompt for row in rows))
        logits, prefilled, _ = prefill(self._model, prompts, self._pad_token)
        if self._cache is None:
            self._make_buffers(logits, prefilled)
        free = [slot for slot, row in enumerate(self._rows) if row is None][: len(rows)]
        for slot, row in zip(free, rows, strict=True):
            self._rows[slot] = row
        place = {prompt: index for index, prompt in enumerate(prompts)}
        order = self._tensor([place[row.prompt] for row in rows])
        lengths = self._tensor([len(row.prompt) for row in rows])
        where = self._tensor(free)
        assert self._cache is not None
        self._cache.admit(prefilled, order, lengths, where)
        state = self._state
        state["logits"][where] = logits[order].to(state["logits"].dtype)
        state["columns"][where] = lengths
        state["counts"][where] = 0
        state["seeds"][where] = seed_keys([row.seed for row in rows]).to(self._device)
        if "seen" in state:
            state["seen"][where] = False

    @torch.inference_mode()
    def step(self) -> list[Row]:
        """Choose a token for every row; let the finished ones leave and return them."""
        if not self._records:
            self._advance()
        else:
            if self._graph is None:
                self._graph = self._record()
            self._graph.replay()
        finished = []
        for slot, token in enumerate(self._state["tokens"].tolist()):
            row = self._rows[slot]
            if row is None:
                continue
            row.tokens.append(token)
            row.is_stopped = token in self._stop_tokens
            if row.is_stopped or len(row.tokens) >= self._sampling.max_tokens:
                self._rows[slot] = None
                finished.append(row)
        return finished

    def _advance(self) -> None:
        """Choose from the logits, append, and compute the next logits, for empty slots too; all in place."""
        state, cache = self._state, self._cache
        assert cache is not None
        if self._barred is not None:
            state["logits"].index_fill_(1, self._barred, -torch.inf)
        keys = keys_at(state["seeds"], state["counts"])
        chosen = choose_by_keys(state["logits"], self._sampling, keys, state.get("seen"))
        state["tokens"].copy_(chosen)
        if "seen" in state:
            state["seen"].scatter_(1, chosen[:, None], True)
        mask = (state["numbers"] <= state["columns"][:, None])[:, None, None]
        tokens, positions = chosen[:, None], state["columns"][:, None]
        state["logits"].copy_(next_logits(self._model, tokens, mask, positions, cache))
        state["counts"].add_(1)
        state["columns"].add_(1).clamp_(max=self.columns - 1)  # an empty slot goes on at its last column

    def _record(self) -> torch.cuda.CUDAGraph:
        """Record a step; the steps that warm up are undone."""
        kept = {name: tensor.clone() for name, tensor in self._state.items()}
        aside, current = torch.cuda.Stream(self._device), torch.cuda.current_stream(self._device)
        aside.wait_stream(current)
        with torch.cuda.stream(aside):
            for _ in range(WARM_UPS):
                self._advance()
        current.wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            self._advance()
        for name, tensor in kept.items():
            self._state[name].copy_(tensor)
        return graph

    def _make_buffers(self, logits: Tensor, prefilled: DynamicCache) -> None:
        slots, vocabulary = len(self._rows), logits.shape[-1]
        zeros = logits.new_zeros((slots,), dtype=torch.long)
        self._state = {name: zeros.clone() for name in ("tokens", "columns", "counts", "seeds")}
        self._state["numbers"] = torch.arange(self.columns, device=self._device)[None]
        self._state["logits"] = logits.new_zeros((slots, vocabulary))
        if self._sampling.presence_penalty:
            self._state["seen"] = logits.new_zeros((slots, vocabulary), dtype=torch.bool)
        self._cache = FixedCache(prefilled, slots, self.columns, self._state["columns"])

    def _tensor(self, values: Sequence[int]) -> Tensor:
        return torch.tensor(values, dtype=torch.long, device=self._device)


class FixedCache(Cache):
    """Keys and values in slots; a step writes each row's column of its own.

    Args:
        like: a cache of the same model, for shapes and type.
        written: (slots,) column that a step writes in each slot; kept, not copied.
    """

    def __init__(self, like: DynamicCache, slots: int, columns: int, written: Tensor) -> None:
        super().__init__(layers=[FixedLayer(layer, slots, columns, written) for layer in like.layers])

    def admit(self, prefilled: DynamicCache, order: Tensor, lengths: Tensor, where: Tensor) -> None:
        """Copy prompts, padded on the left in `prefilled`, to the beginning of slots.

        Args:
            prefilled: cache of the distinct prompts.
            order: row of `prefilled` for each slot.
            lengths: of the prompts, for each slot.
        """
        width = prefilled.get_seq_length()
        numbers = torch.arange(width, device=order.device)
        # What lies behind a prompt is no token yet: masked until a step writes it.
        columns = (numbers[None] + width - lengths[:, None]).clamp(max=width - 1)[:, None, :, None]
        for ours, theirs in zip(self.layers, prefilled.layers, strict=True):
            for name in ("keys", "values"):
                states = getattr(theirs, name)[order]
                moved = states.gather(2, columns.expand(-1, states.shape[1], -1, states.shape[3]))
                getattr(ours, name)[where, :, :width] = moved


class FixedLayer(DynamicLayer):
    """One layer's buffers."""

    def __init__(self, like: Any, slots: int, columns: int, written: Tensor) -> None:
        super().__init__()
        self._written = written
        self._slots = torch.arange(slots, device=written.device)
        for name in ("keys", "values"):
            states: Tensor = getattr(like, name)
            # Zeros, because a masked column still enters as 0 × its value.
            setattr(self, name, states.new_zeros((slots, states.shape[1], columns, states.shape[3])))
        self.is_initialized = True

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        """Write one column of every slot in place; return all of them."""
        keys, values = self.keys, self.values
        assert keys is not None
        assert values is not None
        keys[self._slots, :, self._written] = key_states[:, :, 0]
        values[self._slots, :, self._written] = value_states[:, :, 0]
        return keys, values

    def get_seq_length(self) -> int:
        """Columns there are; positions and masks are given, so nobody derives them from this."""
        return 0 if self.keys is None else self.keys.shape[2]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """All columns, from the first."""
        return self.get_seq_length(), 0

"""Sampling by traced steps on a CPU: the tokens of transformers' `generate`, bit for bit, at half of its cost.

A step of a small model on a CPU is mostly Python and a cache that is copied at every token. Here the operators of a
step are traced once and replayed by TorchScript, and keys and values are written in place. The operators are the
model's own, in its order, so the logits are the same bits, and so are the draws from torch's generator.

That is not taken on trust: the first batch of its kind is sampled both ways, and unless tokens and generator end up
equal, such batches are sampled by `generate` from then on.
"""

from __future__ import annotations

import logging
import warnings
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Cache, DynamicCache
from transformers.cache_utils import DynamicLayer

from skippy.models.decoding import next_logits

logger = logging.getLogger(__name__)

KNOWN_INPUTS = frozenset(
    {"attention_mask", "position_ids", "mm_encoder_outputs", "logits_to_keep", "past_key_values", "use_cache"}
)
"""What `generate` prepares for plain text; anything else is left to `generate` itself."""


class TracedSampling:
    """A decoding loop for `generate(custom_generate=…)`.

    Weights that are updated in place are seen by the next step; a weight put in the place of another is not.
    """

    def __init__(self) -> None:
        self.trusted: dict[tuple[int, bool], bool] = {}
        """Rows, and whether prompts are padded → whether a traced step gave the bits of `generate`."""
        self._steps: dict[int, Any] = {}

    def __call__(self, model: Any, input_ids: Tensor, **prepared: Any) -> Tensor:
        """Prompts and completions, (rows, width), as `generate` returns them."""
        kind = len(input_ids), prepared.get("attention_mask") is None
        if kind not in self.trusted:
            return self._compare(kind, model, input_ids, prepared)
        sample = self._sample if self.trusted[kind] else _sample_stock
        return sample(model, input_ids, dict(prepared))

    def _compare(
        self, kind: tuple[int, bool], model: Any, input_ids: Tensor, prepared: dict[str, Any]
    ) -> Tensor:
        """Sample both ways from the same state of the generator."""
        before = torch.get_rng_state()
        is_plain = _is_plain(input_ids, prepared)
        expected, after = _sample_stock(model, input_ids, dict(prepared)), torch.get_rng_state()
        self.trusted[kind] = False
        if is_plain:
            torch.set_rng_state(before)
            try:
                found = self._sample(model, input_ids, dict(prepared))
            except (RuntimeError, TypeError, ValueError, AttributeError) as error:
                logger.debug("sampling cannot be traced: %s", error)
            else:
                is_same = torch.equal(found, expected) and torch.equal(torch.get_rng_state(), after)
                self.trusted[kind] = is_same
            torch.set_rng_state(after)
        if not self.trusted[kind]:
            logger.info("sampling token by token through generate: traced steps do not give its bits here")
        return expected

    @torch.no_grad()
    def _sample(self, model: Any, input_ids: Tensor, prepared: dict[str, Any]) -> Tensor:
        """The loop of `generate`: process the scores, draw, pad what is finished, until all are."""
        process, stops = prepared["logits_processor"], prepared["stopping_criteria"]
        padding, mask = prepared["generation_config"]._pad_token_tensor, prepared.get("attention_mask")
        mask = torch.ones_like(input_ids) if mask is None else mask
        rows, width = input_ids.shape
        logits, buffers = self._prefill(model, input_ids, mask, stops.max_length)
        seen = torch.ones((rows, 1, 1, stops.max_length), dtype=torch.bool)
        seen[:, 0, 0, :width] = mask.bool()
        positions = mask.sum(-1, keepdim=True) - 1
        unfinished = torch.ones(rows, dtype=torch.long)
        while True:
            scores = process(input_ids, logits.float())
            drawn = torch.multinomial(scores.softmax(-1), num_samples=1).squeeze(1)
            drawn = drawn * unfinished + padding * (1 - unfinished)
            input_ids = torch.cat([input_ids, drawn[:, None]], dim=-1)
            unfinished = unfinished & ~stops(input_ids, None)
            if not bool(unfinished.any()):
                return input_ids
            width += 1
            positions = positions + 1
            window = [buffer[:, :, :width] for buffer in buffers]
            logits = self._step(model, rows, (drawn[:, None], seen[..., :width], positions, *window))

    def _prefill(
        self, model: nn.Module, ids: Tensor, mask: Tensor, columns: int
    ) -> tuple[Tensor, list[Tensor]]:
        """Logits after the prompts, and their keys and values at the beginning of buffers of `columns`."""
        cache = DynamicCache()
        logits = next_logits(model, ids, mask, (mask.cumsum(-1) - 1).clamp(min=0), cache)
        buffers = []
        for layer in cache.layers:
            for states in (getattr(layer, name) for name in ("keys", "values")):
                rows, heads, width, size = states.shape
                buffers.append(states.new_empty((rows, heads, columns, size)))
                buffers[-1][:, :, :width] = states
        return logits, buffers

    def _step(self, model: nn.Module, rows: int, inputs: tuple[Tensor, ...]) -> Tensor:
        if rows not in self._steps:
            self._steps[rows] = _trace(model, inputs)
        with torch.jit.optimized_execution(False):  # no pass may fuse, and so round, differently
            logits: Tensor = self._steps[rows](*inputs)
        return logits


def _sample_stock(model: Any, input_ids: Tensor, prepared: dict[str, Any]) -> Tensor:
    tokens: Tensor = model._sample(input_ids, **prepared)
    return tokens


def _is_plain(input_ids: Tensor, prepared: dict[str, Any]) -> bool:
    """Text alone, drawn at random, on a CPU, with the usual cache."""
    config, cache = prepared["generation_config"], prepared.get("past_key_values")
    inputs = {name for name, value in prepared.items() if value is not None}
    asked = inputs - {"logits_processor", "stopping_criteria", "generation_config", "synced_gpus", "streamer"}
    return (
        asked <= KNOWN_INPUTS
        and not prepared.get("mm_encoder_outputs")
        and not prepared.get("synced_gpus")
        and prepared.get("streamer") is None
        and config.do_sample
        and not config.return_dict_in_generate
        and input_ids.device.type == "cpu"
        and isinstance(cache, DynamicCache)
        and all(type(layer) is DynamicLayer for layer in cache.layers)
        and config._pad_token_tensor is not None
    )


def _trace(model: nn.Module, inputs: tuple[Tensor, ...]) -> Any:
    """The operators of one step as a TorchScript function of tokens, mask, positions, keys and values."""

    def step(tokens: Tensor, mask: Tensor, positions: Tensor, *windows: Tensor) -> Tensor:
        return next_logits(model, tokens, mask, positions, _WindowCache(windows))

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of shapes that are taken as constant: rows and heads are
        return torch.jit.trace(step, inputs, check_trace=False)


class _WindowCache(Cache):
    """Windows of buffers whose last column a step writes."""

    def __init__(self, windows: tuple[Tensor, ...]) -> None:
        pairs = zip(windows[::2], windows[1::2], strict=True)
        super().__init__(layers=[_WindowLayer(keys, values) for keys, values in pairs])


class _WindowLayer(DynamicLayer):
    def __init__(self, keys: Tensor, values: Tensor) -> None:
        super().__init__()
        self.keys, self.values = keys, values
        self.is_initialized = True

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        """Write the last column in place; return the window."""
        assert self.keys is not None
        assert self.values is not None
        self.keys[:, :, -1:] = key_states
        self.values[:, :, -1:] = value_states
        return self.keys, self.values

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """The window, which holds the new column already."""
        return self.get_seq_length(), 0

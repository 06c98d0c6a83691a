"""Keys and values of a changing set of rows, in buffers that are written in place.

Concatenating the cache every step, and selecting from it whenever a row ends, moves all of it each time and
costs more than a small model itself. Here a row owns a slot; a step writes one column; a row that ends leaves
its slot to the next one that joins, and nothing else moves until the columns run out.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import Cache, DynamicCache
from transformers.cache_utils import DynamicLayer

MIN_COLUMNS = 64


class SlotCache(Cache):
    """A cache of transformers whose rows are slots and whose columns are a window that moves right."""

    def __init__(self) -> None:
        super().__init__(layers=[])
        self.start = 0  # first column that a living row uses; earlier ones are not attended to
        self.end = 0  # the column that the next step writes

    @property
    def slots(self) -> int:
        """Rows of the buffers."""
        return _buffer(self.layers[0], "keys").shape[0] if self.layers else 0

    @property
    def columns(self) -> int:
        """Columns of the buffers."""
        return _buffer(self.layers[0], "keys").shape[2] if self.layers else 0

    def admit(self, prefilled: DynamicCache, order: Tensor, slots: Sequence[int]) -> None:
        """Put prompts into slots, each ending at column `end`.

        Args:
            prefilled: cache of the distinct prompts, padded on the left.
            order: row of `prefilled` for each slot.
        """
        place = torch.tensor(slots, device=order.device)
        width = prefilled.get_seq_length()
        for ours, theirs in zip(self.layers, prefilled.layers, strict=True):
            for name in ("keys", "values"):
                states = _buffer(theirs, name)[order]
                _buffer(ours, name)[place, :, self.end - width : self.end] = states

    def lay_out(self, like: DynamicCache | None, kept: Tensor, slots: int, columns: int, end: int) -> None:
        """Move the window of the rows `kept` into new buffers, the rows first, so that it ends at `end`.

        Args:
            like: a cache of the same model, for the shapes of the first layout; not needed later.
            kept: slots to keep, in their new order.
            end: where the window ends in them.
        """
        width = self.end - self.start
        if like is not None and not self.layers:
            self.layers = [
                SlotLayer(self, _buffer(each, "keys"), _buffer(each, "values")) for each in like.layers
            ]
        for layer in self.layers:
            for name in ("keys", "values"):
                old = _buffer(layer, name)
                # Zeros, because a masked column still enters as 0 × its value.
                new = old.new_zeros((slots, old.shape[1], columns, old.shape[3]))
                new[: len(kept), :, end - width : end] = old[kept, :, self.start : self.end]
                setattr(layer, name, new)
        self.start, self.end = end - width, end


class SlotLayer(DynamicLayer):
    """One layer's buffers; the window is the cache's."""

    def __init__(self, cache: SlotCache, keys: Tensor, values: Tensor) -> None:
        super().__init__()
        self._cache = cache
        self.keys, self.values = keys[:0, :, :0], values[:0, :, :0]
        self.is_initialized = True

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        """Write the new columns in place; return the window with them."""
        start, end = self._cache.start, self._cache.end
        stop = end + key_states.shape[2]
        keys, values = _buffer(self, "keys"), _buffer(self, "values")
        keys[:, :, end:stop] = key_states
        values[:, :, end:stop] = value_states
        return keys[:, :, start:stop], values[:, :, start:stop]

    def get_seq_length(self) -> int:
        """Width of the window."""
        return self._cache.end - self._cache.start

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Width that a step attends to, and the column it starts from."""
        return self.get_seq_length() + query_length, 0


def _buffer(layer: object, name: str) -> Tensor:
    """`keys` or `values` of a layer, which the types of transformers allow to be absent."""
    buffer: Tensor = getattr(layer, name)
    return buffer

"""Tensors of a safetensors file, one at a time: read whole or by rows, and the header of a new file."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from skippy.stores.blocks import Reader
from skippy.stores.headers import TYPES, TensorInfo

DTYPE_NAMES: Mapping[torch.dtype, str] = {getattr(torch, kind.name): name for name, kind in TYPES.items()}


class Zeros:
    """Where the bytes of a `NewTensor` are read from."""

    def read(self, start: int, stop: int, what: str, buffer: np.ndarray) -> np.ndarray:
        """So many, in `buffer`."""
        buffer[: stop - start] = 0
        return buffer[: stop - start]


def header_bytes(
    entries: Iterable[tuple[str, torch.dtype, tuple[int, ...]]], metadata: Mapping[str, str] | None = None
) -> bytes:
    """Write the header of a file that holds `entries` one after the other, without gaps, in this order."""
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    offset = 0
    for key, dtype, shape in entries:
        size = math.prod(shape) * dtype.itemsize
        header[key] = {
            "dtype": DTYPE_NAMES[dtype],
            "shape": list(shape),
            "data_offsets": [offset, offset + size],
        }
        offset += size
    raw = json.dumps(header, separators=(",", ":")).encode()
    raw += b" " * (-len(raw) % 8)  # the format wants the data aligned to 8 bytes
    return len(raw).to_bytes(8, "little") + raw


def read_tensor(info: TensorInfo) -> Tensor:
    """Load the bytes of one tensor into memory of its own; other threads run meanwhile."""
    return _read_span(info, 0, info.nbytes).view(info.dtype).reshape(info.shape)


def read_rows(info: TensorInfo, start: int, stop: int) -> Tensor:
    """Load rows `start` to `stop`, of the first dimension, as a matrix or more; a vector has rows of one."""
    shape = info.shape if len(info.shape) > 1 else (*(info.shape or (1,)), 1)
    width = info.nbytes // max(shape[0], 1)
    raw = _read_span(info, start * width, stop * width)
    return raw.view(info.dtype).reshape(stop - start, *shape[1:])


def _read_span(info: TensorInfo, start: int, stop: int) -> Tensor:
    raw = torch.empty(stop - start, dtype=torch.uint8)  # a bytearray would be zeroed first, under the GIL
    with Reader(info.file, keep=True) as reader:
        reader.read(info.start + start, info.start + stop, info.key, raw.numpy())
    return raw

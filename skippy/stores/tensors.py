"""One safetensors file: its header parsed without its data, then one tensor at a time, hashed or read."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from io import RawIOBase
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from skippy.errors import CheckpointError
from skippy.stores.documents import parse_object

DTYPES: dict[str, torch.dtype] = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
# By floating type: integers of the same size, and the least bits, sign aside, of a value that is not finite.
EXPONENT_BITS = {
    torch.float64: (torch.int64, 0x7FF0 << 48),
    torch.float32: (torch.int32, 0x7F80 << 16),
    torch.bfloat16: (torch.int16, 0x7F80),
    torch.float16: (torch.int16, 0x7C00),
}
DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}
MAX_HEADER_BYTES = 100_000_000  # the format's own limit
LARGEST = 2**63 - 1
CHUNK_BYTES = 4 << 20


@dataclass(frozen=True)
class TensorInfo:
    """Where one tensor lies: its file, type, shape, and byte range within that file."""

    key: str
    file: Path
    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int
    stop: int

    @property
    def nbytes(self) -> int:
        """Bytes of the tensor on disk."""
        return self.stop - self.start


@dataclass(frozen=True)
class NewTensor(TensorInfo):
    """One that a base does not have and a merge adds: zeros, after the last byte of the file."""


class Zeros(RawIOBase):
    """Where the bytes of a `NewTensor` are read from."""

    def readinto(self, buffer: Any) -> int:
        """Fill it."""
        buffer[:] = bytes(len(buffer))
        return len(buffer)


def read_header(file: Path) -> dict[str, TensorInfo]:
    """Parse the header of one safetensors file and check it against the size of the file.

    Raises:
        CheckpointError: the file is truncated, no safetensors file, or its header is not one that describes each
            of its bytes once.
    """
    size = file.stat().st_size
    with file.open("rb") as stream:
        prefix = stream.read(8)
        length = int.from_bytes(prefix, "little")
        if len(prefix) < 8 or length > MAX_HEADER_BYTES:
            raise damaged(file, "a safetensors header", f"{size} bytes that do not start with one")
        raw = stream.read(length)
    if len(raw) < length:
        raise damaged(file, f"a header of {length} bytes", f"{len(raw)} bytes after the prefix")
    if not raw.startswith(b"{"):
        raise damaged(file, "a header of JSON that starts with {", repr(raw[:8]))
    try:
        header = parse_object(raw)
    except ValueError as error:
        raise damaged(file, "a header of JSON with dtype, shape and data_offsets", str(error)) from error
    metadata = header.pop("__metadata__", None) or {}
    if not isinstance(metadata, dict) or not all(isinstance(text, str) for text in metadata.values()):
        raise damaged(file, "__metadata__ of texts", repr(metadata)[:80])
    infos = {key: _tensor_info(key, file, entry, 8 + length) for key, entry in header.items()}
    _require_tiling(file, infos, 8 + length, size)
    return infos


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
    with info.file.open("rb", buffering=0) as stream:
        stream.seek(info.start + start)
        fill(stream, memoryview(raw.numpy().data), info)
    return raw


def fill(stream: RawIOBase, view: memoryview, info: TensorInfo) -> None:
    """Read until `view` is full: one read returns at most 2 GiB, and on some disks less.

    Raises:
        CheckpointError: the file ends before.
    """
    filled = 0
    while filled < len(view):
        count = stream.readinto(view[filled:]) or 0
        if count == 0:
            raise damaged(info.file, f"{info.nbytes} bytes of {info.key}", "an earlier end of the file")
        filled += count


def hash_tensor(info: TensorInfo) -> str:
    """Hash the bytes of one tensor (sha256, hexadecimal), a chunk of the file at a time.

    Raises:
        CheckpointError: the file ends before, or a value is NaN or infinite.
    """
    sha, chunk = hashlib.sha256(), -(-CHUNK_BYTES // 8) * 8  # whole numbers, of whatever type
    buffer = torch.empty(min(chunk, info.nbytes), dtype=torch.uint8)
    view = memoryview(buffer.numpy().data)
    with info.file.open("rb", buffering=0) as stream:
        stream.seek(info.start)
        for start in range(0, info.nbytes, chunk):
            size = min(chunk, info.nbytes - start)
            fill(stream, view[:size], info)
            sha.update(view[:size])
            require_finite(buffer[:size].view(info.dtype), info)
    return sha.hexdigest()


def require_finite(values: Tensor, info: TensorInfo) -> None:
    """Refuse NaN and infinity, seen in the bits of the exponent: no copy in a wider type is made.

    Raises:
        CheckpointError: there is one.
    """
    if values.dtype not in EXPONENT_BITS or not values.numel():
        return
    integers, exponent = EXPONENT_BITS[values.dtype]
    magnitude = values.view(integers).bitwise_and(torch.iinfo(integers).max)
    if int(magnitude.max()) >= exponent:
        raise CheckpointError(
            "A weight is not finite.",
            where=f"{info.key} in {info.file}",
            expected="finite numbers",
            found="NaN or infinity",
            next_step="use an earlier checkpoint of the training that made it, or fetch the file again",
        )


def _tensor_info(key: str, file: Path, entry: Any, data_start: int) -> TensorInfo:
    found = entry if isinstance(entry, dict) else {}
    dtype, shape, offsets = found.get("dtype"), found.get("shape"), found.get("data_offsets")
    if isinstance(dtype, str) and dtype not in DTYPES:
        raise CheckpointError(
            "A tensor is stored in a type that is not supported.",
            where=f"{key} in {file}",
            expected="one of " + ", ".join(DTYPES),
            found=dtype,
            next_step="use an unquantised checkpoint",
        )
    sizes, span = _sizes(shape), _sizes(offsets)
    is_addressable = sizes is not None and math.prod(size or 1 for size in sizes) <= LARGEST
    if not isinstance(dtype, str) or sizes is None or not is_addressable or span is None or len(span) != 2:
        raise damaged(
            file,
            f"{key}: dtype, shape and two data_offsets, of whole numbers from 0",
            repr(entry)[:120],
        )
    nbytes = math.prod(sizes) * DTYPES[dtype].itemsize
    if span[1] - span[0] != nbytes:
        raise damaged(
            file, f"{key}: {nbytes} bytes, by its type and shape", f"{span[1] - span[0]} bytes of data"
        )
    return TensorInfo(key, file, DTYPES[dtype], sizes, data_start + span[0], data_start + span[1])


def _sizes(values: Any) -> tuple[int, ...] | None:
    """Whole numbers from 0, or None: neither 8.0 nor true is one."""
    if isinstance(values, list) and all(type(value) is int and value >= 0 for value in values):
        return tuple(values)
    return None


def _require_tiling(file: Path, infos: Mapping[str, TensorInfo], data_start: int, size: int) -> None:
    """Every byte after the header belongs to one tensor: none is shared, none is left over."""
    position = data_start
    for info in sorted(infos.values(), key=lambda info: (info.start, info.stop)):
        if info.start != position:
            raise CheckpointError(
                "The tensors of a weight file overlap or leave gaps.",
                where=f"{info.key} in {file}",
                expected=f"data from byte {position}",
                found=f"from byte {info.start}",
                next_step="fetch the file again, or save it again with save_pretrained",
            )
        position = info.stop
    if size < position:
        raise damaged(file, f"{position} bytes, by its header", f"{size} bytes: the file is truncated")
    if size > position:
        raise damaged(
            file, f"{position} bytes, by its header", f"{size} bytes: {size - position} belong to no tensor"
        )


def damaged(file: Path, expected: str, found: str) -> CheckpointError:
    """Word the error of a file whose bytes are not what they should be."""
    return CheckpointError(
        "A weight file is damaged.",
        where=str(file),
        expected=expected,
        found=found,
        next_step="fetch the file again",
    )

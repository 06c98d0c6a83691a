"""One safetensors file: its header parsed without its data, then one tensor at a time, hashed or read."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from skippy.errors import CheckpointError

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
DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}
MAX_HEADER_BYTES = 100_000_000  # the format's own limit
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


def read_header(file: Path) -> dict[str, TensorInfo]:
    """Parse the header of one safetensors file and check it against the size of the file.

    Raises:
        CheckpointError: the file is truncated or no safetensors file.
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
    try:
        header = json.loads(raw)
        infos = {
            key: _tensor_info(key, file, entry, 8 + length)
            for key, entry in header.items()
            if key != "__metadata__"
        }
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise damaged(file, "a header of JSON with dtype, shape and data_offsets", repr(error)) from error
    end = max((info.stop for info in infos.values()), default=8 + length)
    if size < end:
        raise damaged(file, f"{end} bytes, by its header", f"{size} bytes: the file is truncated")
    for info in infos.values():
        if info.nbytes != math.prod(info.shape) * info.dtype.itemsize:
            raise damaged(file, f"{info.key}: {info.shape} of {info.dtype}", f"{info.nbytes} bytes of data")
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
    raw = torch.empty(info.nbytes, dtype=torch.uint8)  # a bytearray would be zeroed first, under the GIL
    with info.file.open("rb", buffering=0) as stream:
        stream.seek(info.start)
        view, filled = memoryview(raw.numpy().data), 0
        while filled < info.nbytes:  # one read returns at most 2 GiB
            count = stream.readinto(view[filled:]) or 0
            if count == 0:
                raise damaged(info.file, f"{info.nbytes} bytes of {info.key}", f"{filled} bytes")
            filled += count
    return raw.view(info.dtype).reshape(info.shape)


def hash_tensor(info: TensorInfo) -> str:
    """Hash the bytes of one tensor (sha256, hexadecimal), a chunk of the file at a time."""
    sha, left = hashlib.sha256(), info.nbytes
    with info.file.open("rb", buffering=0) as stream:
        stream.seek(info.start)
        buffer = bytearray(min(CHUNK_BYTES, max(left, 1)))
        while left:
            count = stream.readinto(memoryview(buffer)[: min(left, len(buffer))]) or 0
            if count == 0:
                raise damaged(info.file, f"{info.nbytes} bytes of {info.key}", f"{info.nbytes - left} bytes")
            sha.update(memoryview(buffer)[:count])
            left -= count
    return sha.hexdigest()


def _tensor_info(key: str, file: Path, entry: Mapping[str, Any], data_start: int) -> TensorInfo:
    if entry["dtype"] not in DTYPES:
        raise CheckpointError(
            "A tensor is stored in a type that is not supported.",
            where=f"{key} in {file}",
            expected="one of " + ", ".join(DTYPES),
            found=str(entry["dtype"]),
            next_step="use an unquantised checkpoint",
        )
    start, stop = (int(offset) for offset in entry["data_offsets"])
    shape = tuple(int(size) for size in entry["shape"])
    return TensorInfo(key, file, DTYPES[entry["dtype"]], shape, data_start + start, data_start + stop)


def damaged(file: Path, expected: str, found: str) -> CheckpointError:
    """Word the error of a file whose bytes are not what they should be."""
    return CheckpointError(
        "A weight file is damaged.",
        where=str(file),
        expected=expected,
        found=found,
        next_step="fetch the file again",
    )

"""One safetensors file without its tensors: its header parsed, its bytes hashed. No torch: a stage that finds its
work done reads no more than this.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from skippy.errors import CheckpointError
from skippy.stores import blocks
from skippy.stores.blocks import Reader, damaged
from skippy.stores.documents import parse_object

if TYPE_CHECKING:
    import torch


class StoredType(NamedTuple):
    """A type of the format: torch's name for it, bytes a value, and whether it has fractions."""

    name: str
    itemsize: int
    is_floating: bool


TYPES: Mapping[str, StoredType] = {
    "F64": StoredType("float64", 8, True),
    "F32": StoredType("float32", 4, True),
    "F16": StoredType("float16", 2, True),
    "BF16": StoredType("bfloat16", 2, True),
    "F8_E4M3": StoredType("float8_e4m3fn", 1, True),
    "F8_E5M2": StoredType("float8_e5m2", 1, True),
    "I64": StoredType("int64", 8, False),
    "I32": StoredType("int32", 4, False),
    "I16": StoredType("int16", 2, False),
    "I8": StoredType("int8", 1, False),
    "U8": StoredType("uint8", 1, False),
    "BOOL": StoredType("bool", 1, False),
}
# By floating type: integers of the same size, and the bits of the exponent. All are set in what is not finite.
EXPONENT_BITS: Mapping[str, tuple[Any, int]] = {
    "F64": (np.int64, 0x7FF0 << 48),
    "F32": (np.int32, 0x7F80 << 16),
    "BF16": (np.int16, 0x7F80),
    "F16": (np.int16, 0x7C00),
}
MAX_HEADER_BYTES = 100_000_000  # the format's own limit
LARGEST = 2**63 - 1


@dataclass(frozen=True)
class TensorInfo:
    """Where one tensor lies: its file, type as the format spells it, shape, and byte range within that file."""

    key: str
    file: Path
    type: str
    shape: tuple[int, ...]
    start: int
    stop: int

    @property
    def nbytes(self) -> int:
        """Bytes of the tensor on disk."""
        return self.stop - self.start

    @property
    def is_weight(self) -> bool:
        """Whether its values are numbers that one can add to, and no codes."""
        return TYPES[self.type].is_floating and TYPES[self.type].itemsize >= 2

    @property
    def dtype(self) -> torch.dtype:
        """The type as torch has it."""
        import torch

        dtype: torch.dtype = getattr(torch, TYPES[self.type].name)
        return dtype


@dataclass(frozen=True)
class NewTensor(TensorInfo):
    """One that a base does not have and a merge adds: zeros, after the last byte of the file."""


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


def hash_tensor(info: TensorInfo) -> str:
    """Hash the bytes of one tensor (sha256, hexadecimal), a block of the file at a time.

    Raises:
        CheckpointError: the file ends before, or a value is NaN or infinite.
    """
    sha, buffer = hashlib.sha256(), np.empty(min(blocks.BLOCK_BYTES, info.nbytes), np.uint8)
    with Reader(info.file, keep=True) as reader:
        for start in range(info.start, info.stop, blocks.BLOCK_BYTES):
            part = reader.read(start, min(start + blocks.BLOCK_BYTES, info.stop), info.key, buffer)
            sha.update(part.data)
            require_finite(part, info)
    return sha.hexdigest()


def digest_of_hashes(
    tensors: Mapping[str, TensorInfo], hashes: Mapping[str, str], types: Mapping[str, str] | None = None
) -> str:
    """Combine the sha256 of each tensor's bytes into the digest of the whole; `types` where not the tensors' own."""
    lines = []
    for key in sorted(tensors):
        name = tensors[key].type if types is None else types[key]
        lines.append(f"{key} {name} {'x'.join(map(str, tensors[key].shape))} {hashes[key]}\n")
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def digest_of_file(file: Path) -> str:
    """Digest of a whole safetensors file, as a checkpoint's."""
    infos = read_header(file)
    return digest_of_hashes(infos, {key: hash_tensor(info) for key, info in infos.items()})


def require_whole(directory: Path) -> None:
    """Look at every byte of the safetensors files of a directory.

    Raises:
        CheckpointError: there is none, or one is torn or holds a value that is not finite.
    """
    files = sorted(directory.glob("*.safetensors"))
    if not files:
        raise damaged(directory, "a safetensors file", "none")
    for file in files:
        digest_of_file(file)


def require_finite(raw: np.ndarray, info: TensorInfo) -> None:
    """Refuse NaN and infinity: with or without the sign they are the largest integers among the bits; no copy is made.

    Raises:
        CheckpointError: there is one.
    """
    if info.type not in EXPONENT_BITS or not raw.size:
        return
    integers, exponent = EXPONENT_BITS[info.type]
    signed = raw.view(integers)
    unsigned = signed.view(f"u{signed.dtype.name}")
    if int(signed.max()) >= exponent or int(unsigned.max()) >= exponent + (1 << 8 * signed.itemsize - 1):
        raise not_finite(info)


def not_finite(info: TensorInfo) -> CheckpointError:
    """Word the refusal of a weight that is NaN or infinite."""
    return CheckpointError(
        "A weight is not finite.",
        where=f"{info.key} in {info.file}",
        expected="finite numbers",
        found="NaN or infinity",
        next_step="use an earlier checkpoint of the training that made it, or fetch the file again",
    )


def _tensor_info(key: str, file: Path, entry: Any, data_start: int) -> TensorInfo:
    found = entry if isinstance(entry, dict) else {}
    dtype, shape, offsets = found.get("dtype"), found.get("shape"), found.get("data_offsets")
    if isinstance(dtype, str) and dtype not in TYPES:
        raise CheckpointError(
            "A tensor is stored in a type that is not supported.",
            where=f"{key} in {file}",
            expected="one of " + ", ".join(TYPES),
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
    nbytes = math.prod(sizes) * TYPES[dtype].itemsize
    if span[1] - span[0] != nbytes:
        raise damaged(
            file, f"{key}: {nbytes} bytes, by its type and shape", f"{span[1] - span[0]} bytes of data"
        )
    return TensorInfo(key, file, dtype, sizes, data_start + span[0], data_start + span[1])


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

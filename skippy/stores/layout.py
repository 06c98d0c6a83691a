"""How a merged checkpoint is laid out: file by file as the base, or with every weight widened to float32."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from skippy.stores.atomic import write_bytes, write_json
from skippy.stores.checkpoints import INDEX_FILE, Checkpoint
from skippy.stores.documents import parse_object
from skippy.stores.headers import NewTensor, TensorInfo
from skippy.stores.tensors import header_bytes

CONFIG_FILE = "config.json"
DTYPE_KEYS = ("dtype", "torch_dtype")


@dataclass(frozen=True)
class FileLayout:
    """One file to be written."""

    source: Path  # the base's file
    data_start: int  # where its first tensor begins
    header: bytes  # all bytes before the first tensor of the new file
    # The base's tensors in the order of their bytes, with the type each is written in.
    entries: tuple[tuple[TensorInfo, torch.dtype], ...]

    @property
    def nbytes(self) -> int:
        """Bytes of the new file."""
        counts = (info.nbytes // info.dtype.itemsize * dtype.itemsize for info, dtype in self.entries)
        return len(self.header) + sum(counts)


def lay_out(base: Checkpoint, file: Path, dtype: str) -> FileLayout:
    """Plan one file; in the base's own type, with nothing new in it, its header is copied to the byte."""
    infos = sorted(
        (info for info in base.tensors.values() if info.file == file),
        key=lambda info: (info.start, info.stop),
    )
    with file.open("rb") as source:
        prefix = source.read(8)
        header = source.read(int.from_bytes(prefix, "little"))
    start = 8 + len(header)
    is_same = dtype == "same"
    if is_same and not any(isinstance(info, NewTensor) for info in infos):
        return FileLayout(file, start, prefix + header, tuple((info, info.dtype) for info in infos))
    entries = tuple(
        (info, torch.float32 if info.dtype.is_floating_point and not is_same else info.dtype)
        for info in infos
    )
    metadata = parse_object(header).get("__metadata__")
    wide = header_bytes([(info.key, kind, info.shape) for info, kind in entries], metadata)
    return FileLayout(file, start, wide, entries)


def write_companions(base: Checkpoint, directory: Path, dtype: str) -> None:
    """Copy the small files and the index; what they say of types and sizes is what was written."""
    base.copy_companions(directory)
    added = {key: info.file.name for key, info in base.tensors.items() if isinstance(info, NewTensor)}
    if (base.path / INDEX_FILE).is_file():
        write_bytes(directory / INDEX_FILE, (base.path / INDEX_FILE).read_bytes())
    if dtype == "same" and not added:
        return
    write_json(directory / CONFIG_FILE, dict(base.config) if dtype == "same" else _retyped(base.config))
    if (base.path / INDEX_FILE).is_file():
        index = json.loads((base.path / INDEX_FILE).read_text(encoding="utf-8"))
        infos = base.tensors.values()
        sizes = (info.dtype.itemsize if dtype == "same" else 4 for info in infos)
        size = sum(info.nbytes // info.dtype.itemsize * each for info, each in zip(infos, sizes, strict=True))
        index["metadata"] = {**(index.get("metadata") or {}), "total_size": size}
        index["weight_map"] |= added
        write_json(directory / INDEX_FILE, index)


def _retyped(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config with float32 wherever it names the type of weights, in its parts too."""
    found = {key: "float32" if key in DTYPE_KEYS and value else value for key, value in config.items()}
    return {key: _retyped(value) if isinstance(value, Mapping) else value for key, value in found.items()}

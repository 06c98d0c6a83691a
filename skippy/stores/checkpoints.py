"""A model checkpoint on disk: headers before tensors, one tensor at a time, a digest of its content.

Nothing here instantiates a model. Opening parses `config.json`, the index and the safetensors headers, and
checks that every tensor promised is really there; reading touches the bytes of one tensor only.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from skippy.core.biases import require_switched_on
from skippy.errors import CheckpointError
from skippy.stores.blocks import damaged
from skippy.stores.companions import copy_companions
from skippy.stores.documents import parse_object
from skippy.stores.headers import TensorInfo, digest_of_hashes, hash_tensor, read_header
from skippy.stores.presence import ADAPTER_CONFIG_FILE, names_in, require_checkpoint
from skippy.stores.quantisation import require_unquantised
from skippy.words import counted

if TYPE_CHECKING:
    from torch import Tensor

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
HEAD_KEY = "lm_head.weight"
DIGEST_THREADS = min(16, os.cpu_count() or 1)


@dataclass(frozen=True)
class Checkpoint:
    """An opened checkpoint: parsed headers and config, no weights in memory."""

    path: Path
    config: Mapping[str, Any]
    tensors: Mapping[str, TensorInfo]
    files: tuple[Path, ...] = field(default=())

    @classmethod
    def open(cls, path: str | Path) -> Checkpoint:
        """Parse config, index and headers, and check that they agree.

        Raises:
            CheckpointError: the path is no complete safetensors checkpoint of plain weights, or one that two readers
                would read differently.
        """
        directory = Path(path)
        config = _read_config(directory)
        _require_one_reading(directory)
        files, listed = _weight_files(directory)
        tensors: dict[str, TensorInfo] = {}
        for file in files:
            for key, info in read_header(file).items():
                if key in tensors:
                    raise CheckpointError(
                        "A tensor is stored twice.",
                        where=f"{key} in {directory}",
                        expected="each key in one file",
                        found=f"{tensors[key].file.name} and {file.name}",
                        next_step="fetch the checkpoint again",
                    )
                tensors[key] = info
        _require_listed(directory, listed, tensors)
        require_unquantised(directory, config, tensors)
        require_switched_on(str(directory), config, tensors)
        return cls(path=directory, config=config, tensors=tensors, files=files)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape by key."""
        return {key: info.shape for key, info in self.tensors.items()}

    @property
    def nbytes(self) -> int:
        """Bytes of all weight files."""
        return sum(file.stat().st_size for file in self.files)

    def read(self, key: str) -> Tensor:
        """Load one tensor, in its stored type, on the CPU; no other tensor is touched.

        Raises:
            CheckpointError: there is no such key, or its file changed under us.
        """
        if key not in self.tensors:
            raise CheckpointError(
                "The checkpoint has no such tensor.",
                where=str(self.path),
                expected=key,
                found=f"{len(self.tensors)} other tensors",
                next_step="take keys from Checkpoint.tensors",
            )
        from skippy.stores.tensors import (
            read_tensor,  # with torch, which who only opens a checkpoint does not need
        )

        return read_tensor(self.tensors[key])

    def digest(self) -> str:
        """Hash the content: keys, types, shapes and bytes, however they are split over files.

        Returns:
            64 hexadecimal digits: sha256 over the sorted lines "key dtype shape sha256(bytes)".
        """
        # Equal shapes together, as `svd` reads them: what one of the two has read, the other finds in memory.
        infos = sorted(self.tensors.values(), key=lambda info: info.shape)
        with ThreadPoolExecutor(DIGEST_THREADS) as pool:
            hashes = dict(zip((info.key for info in infos), pool.map(hash_tensor, infos), strict=True))
        return digest_of_hashes(self.tensors, hashes)

    def copy_companions(self, destination: Path) -> tuple[str, ...]:
        """Copy config, tokenizer, templates, processors, licence; return the names copied."""
        return copy_companions(self.path, destination)

    @property
    def is_tied(self) -> bool:
        """Whether `lm_head` is the embeddings: as config.json says, or because none is stored."""
        text = self.config.get("text_config")
        for part in (self.config, text if isinstance(text, Mapping) else {}):
            if isinstance(part.get("tie_word_embeddings"), bool):
                return bool(part["tie_word_embeddings"])
        return HEAD_KEY not in self.tensors

    @property
    def has_idle_head(self) -> bool:
        """Whether it stores an `lm_head` although its config ties that to the embeddings: nobody reads it."""
        return self.is_tied and HEAD_KEY in self.tensors


def _read_config(directory: Path) -> dict[str, Any]:
    path = require_checkpoint(directory)
    try:
        return parse_object(path.read_bytes())
    except ValueError as error:
        raise CheckpointError(
            "config.json cannot be read.",
            where=str(path),
            expected="a JSON object",
            found=str(error),
            next_step="fetch the checkpoint again",
        ) from error


def _require_one_reading(directory: Path) -> None:
    """Refuse a directory that one reader takes for these weights and another for those."""
    if (directory / SINGLE_FILE).is_file() and (directory / INDEX_FILE).is_file():
        listed = _listed(directory / INDEX_FILE)
        if set(listed.values()) != {SINGLE_FILE}:
            raise CheckpointError(
                "The directory holds two sets of weights, and readers differ in which they take.",
                where=str(directory),
                expected=f"{SINGLE_FILE}, or {INDEX_FILE} and its shards",
                found="both",
                next_step="remove the one that is not meant",
            )
    if (directory / ADAPTER_CONFIG_FILE).is_file():
        raise CheckpointError(
            "The directory holds a checkpoint and an adapter, and readers differ in whether they apply it.",
            where=str(directory),
            expected="a checkpoint alone",
            found=ADAPTER_CONFIG_FILE,
            next_step="move the adapter into a directory of its own and merge it, or remove it",
        )


def _weight_files(directory: Path) -> tuple[tuple[Path, ...], dict[str, str]]:
    index = directory / INDEX_FILE
    if index.is_file():
        listed = _listed(index)
        files = tuple(directory / name for name in sorted(set(listed.values())))
        absent = [file.name for file in files if not file.is_file()]
        if absent:
            raise CheckpointError(
                "Shards listed in the index are missing.",
                where=str(index),
                expected=f"{len(files)} files",
                found=f"without {', '.join(absent)}",
                next_step="fetch the missing files",
            )
        return files, listed
    if (directory / SINGLE_FILE).is_file():
        return (directory / SINGLE_FILE,), {}
    raise CheckpointError(
        "The directory holds no safetensors weights.",
        where=str(directory),
        expected=f"{SINGLE_FILE}, or {INDEX_FILE} and its shards",
        found=names_in(directory),
        next_step="save the model with save_pretrained, which writes safetensors",
    )


def _listed(index: Path) -> dict[str, str]:
    """File by tensor key, as the index has it; files are names in the same directory."""
    try:
        listed = parse_object(index.read_bytes())["weight_map"]
    except (ValueError, KeyError) as error:
        raise damaged(index, "a JSON object with weight_map", repr(error)) from error
    if not isinstance(listed, dict) or not listed:
        raise damaged(index, "a weight_map of tensors to files", repr(listed)[:80])
    for key, name in listed.items():
        if not isinstance(name, str) or not name.endswith(".safetensors") or Path(name).name != name:
            raise damaged(index, "names of safetensors files beside the index", f"{key}: {name!r}")
    return listed


def _require_listed(directory: Path, listed: Mapping[str, str], tensors: Mapping[str, TensorInfo]) -> None:
    wrong = [key for key, name in listed.items() if key not in tensors or tensors[key].file.name != name]
    if wrong:
        key = wrong[0]
        raise CheckpointError(
            f"A shard lacks what the index lists in it: {counted(len(wrong), 'tensor')}.",
            where=f"{key} in {directory / INDEX_FILE}",
            expected=f"in {listed[key]}",
            found=f"in {tensors[key].file.name}" if key in tensors else "in no shard",
            next_step="fetch the index and the shards again, from one revision",
        )

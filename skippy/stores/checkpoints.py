"""A model checkpoint on disk: headers before tensors, one tensor at a time, a digest of its content.

Nothing here instantiates a model. Opening parses `config.json`, the index and the safetensors headers, and
checks that every tensor promised is really there; reading touches the bytes of one tensor only.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from skippy.errors import CheckpointError
from skippy.stores.presence import names_in, require_checkpoint
from skippy.stores.tensors import DTYPE_NAMES, TensorInfo, damaged, hash_tensor, read_header, read_tensor

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
# Everything besides weights that `from_pretrained` or a server may want beside them.
COMPANIONS = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
    "preprocessor_config.json",
    "video_preprocessor_config.json",
    "processor_config.json",
    "skippy_lab.json",  # what a model tuned to the lab's problems says of itself
)
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
            CheckpointError: the path is no complete safetensors checkpoint.
        """
        directory = Path(path)
        config = _read_config(directory)
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
        """Copy config, tokenizer, templates and processors; return the names copied."""
        names = tuple(name for name in COMPANIONS if (self.path / name).is_file())
        for name in names:
            shutil.copyfile(self.path / name, destination / name)
        return names


def digest_of_hashes(tensors: Mapping[str, TensorInfo], hashes: Mapping[str, str]) -> str:
    """Combine the sha256 of each tensor's bytes into the digest of the whole."""
    lines = (
        f"{key} {DTYPE_NAMES[tensors[key].dtype]} {'x'.join(map(str, tensors[key].shape))} {hashes[key]}\n"
        for key in sorted(tensors)
    )
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _read_config(directory: Path) -> dict[str, Any]:
    path = require_checkpoint(directory)
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(
            "config.json cannot be read.",
            where=str(path),
            expected="a JSON object",
            found=str(error),
            next_step="fetch the checkpoint again",
        ) from error
    if not isinstance(config, dict):
        raise CheckpointError(
            "config.json is not an object.",
            where=str(path),
            expected="a JSON object",
            found=type(config).__name__,
            next_step="fetch the checkpoint again",
        )
    return config


def _weight_files(directory: Path) -> tuple[tuple[Path, ...], dict[str, str]]:
    index = directory / INDEX_FILE
    if index.is_file():
        try:
            listed = dict(json.loads(index.read_text(encoding="utf-8"))["weight_map"])
        except (ValueError, KeyError, TypeError) as error:
            raise damaged(index, "a JSON object with weight_map", repr(error)) from error
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


def _require_listed(directory: Path, listed: Mapping[str, str], tensors: Mapping[str, TensorInfo]) -> None:
    wrong = [key for key, name in listed.items() if key not in tensors or tensors[key].file.name != name]
    if wrong:
        key = wrong[0]
        raise CheckpointError(
            f"{len(wrong)} tensors listed in the index are not in their shard.",
            where=f"{key} in {directory / INDEX_FILE}",
            expected=f"in {listed[key]}",
            found=f"in {tensors[key].file.name}" if key in tensors else "in no shard",
            next_step="fetch the index and the shards again, from one revision",
        )

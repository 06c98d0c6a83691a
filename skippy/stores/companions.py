"""The small files beside the weights that a reader of the checkpoint may want: they travel with it."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from skippy.stores.documents import parse_object

SUFFIXES = (".json", ".jinja", ".model", ".tiktoken", ".spm")
TEXTS = ("merges.txt", "vocab.txt")
NAMES = ("LICENSE", "LICENCE", "NOTICE", "COPYING", "USE_POLICY")
FOLDERS = ("additional_chat_templates",)
# What speaks of these weights alone, not of those made from them.
OF_THE_ORIGINAL = ("skippy.json", "trainer_state.json", "all_results.json", "train_results.json")
INDEX_ENDING = ".index.json"
LARGEST_BYTES = 200 << 20
WORDS = re.compile(
    r"(tokenizer|special_tokens|added_tokens|vocab|chat_template|generation_config|additional_chat).*"
    r"|merges\.txt|.*\.(jinja|model|tiktoken|spm)"
)
"""Companions that decide how text becomes tokens, and where an answer ends."""
STORAGE_KEYS = frozenset({"attention_bias", "dtype", "torch_dtype", "transformers_version", "_name_or_path"})
"""Of a config: what a merge may set, and what only says how the weights were stored."""


def find_companions(directory: Path) -> tuple[str, ...]:
    """Names, relative to the directory, of config, tokenizer, templates, processors and licence, sorted.

    Never weights, programs, pickles or hidden files.
    """
    found = [*_plain_files(directory), *(file for name in FOLDERS for file in _plain_files(directory / name))]
    return tuple(sorted(file.relative_to(directory).as_posix() for file in found if _travels(file)))


def copy_companions(directory: Path, destination: Path) -> tuple[str, ...]:
    """Copy them; return the names copied."""
    names = find_companions(directory)
    for name in names:
        (destination / name).parent.mkdir(exist_ok=True)
        shutil.copyfile(directory / name, destination / name)
    return names


def reading_digest(directory: Path) -> str:
    """Sixteen hexadecimal digits of how the weights beside are read: config, tokenizer, template, ends of an answer.

    Two checkpoints of the same tensors answer alike only if this is the same too; a merge hands it on as it is.
    """
    words = {
        name: hashlib.sha256((directory / name).read_bytes()).hexdigest()
        for name in find_companions(directory)
        if WORDS.fullmatch(name)
    }
    config = directory / "config.json"
    said = _without_storage(parse_object(config.read_bytes())) if config.is_file() else {}
    content = json.dumps([words, said], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def _without_storage(config: Any) -> Any:
    if not isinstance(config, Mapping):
        return config
    return {key: _without_storage(value) for key, value in config.items() if key not in STORAGE_KEYS}


def _plain_files(directory: Path) -> Iterator[Path]:
    if directory.is_dir():
        yield from (file for file in directory.iterdir() if file.is_file())


def _travels(file: Path) -> bool:
    name = file.name
    if name.startswith((".", "adapter_")) or name in OF_THE_ORIGINAL or name.endswith(INDEX_ENDING):
        return False
    is_wanted = name.endswith(SUFFIXES) or name in TEXTS or name.upper().startswith(NAMES)
    return is_wanted and file.stat().st_size <= LARGEST_BYTES

"""Writing what the lab ships: bfloat16 weights, whole directories at a time, and their digests."""

from __future__ import annotations

import copy
import hashlib
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from transformers import PreTrainedTokenizerBase, Qwen3VLForConditionalGeneration


def save_checkpoint(
    model: Qwen3VLForConditionalGeneration, tokenizer: PreTrainedTokenizerBase, destination: Path
) -> None:
    """A plain Hugging Face checkpoint in bfloat16; `model` itself stays as it is."""
    rounded = copy.deepcopy(model)
    rounded.to("cpu", torch.bfloat16)  # type: ignore[arg-type]

    def write(directory: Path) -> None:
        rounded.save_pretrained(directory)
        tokenizer.save_pretrained(directory)

    replace_directory(destination, write)


def replace_directory(destination: Path, write: Callable[[Path], None]) -> None:
    """Fill a fresh directory with `write` and put it in the place of `destination` by renaming."""
    fresh = destination.with_name(f".{destination.name}.new")
    old = destination.with_name(f".{destination.name}.old")
    for leftover in (fresh, old):
        shutil.rmtree(leftover, ignore_errors=True)
    fresh.mkdir(parents=True)
    write(fresh)
    for path in fresh.rglob("*"):
        path.chmod(
            0o755 if path.is_dir() else 0o644
        )  # safetensors files arrive readable by their owner alone
    if destination.exists():
        destination.rename(old)
    fresh.rename(destination)
    shutil.rmtree(old, ignore_errors=True)


def describe_files(directories: Iterable[Path], root: Path) -> dict[str, dict[str, object]]:
    """Size and sha256 of every file below `directories`, by path relative to `root`."""
    described: dict[str, dict[str, object]] = {}
    for directory in directories:
        for path in sorted(directory.rglob("*")):
            if path.is_file():
                content = path.read_bytes()
                described[path.relative_to(root).as_posix()] = {
                    "bytes": len(content),
                    "sha256": hashlib.sha256(content).hexdigest(),
                }
    return described

"""From a name to a checkpoint directory: a path, or an id of the Hugging Face hub. No model library is imported."""

from __future__ import annotations

import re
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import (
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
)

from skippy.errors import CheckpointError

HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
HUB_PATTERNS = (
    *("*.json", "*.safetensors", "*.txt", "*.jinja", "*.model", "*.tiktoken", "*.spm"),
    *("LICENSE*", "LICENCE*", "NOTICE*", "USE_POLICY*"),
)
# The same weights once more, in other formats or for other tools.
NOT_NEEDED = ("*/*.safetensors", "consolidated*.safetensors", "original/*")
ADAPTER_PATTERNS = ("adapter_config.json", "adapter_model.safetensors", "skippy.json")


def fetch_checkpoint(name_or_path: str | Path) -> Path:
    """Find a checkpoint directory: a path, or a Hugging Face id that is in the local cache or can be fetched.

    Raises:
        CheckpointError: it is no directory, and not to be had from the hub.
    """
    path = Path(name_or_path).expanduser()
    if path.exists():
        return path
    name = str(name_or_path)
    if not is_hub_id(name):
        raise CheckpointError(
            "The checkpoint does not exist.",
            where=name,
            expected="an existing directory, or a Hugging Face id such as Qwen/Qwen3-VL-8B-Instruct",
            found="nothing at this path",
            next_step="check the path given as the model, or use `lab` for the built-in one",
        )
    return _fetch(name, "checkpoint", HUB_PATTERNS)


def fetch_adapter(name_or_path: str | Path) -> Path:
    """Find an adapter directory: a path, whether it exists or not, or a Hugging Face id.

    Raises:
        CheckpointError: it is an id that is not to be had from the hub.
    """
    path = Path(name_or_path).expanduser()
    if path.exists() or not is_hub_id(str(name_or_path)):
        return path
    return _fetch(str(name_or_path), "adapter", ADAPTER_PATTERNS)


def is_hub_id(name: str) -> bool:
    """Whether it could be an id of the Hugging Face hub, and not a path."""
    return HUB_ID.fullmatch(name) is not None and not name.startswith(".")


def _fetch(name: str, noun: str, patterns: tuple[str, ...]) -> Path:
    try:
        return Path(snapshot_download(name, allow_patterns=list(patterns), ignore_patterns=list(NOT_NEEDED)))
    except (
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
        OSError,
    ) as error:
        reason = (str(error).strip().splitlines() or [""])[0]
        raise CheckpointError(
            f"The {noun} is neither a local directory nor to be had from the hub.",
            where=name,
            expected="a directory, an id in the local cache, or an id that the hub serves",
            found=f"{type(error).__name__}: {reason}",
            next_step="fetch it once where there is a network (hf download), or give a local directory",
        ) from error

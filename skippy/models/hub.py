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
HUB_PATTERNS = ("*.json", "*.safetensors", "*.txt", "*.jinja", "*.model")


def fetch_checkpoint(name_or_path: str | Path) -> Path:
    """Find a checkpoint directory: a path, or a Hugging Face id that is in the local cache or can be fetched.

    Raises:
        CheckpointError: it is no directory, and not to be had from the hub.
    """
    path = Path(name_or_path).expanduser()
    if path.exists():
        return path
    name = str(name_or_path)
    if not HUB_ID.fullmatch(name) or name.startswith("."):
        raise CheckpointError(
            "The checkpoint does not exist.",
            where=name,
            expected="an existing directory, or a Hugging Face id such as Qwen/Qwen3-VL-8B-Instruct",
            found="nothing at this path",
            next_step="check the path given as the model, or use `lab` for the built-in one",
        )
    try:
        return Path(snapshot_download(name, allow_patterns=list(HUB_PATTERNS)))
    except (
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
        OSError,
    ) as error:
        reason = (str(error).strip().splitlines() or [""])[0]
        raise CheckpointError(
            "The checkpoint is neither a local directory nor to be had from the hub.",
            where=name,
            expected="a directory, an id in the local cache, or an id that the hub serves",
            found=f"{type(error).__name__}: {reason}",
            next_step="fetch it once where there is a network (hf download), or give a local directory",
        ) from error

"""From a name to a checkpoint directory: a path, or an id of the Hugging Face hub. No model library is imported."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import huggingface_hub  # by attribute: it imports its parts when they are asked for

from skippy.errors import CheckpointError
from skippy.words import split_list

HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
HUB_TIMEOUT_SECONDS = 10.0
HUB_PATTERNS = (
    *("*.json", "*.safetensors", "*.txt", "*.jinja", "*.model", "*.tiktoken", "*.spm"),
    *("LICENSE*", "LICENCE*", "NOTICE*", "USE_POLICY*"),
)
# The same weights once more, in other formats or for other tools.
NOT_NEEDED = ("*/*.safetensors", "consolidated*.safetensors", "original/*")
ADAPTER_PATTERNS = ("adapter_config.json", "adapter_model.safetensors", "skippy.json")


def find_local(name_or_path: str | Path) -> Path | None:
    """The path that is meant; None where it can only be an id of the hub.

    Raises:
        CheckpointError: nothing is at this path, and an id is not spelled so.
    """
    path = Path(name_or_path).expanduser()
    if path.exists():
        return path
    name = str(name_or_path)
    if HUB_ID.fullmatch(name) and not name.startswith("."):
        return None
    raise CheckpointError(
        "The checkpoint does not exist.",
        where=name,
        expected="an existing directory, or a Hugging Face id such as Qwen/Qwen3-VL-8B-Instruct",
        found="nothing at this path",
        next_step="check the path given as the model, or use `lab` for the built-in one",
    )


def fetch_checkpoint(name_or_path: str | Path) -> Path:
    """Find a checkpoint directory: a path, or a Hugging Face id that is in the local cache or can be fetched.

    Raises:
        CheckpointError: it is no directory, and not to be had from the hub.
    """
    path = find_local(name_or_path)
    if path is not None:
        return path
    with _hub_errors(str(name_or_path)):
        return Path(
            huggingface_hub.snapshot_download(
                str(name_or_path), allow_patterns=list(HUB_PATTERNS), ignore_patterns=list(NOT_NEEDED)
            )
        )


def adapter_names(text: str) -> list[str]:
    """What a person names as adapters: one path, commas and all, or several names with commas between."""
    return [text] if Path(text).expanduser().exists() else list(split_list(text, "adapter"))


def find_local_adapter(name: str) -> Path | None:
    """The path that is meant, whether anything is there or not; None where it can only be an id of the hub."""
    path = Path(name).expanduser()
    is_id = HUB_ID.fullmatch(name) and not name.startswith(".") and not path.exists()
    return None if is_id else path


def fetch_adapter(name: str) -> Path:
    """Find an adapter directory: a path, or a Hugging Face id that is in the local cache or can be fetched.

    Raises:
        CheckpointError: it is an id that is not to be had from the hub.
    """
    path = find_local_adapter(name)
    if path is not None:
        return path
    with _hub_errors(name):
        return Path(huggingface_hub.snapshot_download(name, allow_patterns=list(ADAPTER_PATTERNS)))


def require_reachable(hub_id: str, file: str = "config.json") -> None:
    """Ask the hub for what is not in the cache: a wrong id or a dead network shows at once.

    Raises:
        CheckpointError: it is not to be had from the hub.
    """
    if isinstance(huggingface_hub.try_to_load_from_cache(hub_id, file), str):
        return
    with _hub_errors(hub_id):
        huggingface_hub.model_info(hub_id, timeout=HUB_TIMEOUT_SECONDS)


@contextmanager
def _hub_errors(name: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        # The library and its transport raise many unrelated types; all mean the same to a person.
        reason = (str(error).strip().splitlines() or [""])[0]
        raise CheckpointError(
            "The checkpoint is neither a local directory nor to be had from the hub.",
            where=name,
            expected="a directory, an id in the local cache, or an id that the hub serves",
            found=f"{type(error).__name__}: {reason}",
            next_step="fetch it once where there is a network (hf download), or give a local directory",
        ) from error

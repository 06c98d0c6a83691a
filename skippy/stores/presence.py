"""Whether a directory is what a person says it is, by the names of its files alone; no torch is imported."""

from __future__ import annotations

from pathlib import Path

from skippy.errors import AdapterError, CheckpointError

CONFIG_FILE = "config.json"
ADAPTER_CONFIG_FILE = "adapter_config.json"
ADAPTER_WEIGHTS_FILE = "adapter_model.safetensors"


def require_checkpoint(directory: Path) -> Path:
    """The `config.json` of a checkpoint directory.

    Raises:
        CheckpointError: there is none.
    """
    expected = "a directory with config.json and safetensors files"
    if not directory.exists():
        raise CheckpointError(
            "The checkpoint does not exist.",
            where=str(directory),
            expected=expected,
            found="nothing at this path",
            next_step="check the path given as the model, or use `lab` for the built-in one",
        )
    if not directory.is_dir():
        raise CheckpointError(
            "The checkpoint is not a directory.",
            where=str(directory),
            expected=expected,
            found="a file",
            next_step="give the directory that holds the file",
        )
    path = directory / CONFIG_FILE
    if not path.is_file():
        is_adapter = (directory / ADAPTER_CONFIG_FILE).is_file()
        raise CheckpointError(
            "The directory is no checkpoint: config.json is missing.",
            where=str(directory),
            expected=expected,
            found="a PEFT adapter" if is_adapter else names_in(directory),
            next_step="merge the adapter into its base first" if is_adapter else "check the path",
        )
    return path


def require_adapter(directory: Path) -> Path:
    """The `adapter_config.json` of an adapter directory.

    Raises:
        AdapterError: there is none.
    """
    path = directory / ADAPTER_CONFIG_FILE
    if not path.is_file():
        raise AdapterError(
            "There is no adapter here.",
            where=str(directory),
            expected=f"a directory with {ADAPTER_CONFIG_FILE} and {ADAPTER_WEIGHTS_FILE}",
            found="no such directory" if not directory.is_dir() else f"no {ADAPTER_CONFIG_FILE}",
            next_step="give the directory that PEFT saved, or a finished train run",
        )
    return path


def names_in(directory: Path) -> str:
    """The first files of a directory, for a message."""
    names = sorted(path.name for path in directory.iterdir())
    return (", ".join(names[:6]) + (", …" if len(names) > 6 else "")) or "an empty directory"

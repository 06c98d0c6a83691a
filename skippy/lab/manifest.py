"""The lab's manifest: what was made, from what, how well it does, and the digest of every file."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import torch
import transformers

from skippy.lab.shipping import describe_files

SHIPPED = ("checkpoint", "adapter")
IDENTITY_FILE = "skippy_lab.json"  # beside the weights of a model that was tuned to the lab's problems
LARGEST_BYTES = 6_000_000  # all shipped files together


def read_manifest(directory: Path) -> dict[str, Any]:
    """The manifest in `directory`, empty where there is none yet."""
    path = directory / "manifest.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def write_manifest(directory: Path, **sections: Any) -> None:
    """Replace `sections`, keep the others, and describe the shipped files as they are now."""
    manifest = {"format": 1, **read_manifest(directory), **sections}
    manifest["files"] = describe_files((directory / name for name in SHIPPED), directory)
    fresh = directory / ".manifest.json.new"
    fresh.write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
    fresh.rename(directory / "manifest.json")


def write_identity(directory: Path, card: dict[str, Any]) -> None:
    """Say beside the weights what a checkpoint is: its lineage, source, licence and scores."""
    text = json.dumps({"format": 1, **card}, indent=2) + "\n"
    (directory / IDENTITY_FILE).write_text(text, encoding="utf-8")


def describe_hardware(device: torch.device) -> str:
    """What it ran on, in words that do not name the machine."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{os.cpu_count()} CPU cores, {torch.backends.cpu.get_cpu_capability()}"


def describe_software() -> dict[str, str]:
    """Versions that the result may depend on."""
    return {"torch": torch.__version__, "transformers": transformers.__version__}

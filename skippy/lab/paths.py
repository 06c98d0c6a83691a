"""Where the shipped lab files lie."""

from __future__ import annotations

from pathlib import Path

LAB = "lab"
"""What a person calls the lab."""
LAB_DIRECTORY = Path(__file__).resolve().parent
LAB_CHECKPOINT = LAB_DIRECTORY / "checkpoint"
LAB_ADAPTER = LAB_DIRECTORY / "adapter"
LAB_MANIFEST = LAB_DIRECTORY / "manifest.json"

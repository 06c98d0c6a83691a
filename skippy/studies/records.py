"""Cells as JSON: what a cell's run keeps, and what a study reads back."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from skippy.core.inference.cells import Cell, TrainingDose
from skippy.errors import TrackingError

CELLS_FILE = "cells.json"
SAMPLES_FILE = "samples/playback.jsonl"
ADAPTER_FOLDER = "adapter"


def cells_json(cells: Sequence[Cell]) -> list[dict[str, Any]]:
    """Cells as plain data."""
    return [asdict(cell) for cell in cells]


def read_cells(path: Path) -> list[Cell]:
    """Cells from the file that a cell's run keeps.

    Raises:
        TrackingError: it is damaged.
    """
    try:
        return [
            Cell(**{**entry, "training": TrainingDose(**entry["training"])})
            for entry in json.loads(path.read_text(encoding="utf-8"))
        ]
    except (ValueError, TypeError, KeyError) as error:
        raise TrackingError(
            "The record of a cell is damaged.",
            where=str(path),
            expected="a list of cells as JSON",
            found=str(error),
            next_step="delete this run; the study does the cell again",
        ) from error


def cell_rows(cells: Sequence[Cell]) -> list[dict[str, Any]]:
    """One row a cell, for Parquet: scores, figures, and the counts as JSON."""
    return [
        {
            "arm": cell.arm,
            "learning_rate": float(cell.training.learning_rate),
            "beta": float(cell.training.beta),
            "steps": cell.training.steps,
            "alpha": float(cell.alpha),
            "seed": cell.seed,
            "samples": cell.samples,
            "score": None if cell.is_failed else cell.score,
            "persona": None if cell.is_failed else cell.persona,
            "error": cell.error,
            "correct": json.dumps(cell.correct),
            "personas": json.dumps(cell.personas),
            **{name: float(value) for name, value in cell.predictors.items()},
        }
        for cell in cells
    ]

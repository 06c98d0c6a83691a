"""Cells as JSON: what a cell's run keeps, and what a study reads back."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow.parquet as parquet

from skippy.core.inference.cells import Cell, TrainingDose
from skippy.errors import TrackingError

CELLS_FILE = "cells.json"
SAMPLES_FILE = "samples/playback.jsonl"
ADAPTER_FOLDER = "adapter"
COLUMNS = frozenset(
    (
        *("arm", "learning_rate", "beta", "steps", "alpha", "seed"),
        *("samples", "score", "persona", "error", "correct", "personas"),
    )
)
"""Of the table; every other column is a predictor."""


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


def read_table(path: Path) -> list[Cell]:
    """Cells from a study's Parquet table.

    Raises:
        TrackingError: it is not there, or no table of cells.
    """
    try:
        rows = parquet.read_table(path).to_pylist()
        return [_from_row(row) for row in rows]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise TrackingError(
            "The table of a study's cells cannot be read.",
            where=str(path),
            expected="study/cells.parquet of a study",
            found=f"{type(error).__name__}: {error}",
            next_step="name the folder that holds study.json, plan.yaml and cells.parquet",
        ) from error


def _from_row(row: dict[str, Any]) -> Cell:
    dose = TrainingDose(row["learning_rate"], row["beta"], row["steps"])
    predictors = {
        name: value
        for name, value in sorted(row.items())
        if name not in COLUMNS and value is not None and math.isfinite(value)
    }
    correct, personas = json.loads(row["correct"]), json.loads(row["personas"])
    plain = {name: row[name] for name in ("arm", "alpha", "seed", "samples", "error")}
    return Cell(training=dose, correct=correct, personas=personas, predictors=predictors, **plain)


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

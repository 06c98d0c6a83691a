"""What a training has logged so far, kept beside its checkpoints, so that a resumed run has all of it too."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from skippy.stores.atomic import write_bytes
from skippy.training.plan import RunSink

logger = logging.getLogger(__name__)

JOURNAL_FILE = "logged.jsonl"
TABLES = "tables"
STEP = re.compile(r"step_(\d+)")


class Journal:
    """A run's sink that writes down every step's numbers, tables and folders before it hands them on.

    What belongs to no step (the adapter at the end, the samples) is logged anew by every run and not kept here.
    """

    def __init__(self, run: RunSink, folder: Path) -> None:
        self._run = run
        self._folder = folder
        self._path = folder / JOURNAL_FILE

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Keep and hand on one value for each name."""
        self._write({"step": step or 0, "metrics": dict(metrics)})
        self._run.log_metrics(metrics, step)

    def log_table(self, rows: Sequence[Mapping[str, Any]], artifact_path: str) -> None:
        """Keep and hand on rows."""
        kept = self._folder / TABLES / artifact_path
        kept.parent.mkdir(parents=True, exist_ok=True)
        pd.DataFrame(list(rows)).to_parquet(kept, index=False)
        self._write({"step": _step_of(artifact_path), "table": artifact_path})
        self._run.log_table(rows, artifact_path)

    def log_folder(self, folder: Path, artifact_dir: str = "") -> None:
        """Hand on what a folder holds; remember it where it is a step's own and lies in the output directory."""
        step = _step_of(artifact_dir)
        if step is not None and folder.is_relative_to(self._folder):
            place = str(folder.relative_to(self._folder))
            self._write({"step": step, "folder": place, "into": artifact_dir})
        self._run.log_folder(folder, artifact_dir)

    def replay(self, last_step: int) -> None:
        """Log everything up to a checkpoint's step again, into this run, and forget what came after it."""
        kept = [entry for entry in self._read() if entry["step"] is not None and entry["step"] <= last_step]
        write_bytes(self._path, "".join(json.dumps(entry) + "\n" for entry in kept).encode())
        for entry in kept:
            if "metrics" in entry:
                self._run.log_metrics(entry["metrics"], entry["step"])
            elif "table" in entry:
                table = pd.read_parquet(self._folder / TABLES / entry["table"])
                self._run.log_table(table.to_dict("records"), entry["table"])  # type: ignore[arg-type]
            else:
                self._run.log_folder(self._folder / entry["folder"], entry["into"])
        logger.info("train: %d entries up to step %d are logged again", len(kept), last_step)

    def standing(self) -> dict[str, tuple[float, int, bool]]:
        """Metric → its last value kept, the step of it, and whether it ever had another."""
        found: dict[str, tuple[float, int, bool]] = {}
        for entry in self._read():
            for name, value in entry.get("metrics", {}).items():
                before = found.get(name)
                has_moved = before is not None and (before[2] or before[0] != value)
                found[name] = (value, entry["step"], has_moved)
        return found

    def _read(self) -> list[dict[str, Any]]:
        """Entries in order; a line that a kill tore is dropped, and so are repetitions of a step's own."""
        if not self._path.is_file():
            return _unwritten(self._folder)
        entries: dict[str, dict[str, Any]] = {}
        for line in self._path.read_text(encoding="utf-8").splitlines():
            try:
                entry = json.loads(line)
            except ValueError:
                continue
            entries[json.dumps({**entry, "metrics": sorted(entry.get("metrics", ()))})] = entry
        return list(entries.values())

    def _write(self, entry: dict[str, Any]) -> None:
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")


def _unwritten(folder: Path) -> list[dict[str, Any]]:
    """A training begun by an earlier version kept no journal; its adapters are there all the same."""
    adapters = sorted((folder / "adapters").glob("step_*"))
    if adapters:
        logger.warning(
            "train: an earlier version began this training; its curves up to the checkpoint are lost"
        )
    return [
        {"step": _step_of(path.name), "folder": f"adapters/{path.name}", "into": f"adapters/{path.name}"}
        for path in adapters
    ]


def _step_of(path: str) -> int | None:
    found = STEP.search(path)
    return int(found[1]) if found else None

"""From cells to everything that a study leaves: JSON, page, figures; and the same again from a study's own files.

    python -m skippy.studies.conclusion FOLDER [FOLDER …] OUT

remakes every figure from `plan.yaml`, `study.json` (for what was run) and `cells.parquet` in FOLDER, with no base,
no tracker and nothing asked. Several are taken together: the first one's plan, the cells of all.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from skippy.core.inference.cells import BASE, NO_SEED, Cell
from skippy.core.inference.study import Analysis, analyse
from skippy.errors import ReportError
from skippy.report.study_page import StudyFacts, render_study, study_json
from skippy.stores.atomic import write_bytes
from skippy.studies.plan import StudyPlan, read_plan
from skippy.studies.records import read_table

ANALYSIS_SEED = 0
JSON_FILE, TABLE_FILE, PLAN_FILE = "study.json", "cells.parquet", "plan.yaml"


def conclude(plan: StudyPlan, base: Cell, cells: Sequence[Cell]) -> Analysis:
    """The analysis of a study; the same cells give the same bits."""
    return analyse(cells, base, margin=plan.margin, seed=ANALYSIS_SEED, predictions=plan.predictions)


def files_of(analysis: Analysis, facts: StudyFacts, cells: Sequence[Cell]) -> dict[str, str]:
    """`study.json`, `index.html` and `figures/*.svg`, by name."""
    text = json.dumps(study_json(analysis, facts, cells), indent=2, allow_nan=False, ensure_ascii=False)
    return {JSON_FILE: text + "\n", **render_study(analysis, facts, cells)}


def remake(folder: Path, *more: Path) -> dict[str, str]:
    """The files of a finished study, from what it kept; `more` are studies that repeat it with other seeds.

    Raises:
        PlanError, TrackingError: a folder does not hold them.
        ReportError: the studies are of different bases or questions, or share a cell.
    """
    tables = [read_table(one / TABLE_FILE) for one in (folder, *more)]
    base, *others = (cell for table in tables for cell in table if cell.arm == BASE)
    cells = [cell for table in tables for cell in table if cell.arm != BASE]
    for one, other in zip(more, others, strict=True):
        if (other.correct, other.personas) != (base.correct, base.personas):
            raise ReportError(
                "Studies whose bases answer differently are not one study.",
                where=f"{folder} and {one}",
                expected="the same base, questions, sampling and kind of machine",
                found=f"scores {base.score:.4f} and {other.score:.4f}",
                next_step="report each by itself",
            )
    run = json.loads((folder / JSON_FILE).read_text(encoding="utf-8"))["study"]
    shown: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in run.items()}
    plan = read_plan(folder / PLAN_FILE)
    seeds = tuple(sorted({cell.seed for cell in cells} - {NO_SEED}))
    facts = StudyFacts(**{**shown, "k": plan.k, "seeds": seeds})
    analysis = conclude(plan, base, cells)
    return files_of(analysis, facts, cells)


def main(arguments: list[str]) -> None:
    """Write the files anew."""
    folder, *more, out = (Path(argument) for argument in arguments)
    for name, content in remake(folder, *more).items():
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        write_bytes(out / name, content.encode())


if __name__ == "__main__":
    main(sys.argv[1:])

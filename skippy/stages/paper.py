"""paper: one study or several as LaTeX, every number from their JSON; as PDF where a TeX is installed."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from skippy.config import PaperConfig, config_dict
from skippy.errors import ReportError
from skippy.resolve.runs import find_run, find_runs
from skippy.studies.manuscript import is_tex_here, read_study, typeset, write_paper
from skippy.tracking.records import RunRecord
from skippy.tracking.tracker import Tracker

logger = logging.getLogger(__name__)

PAPER_FOLDER, STUDY_FOLDER = "paper", "study"
LEFT_BY_TEX = ("main.aux", "main.blg", "main.log", "main.out")
"""Of no use beside a PDF; `main.bbl` stays, since some archives ask for it."""


@dataclass(frozen=True)
class PaperResult:
    """What the stage leaves behind: its run, and whether a PDF is in it."""

    run_id: str
    is_typeset: bool


@dataclass(frozen=True)
class PaperPlan:
    """The studies to tell of, found or refused before a run is opened."""

    records: tuple[RunRecord, ...]  # their runs
    contents: tuple[Mapping[str, Any], ...]  # their JSON, in the same order

    def same(self, values: list[str]) -> str:
        """What all studies have in common; empty where they differ."""
        return values[0] if len(set(values)) == 1 else ""


def run(config: PaperConfig, tracker: Tracker) -> PaperResult:
    """Write the paper, typeset it where that can be done, and keep the folder."""
    plan = resolve(config, tracker)
    names = ", ".join(str(content["study"]["name"]) for content in plan.contents)
    with tracker.stage(
        "paper",
        name=f"paper {names}",
        note=f"The paper of {names}: a folder that compiles.",
        base_digest=plan.same([record.base_digest for record in plan.records]),
        character=plan.same([str(content["study"]["character"]) for content in plan.contents]),
        links={"study": ",".join(record.run_id for record in plan.records)},
        config=config_dict(config),
    ) as stage:
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch)
            write_paper(plan.contents, folder)
            is_typeset = _typeset(folder)
            stage.log_folder(folder, PAPER_FOLDER)
        stage.settle()
        made = f"{PAPER_FOLDER}/main.pdf" if is_typeset else PAPER_FOLDER
        logger.info("paper: %s", tracker.artifacts.path(stage.run_id, made))
    return PaperResult(stage.run_id, is_typeset)


def resolve(config: PaperConfig, tracker: Tracker) -> PaperPlan:
    """The studies that the parameter names, or the newest finished one.

    Raises:
        ConfigError: a study is named twice, or an id is empty.
        MissingRunError: there is no such run, or it is of another stage, or did not finish.
        ReportError: its JSON is not that of a study.
    """
    records = find_runs(tracker, "study", config.study, "study") or (find_run(tracker, "study"),)
    contents = tuple(read_study(tracker.artifacts.path(record.run_id, STUDY_FOLDER)) for record in records)
    return PaperPlan(records, contents)


def _typeset(folder: Path) -> bool:
    """Make the PDF if a TeX is here that can; the folder is whole without it."""
    if not is_tex_here():
        logger.info("paper: no TeX is installed here: run make in the folder where there is one")
        return False
    try:
        typeset(folder)
    except ReportError as error:
        logger.warning("paper: %s", error)
        return False
    for name in LEFT_BY_TEX:
        (folder / name).unlink(missing_ok=True)
    return True

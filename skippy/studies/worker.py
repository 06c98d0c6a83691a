"""A worker: claims cell after cell until none is free. One process, one core or one share of a GPU.

python -m skippy.studies.worker PLAN PARENT_RUN RANK DEVICE RETRY_BEFORE
"""

from __future__ import annotations

import logging
import os
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from skippy.core.inference.cells import BASE, NO_SEED, NO_TRAINING, Cell
from skippy.core.torch_threads import one_torch_thread
from skippy.core.variants import is_untrained
from skippy.errors import SkippyError, StudyError
from skippy.models.loading import load_model, load_tokenizer
from skippy.progress import LINES_VARIABLE
from skippy.resolve.workspaces import claim_workspace, workspace
from skippy.stores.changes import read_change
from skippy.stores.samples import Sample, read_samples
from skippy.studies.board import CELL_STAGE, Board, heartbeat
from skippy.studies.inputs import StudyInputs, Unit, gather, units
from skippy.studies.plan import read_plan
from skippy.studies.playback import ask, cell_of, figures_of, play_back, play_prompt
from skippy.studies.records import ADAPTER_FOLDER, CELLS_FILE, SAMPLES_FILE, cells_json, read_cells
from skippy.studies.training import train_cell
from skippy.tracking.patience import PatientClient
from skippy.tracking.signals import watch_parents
from skippy.tracking.stage_run import StageRun
from skippy.tracking.store import open_tracker
from skippy.tracking.tags import Tag
from skippy.tracking.tracker import Tracker

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Bench:
    """Where one worker works."""

    tracker: Tracker  # the shared store
    parent: str  # run id of the study
    device: str  # cpu, cuda or auto
    rank: int = 0  # of the worker; the first cell that it tries
    retry_before: int = 0  # failed attempts older than this are tried again, milliseconds since the epoch


def work(inputs: StudyInputs, bench: Bench) -> int:
    """Claim and do cells until none is free; returns how many were done or failed here."""
    todo = {unit.key: unit for unit in units(inputs)}
    board = Board(bench.tracker, inputs.group, bench.retry_before)
    base_samples = base_answers(inputs, bench)
    done = 0
    while True:
        states = board.states(list(todo))
        free = [key for key, state in states.items() if state.word == "free"]
        if not free:
            return done
        start = bench.rank % len(free)
        for key in (*free[start:], *free[:start]):
            attempt = board.claim(key, states[key])
            if attempt:
                do_cell(inputs, todo[key], bench, attempt, base_samples)
                done += 1
                break


def base_answers(inputs: StudyInputs, bench: Bench) -> list[Sample]:
    """The samples of the base, which the study's own run has made by now.

    Raises:
        StudyError: it has made none with this code, which was changed since.
    """
    state = Board(bench.tracker, inputs.group).states([inputs.base_key])[inputs.base_key]
    if state.run is None:
        raise StudyError(
            "The code was changed while the study was at work.",
            where=f"study run {bench.parent}",
            expected=f"answers of the base by this code, {inputs.code}; the stage has them before workers start",
            found="none; cells of two versions are not mixed",
            next_step="start the study again: what this version has done before is found",
        )
    return list(read_samples(bench.tracker.artifacts.path(state.run.run_id, SAMPLES_FILE)))


def do_base(inputs: StudyInputs, bench: Bench, attempt: int) -> Cell:
    """Ask the base every question; its run is a cell like any other."""
    with _cell_run(inputs, bench, "base", inputs.base_key, attempt, BASE) as stage:
        model, tokenizer = _load(inputs, bench.device)
        samples = ask(inputs, model, tokenizer, f"{inputs.base.digest}@0")
        cell = cell_of(samples, BASE, NO_TRAINING, 0.0, NO_SEED, figures_of(inputs, samples))
        _keep(stage, [cell], samples)
    return cell


def do_cell(inputs: StudyInputs, unit: Unit, bench: Bench, attempt: int, base_samples: list[Sample]) -> None:
    """Make (or take the update of an earlier study), play back, keep. A failure is the cell's, not the study's."""
    try:
        with _cell_run(inputs, bench, unit.label, unit.key, attempt, unit.arm) as stage:
            stage.set_tags({Tag.TRAINING_KEY: unit.training_key})
            if unit.seed != NO_SEED:
                stage.set_tags({Tag.SEED: str(unit.seed)})
            stage.log_json(unit.settings, "settings.json")
            began, worked = time.monotonic(), time.process_time()
            for earlier in range(1, attempt):
                shutil.rmtree(workspace(bench.tracker, "cell", unit.key, str(earlier)))
            with claim_workspace(bench.tracker, "cell", unit.key, str(attempt)) as folder:
                adapter, figures = _adapter(inputs, unit, bench, folder, stage)
                trained = time.monotonic()
                cells, samples = _play(inputs, unit, bench.device, adapter, figures, base_samples)
                shutil.rmtree(folder)
            _keep(stage, cells, samples)
            stage.log_metrics(
                {
                    "cell/train_seconds": trained - began,
                    "cell/play_seconds": time.monotonic() - trained,
                    "cell/processor_seconds": time.process_time() - worked,
                }
            )
    except SkippyError as error:
        logger.warning("study: %s failed and is left out. %s", unit.label, error.what)
    except Exception as error:  # a cell that fails in any way must not take the other cells with it
        logger.warning("study: %s failed and is left out. %s: %s", unit.label, type(error).__name__, error)


def _adapter(
    inputs: StudyInputs, unit: Unit, bench: Bench, folder: Path, stage: StageRun
) -> tuple[Path | None, dict[str, float]]:
    """The update of this unit: of an earlier run that made the same one, else made now; None for an arm without."""
    if is_untrained(unit.arm):
        return None, {}
    for record in bench.tracker.runs.find_all(CELL_STAGE, extra_tags={Tag.TRAINING_KEY: unit.training_key}):
        earlier = read_cells(bench.tracker.artifacts.path(record.run_id, CELLS_FILE))[-1].predictors
        stage.set_tags({Tag.REUSES_ADAPTER: record.run_id})
        path = bench.tracker.artifacts.path(record.run_id, ADAPTER_FOLDER)
        stage.log_folder(path, ADAPTER_FOLDER)
        kept = ("early_", "late_", "rho_", "margin", "reward_")
        return path, {name: value for name, value in earlier.items() if name.startswith(kept)}
    shutil.rmtree(folder)
    folder.mkdir()
    figures = train_cell(inputs, unit, folder, bench.device, stage)
    stage.log_folder(folder / ADAPTER_FOLDER, ADAPTER_FOLDER)
    return folder / ADAPTER_FOLDER, figures


def _play(
    inputs: StudyInputs,
    unit: Unit,
    device: str,
    adapter: Path | None,
    figures: dict[str, float],
    base_samples: list[Sample],
) -> tuple[list[Cell], list[Sample]]:
    model, tokenizer = _load(inputs, device)
    if adapter is None:
        played = play_prompt(inputs, model, tokenizer)
    else:
        alphas = inputs.plan.alphas_of(unit.arm)
        played = play_back(inputs, model, tokenizer, read_change(adapter), alphas, base_samples)
    cells, kept = [], []
    for alpha, samples, measured in played:
        cells.append(cell_of(samples, unit.arm, unit.training, alpha, unit.seed, {**figures, **measured}))
        kept += samples
    return cells, kept


def _keep(stage: StageRun, cells: list[Cell], samples: list[Sample]) -> None:
    stage.log_json(cells_json(cells), CELLS_FILE)
    stage.log_text("".join(sample.to_line() for sample in samples), SAMPLES_FILE)
    for index, cell in enumerate(cells):
        stage.log_metrics(
            {"cell/alpha": cell.alpha, "cell/score": cell.score, "cell/persona": cell.persona}, index
        )


@contextmanager
def _cell_run(
    inputs: StudyInputs, bench: Bench, label: str, key: str, attempt: int, arm: str
) -> Iterator[StageRun]:
    """The child run of one attempt, tagged so that the board finds it, with a heartbeat."""
    cell: dict[str, str] = {Tag.UNIT: key, Tag.ATTEMPT: str(attempt), Tag.STUDY_GROUP: inputs.group}
    links = {"svd": inputs.svd_run, **cell, Tag.HEARTBEAT: str(int(time.time()))}
    with (
        bench.tracker.stage(
            CELL_STAGE,
            name=label,
            note=f"A cell of the study {inputs.plan.name}: {label}.",
            config={"label": label, "unit": key},
            variant=arm,
            base_digest=inputs.base.digest,
            character=inputs.character.name,
            links=links,
            parent=bench.parent,
        ) as stage,
        heartbeat(bench.tracker, stage.run_id),
    ):
        yield stage


def _load(inputs: StudyInputs, device: str) -> tuple:
    where = "cuda" if device != "cpu" and torch.cuda.is_available() else "cpu"
    return load_model(inputs.base.path, device=where), load_tokenizer(inputs.base.path)


def patient(tracker: Tracker) -> Tracker:
    """The same store, with a client that waits where it is busy."""
    return Tracker(replace(tracker.store, client=PatientClient(tracking_uri=tracker.store.uri)))


def main(arguments: list[str]) -> None:
    """Work as one of several processes; ends when the study that started it is gone."""
    plan_file, parent, rank, device, retry_before = arguments
    os.environ[LINES_VARIABLE] = "1"
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    watch_parents()
    tracker = patient(open_tracker())
    inputs = gather(read_plan(plan_file), tracker)
    with one_torch_thread():  # so that a cell has the same bits alone and beside others
        work(inputs, Bench(tracker, parent, device, int(rank), int(retry_before)))


if __name__ == "__main__":
    main(sys.argv[1:])

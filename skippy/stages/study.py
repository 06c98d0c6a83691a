"""study: several arms at several doses and seeds, each adapter played back over α; analysed, drawn, never redone."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from skippy.config import StudyConfig, config_dict
from skippy.core.inference.cells import Cell
from skippy.core.inference.study import Analysis
from skippy.core.torch_threads import one_torch_thread
from skippy.errors import StudyError
from skippy.evaluation.suites import suite_label
from skippy.progress import Progress
from skippy.report.study_page import StudyFacts
from skippy.studies.board import Board, State
from skippy.studies.conclusion import PLAN_FILE, TABLE_FILE, conclude, files_of
from skippy.studies.crew import Crew, worker_count
from skippy.studies.inputs import StudyInputs, Unit, gather, units
from skippy.studies.plan import StudyPlan, read_plan
from skippy.studies.records import CELLS_FILE, cell_rows, read_cells
from skippy.studies.worker import Bench, do_base, patient, work
from skippy.tracking.stage_run import StageRun
from skippy.tracking.tracker import Tracker
from skippy.words import counted

logger = logging.getLogger(__name__)

POLL_SECONDS = 2.0
STUDY_FOLDER = "study"


@dataclass(frozen=True)
class StudyResult:
    """What the stage leaves behind: its run, and what the analysis says."""

    run_id: str
    analysis: Analysis


def run(config: StudyConfig, tracker: Tracker) -> StudyResult:
    """Run what of the plan is not there yet, wait for what others run, analyse all of it."""
    plan = read_plan(config.plan)
    tracker = patient(tracker)
    with tracker.stage(
        "study",
        name=f"study {plan.name}",
        note=plan.note or f"The study {plan.name}: {', '.join(plan.arms)} on {plan.base_model}.",
        character=plan.character,
        config=config_dict(config),
    ) as stage:
        began = int(time.time() * 1000)
        stage.log_text(Path(config.plan).read_text(encoding="utf-8"), f"{STUDY_FOLDER}/{PLAN_FILE}")
        inputs = _gather(plan, tracker, stage)
        stage.describe(base_digest=inputs.base.digest, links={"svd": inputs.svd_run})
        device = "cpu" if config.device == "auto" and inputs.base.profile.is_for_cpu else config.device
        bench = Bench(tracker, stage.run_id, device, retry_before=began if config.retry_failed else 0)
        base = _ask_base(inputs, bench)
        _require_measurable(plan, base)
        _do_cells(inputs, bench, config, base)
        cells, states = _collect(inputs, bench)
        analysis = _log_conclusion(inputs, cells, base, stage)
        _account(analysis, states, stage)
    return StudyResult(stage.run_id, analysis)


def _gather(plan: StudyPlan, tracker: Tracker, stage: StageRun) -> StudyInputs:
    """What the plan names; certified subspaces are computed first where the base has none."""

    def solve(needs: Mapping[str, str]) -> None:
        shown = ", ".join(f"{name} = {value}" for name, value in needs.items())
        logger.info("study: the base has no svd run of %s yet: computing it", shown)
        given = {"base_model": plan.base_model, **needs}
        tracker.processes.start("svd", given, parent_run_id=stage.run_id).wait()

    return gather(plan, tracker, solve)


def _ask_base(inputs: StudyInputs, bench: Bench) -> Cell:
    """The base's own answers: found, made here, or waited for where another machine makes them."""
    board, key = Board(bench.tracker, inputs.group, bench.retry_before), inputs.base_key
    while True:
        state = board.states([key])[key]
        if state.word == "finished" and state.run is not None:
            return read_cells(bench.tracker.artifacts.path(state.run.run_id, CELLS_FILE))[0]
        if state.word == "failed":
            raise StudyError(
                "The base could not be asked.",
                where=f"run {state.run.run_id if state.run else ''}",
                found=state.error,
                next_step="repair the cause, then pass -P retry_failed=true",
            )
        if state.word == "free":
            attempt = board.claim(key, state)
            if attempt:
                with one_torch_thread():
                    do_base(inputs, bench, attempt)
                continue
        time.sleep(POLL_SECONDS)


def _require_measurable(plan: StudyPlan, base: Cell) -> None:
    """Refuse, before the first cell, a base on which no loss of δ can be seen."""
    if not any(base.correct.values()):
        raise plan.refuse(
            "problems",
            "The base solves none of these problems, so that nothing can be lost",
            expected=f"a problem that the base solves at least once in {plan.samples}",
            found=f"{counted(len(base.correct), 'problem')}, none solved",
            next_step="choose easier problems, or tune the base to them first",
        )
    if base.score <= plan.margin:
        raise plan.refuse(
            "margin" if "margin" in plan.lines else "problems",
            "The base scores no more than the margin, so that a loss of it cannot be seen",
            expected=f"a base score above {100 * plan.margin:g} points",
            found=f"{100 * base.score:.1f} points",
            next_step="choose easier problems",
        )


def _do_cells(inputs: StudyInputs, bench: Bench, config: StudyConfig, base: Cell) -> None:
    """Work until every cell is finished or failed, whoever does them; show how it goes."""
    todo = units(inputs)
    board = Board(bench.tracker, inputs.group, bench.retry_before)
    count = config.parallel or worker_count(bench.device)
    crew = Crew(config.plan, bench, min(count, len(todo)))
    states = board.states([unit.key for unit in todo])
    done = _done(states)
    logger.info(
        "study: %d of %d trainings are there, base %.1f points; %d at a time",
        *(done, len(todo), 100 * base.score, crew.size),
    )
    with Progress(f"study {inputs.plan.name}", len(todo), done=done) as bar, crew:
        while _done(states) < len(todo):
            is_free = any(state.word == "free" for state in states.values())
            if crew.size == 1 and is_free:
                # Alone there is no need of a process: importing takes longer than a small cell.
                with one_torch_thread():
                    work(inputs, bench)
            elif is_free:
                crew.keep_busy()
            time.sleep(POLL_SECONDS if crew.size > 1 or not is_free else 0)
            states = board.states([unit.key for unit in todo])
            bar.advance(_done(states) - bar.done, **_so_far(todo, states))


def _done(states: Mapping[str, State]) -> int:
    return sum(state.word in ("finished", "failed") for state in states.values())


def _so_far(todo: Sequence[Unit], states: Mapping[str, State]) -> dict[str, str]:
    """The frontier so far, by arm at the largest α: persona and score, means over what is there."""
    shown = {}
    for arm in dict.fromkeys(unit.arm for unit in todo):
        runs = [states[unit.key].run for unit in todo if unit.arm == arm]
        pairs = [
            (run.metrics["cell/persona"], run.metrics["cell/score"])
            for run in runs
            if run is not None and run.status == "FINISHED" and "cell/score" in run.metrics
        ]
        if pairs:
            persona, score = (sum(values) / len(pairs) for values in zip(*pairs, strict=True))
            shown[arm.replace("-", "_")] = f"{100 * score:.0f} points at persona {persona:.2f}"
    failed = sum(state.word == "failed" for state in states.values())
    return {**shown, **({"failed": str(failed)} if failed else {})}


def _collect(inputs: StudyInputs, bench: Bench) -> tuple[list[Cell], dict[str, State]]:
    """Every cell of the plan in its order; those of a failed training say why, and are left out by the analysis."""
    todo = units(inputs)
    board = Board(bench.tracker, inputs.group, bench.retry_before)
    states = board.states([unit.key for unit in todo])
    cells: list[Cell] = []
    for unit in todo:
        state = states[unit.key]
        if state.word == "finished" and state.run is not None:
            cells += read_cells(bench.tracker.artifacts.path(state.run.run_id, CELLS_FILE))
        else:
            error = state.error or "it did not finish"
            cells += [
                Cell(unit.arm, unit.training, alpha, unit.seed, error=error)
                for alpha in inputs.plan.alphas_of(unit.arm)
            ]
    return cells, states


def _log_conclusion(inputs: StudyInputs, cells: Sequence[Cell], base: Cell, stage: StageRun) -> Analysis:
    """Analyse, and log `study/study.json`, `study/index.html`, `study/cells.parquet` and the figures."""
    plan = inputs.plan
    if all(cell.is_failed for cell in cells):
        raise StudyError(
            "Every cell of the study failed.",
            where=counted(plan.trainings, "training"),
            found=cells[0].error,
            next_step="repair the cause, then pass -P retry_failed=true",
        )
    facts = StudyFacts(
        name=plan.name,
        base_model=inputs.base.public_name,
        base_digest=inputs.base.digest,
        character=inputs.character.name,
        suite=suite_label(inputs.problems),
        problems=len(base.correct),
        prompts=len(base.personas),
        samples=plan.samples,
        sampling=asdict(inputs.sampling),
        arms=plan.arms,
        training=tuple(dose.label for dose in plan.training),
        alphas=tuple(sorted({alpha for arm in plan.arms for alpha in plan.alphas_of(arm)})),
        seeds=plan.seeds,
        k=plan.k,
    )
    analysis = conclude(plan, base, cells)
    stage.log_table(cell_rows([base, *cells]), f"{STUDY_FOLDER}/{TABLE_FILE}")
    for name, content in files_of(analysis, facts, cells).items():
        stage.log_text(content, f"{STUDY_FOLDER}/{name}")
    return analysis


def _account(analysis: Analysis, states: Mapping[str, State], stage: StageRun) -> None:
    runs = {key: state.run.run_id for key, state in states.items() if state.run is not None}
    stage.log_json(runs, f"{STUDY_FOLDER}/runs.json")
    figures: dict[str, Any] = {
        "study/base_score": analysis.base_score,
        "study/cells_failed": len(analysis.failed),
        "study/control_shown": float(analysis.control.is_shown),
    }
    stage.log_metrics(figures)
    if analysis.fates:
        logger.info("study: %s", "; ".join(f"{fate.prediction.name} {fate.fate}" for fate in analysis.fates))

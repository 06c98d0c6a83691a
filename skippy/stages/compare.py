"""compare: the newest evaluations of base and variants, judged and written up as one page."""

from __future__ import annotations

import hashlib
import logging
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from skippy.characters.loader import load_character
from skippy.characters.schema import Character
from skippy.commands import command, next_command
from skippy.config import CompareConfig, config_dict
from skippy.errors import MissingRunError, ReportError, SkippyError
from skippy.evaluation.controls import find_controls
from skippy.evaluation.gathering import gather_comparison
from skippy.evaluation.selection import Selection, select_evaluations
from skippy.report.answers import answer_rows, flip_rows
from skippy.report.conclusions import Verdicts
from skippy.report.model_card import render_cards
from skippy.report.page import render
from skippy.report.verdicts import average_accuracy, judge
from skippy.report.wording import commands_it_takes, what_it_takes
from skippy.resolve.bases import Base, open_base
from skippy.results import Comparison
from skippy.stores.cards import verify_checkpoint
from skippy.tracking.records import RunRecord
from skippy.tracking.stage_run import StageRun
from skippy.tracking.tags import Tag
from skippy.tracking.tracker import Tracker
from skippy.words import shortened

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class CompareResult:
    """The run that holds the report, and the winner (None: nobody)."""

    run_id: str
    winner: str | None


@dataclass(frozen=True)
class ComparePlan:
    """What is compared, found or refused before a run is opened."""

    base: Base  # what all arms were made from
    character: Character  # what they were asked as
    selection: Selection  # the evaluations, and what was passed over
    controls: tuple[RunRecord, ...]  # evaluations that show whether a loss could have been seen
    command: str  # what compares the same evaluations again

    @property
    def taken(self) -> tuple[str, ...]:
        """Run ids of the evaluations, the base's first."""
        return tuple(record.run_id for runs in self.selection.records.values() for record in runs)


def run(config: CompareConfig, tracker: Tracker) -> CompareResult:
    """Gather, judge, render; the report is an artifact of this run."""
    plan = resolve(config, tracker)
    records = plan.selection.records
    with tracker.stage(
        "compare",
        name="compare",
        note=f"Variants against {config.base_model}: is the mathematics preserved at equal personality?",
        base_digest=plan.base.digest,
        character=plan.character.name,
        links={f"eval_{name}": ",".join(r.run_id for r in runs) for name, runs in records.items()},
        config=config_dict(config),
    ) as stage:
        comparison = gather_comparison(
            *(tracker, stage.run_id, plan.base, plan.character, plan.selection, plan.controls),
            margin=config.margin,
            registered_model=config.registered_model,
            command=plan.command,
        )
        verdicts = judge(comparison)
        record(comparison, verdicts, plan, stage)
        write_cards(tracker, render_cards(comparison, verdicts), stage)
        logger.info("report: %s", tracker.artifacts.path(stage.run_id, "report/index.html"))
        if verdicts.winner:
            stage.say_next(next_command("promote", config, stage.manager))
        return CompareResult(stage.run_id, verdicts.winner)


def resolve(config: CompareConfig, tracker: Tracker) -> ComparePlan:
    """Find evaluations that may be set side by side, and weights that are still those evaluated.

    Raises:
        SkippyError: something is missing, altered, or differs in more than the variant.
    """
    base = open_base(config.base_model, tracker)
    character = load_character(config.character)
    selection = select_evaluations(
        *(tracker, base, character),
        arms=config.arms,
        runs=config.runs,
        may_differ=config.unequal != "refuse",
    )
    _require_unaltered(tracker, selection.records)
    for line in shortened("\n".join(selection.passed_over)).splitlines():
        logger.info("compare: passed over %s", line)
    compared = [record for runs in selection.records.values() for record in runs]
    controls = find_controls(config.control, tracker, base, selection.records["base"][0], compared)
    again = command(
        "compare", config_dict(config) | {"arms": "", "runs": ",".join(record.run_id for record in compared)}
    )
    return ComparePlan(base, character, selection, tuple(controls), again)


def record(comparison: Comparison, verdicts: Verdicts, plan: ComparePlan, stage: StageRun) -> None:
    """Keep the report, tag the run with what it found, and say it."""
    files = render(comparison, verdicts)
    _log_report(stage, files)
    stage.log_browsable_tables(
        {"tables/answers.json": answer_rows(comparison), "tables/flips.json": flip_rows(comparison)}
    )
    found = "; ".join(f"{verdict.name}: {verdict.verdict}" for verdict in verdicts.variants)
    stage.set_tags(
        {
            Tag.WINNER: verdicts.winner or "",
            Tag.REPORT_SHA256: hashlib.sha256(_encoded(files["report.json"])).hexdigest(),
            Tag.VERDICT: f"{found}. Winner: {verdicts.winner or 'none'} ({verdicts.gate.reason})",
            Tag.EVAL_RUNS: ",".join(plan.taken),
            Tag.SENSITIVITY: verdicts.sensitivity.reason,
        }
    )
    _log_figures(stage, comparison, verdicts)
    for verdict in verdicts.variants:
        logger.info("compare: %s: %s", verdict.name, verdict.reason)
    logger.info("compare: %s", verdicts.sensitivity.reason)
    for sentence in what_it_takes(comparison, verdicts):
        logger.info("compare: what it would take: %s", sentence)
    for line in commands_it_takes(comparison, verdicts):
        logger.info("compare: %s", line)
    logger.info("compare: winner %s: %s", verdicts.winner or "none", verdicts.gate.reason)


def _require_unaltered(tracker: Tracker, records: Mapping[str, Sequence[RunRecord]]) -> None:
    """The weights of every registered version are still those that were evaluated.

    Weights that are gone are no lie: the samples stand for what they were, and `promote` will miss them.

    Raises:
        CheckpointError: a file of a version was altered.
        ReportError: a version holds other weights than its evaluation says.
    """
    for record in (record for runs in records.values() for record in runs):
        uri, digest = record.tags.get(Tag.MODEL_URI, ""), record.tags.get(Tag.MODEL_DIGEST, "")
        if record.variant == "base" or not uri.startswith("models:/"):
            continue
        try:
            found = verify_checkpoint(tracker.models.resolve(uri).path)["digest"]
        except MissingRunError:
            logger.warning("compare: the weights of %s are gone; their samples are used", uri)
            continue
        if digest and found != digest:
            raise ReportError(
                "A version holds other weights than those that were evaluated.",
                where=f"{uri}, eval run {record.run_id}",
                expected=f"weights digest {digest}",
                found=f"weights digest {found}",
                next_step=f"evaluate it again: mlflow run . -e eval --env-manager local -P model={uri}",
            )


def write_cards(tracker: Tracker, cards: Mapping[str, str], stage: StageRun) -> None:
    """A card for every version, in this run and with the version; a version that is gone needs none."""
    for uri, text in cards.items():
        stage.log_text(text, f"cards/{uri.removeprefix('models:/').replace('/', '-')}.md")
        try:
            tracker.models.write_card(uri, text)
        except SkippyError as error:
            logger.warning("compare: %s gets no card beside its weights. %s", uri, error)


def _log_report(stage: StageRun, files: Mapping[str, str | bytes]) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        for name, content in files.items():
            path = Path(scratch) / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(_encoded(content))
        stage.log_folder(Path(scratch), "report")


def _encoded(content: str | bytes) -> bytes:
    return content.encode() if isinstance(content, str) else content


def _log_figures(stage: StageRun, comparison: Comparison, verdicts: Verdicts) -> None:
    """The few numbers that the runs table compares; everything else is in report.json."""
    metrics: dict[str, float] = {}
    for arm in comparison.arms:
        if comparison.problems:
            metrics[f"compare/{arm.name}/avg_at_k"] = average_accuracy(arm)
        scored = [evaluation.banal.scores for evaluation in arm.evaluations if evaluation.banal]
        if scored:
            metrics[f"compare/{arm.name}/persona"] = fmean(value for scores in scored for value in scores)
    for verdict in verdicts.variants:
        if verdict.mean_difference is not None and verdict.interval is not None:
            metrics[f"compare/{verdict.name}/difference_points"] = verdict.mean_difference
            metrics[f"compare/{verdict.name}/lower_bound_points"] = verdict.interval[0]
            metrics[f"compare/{verdict.name}/upper_bound_points"] = verdict.interval[1]
    stage.log_metrics(metrics)

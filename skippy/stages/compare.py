"""compare: the newest evaluations of base and variants, judged and written up as one page."""

from __future__ import annotations

import hashlib
import logging
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from skippy.characters.loader import load_character
from skippy.commands import next_command
from skippy.config import CompareConfig, config_dict
from skippy.evaluation.gathering import gather_comparison
from skippy.evaluation.selection import select_evaluations
from skippy.report.conclusions import Verdicts
from skippy.report.page import render
from skippy.report.verdicts import average_accuracy, judge
from skippy.report.wording import commands_it_takes, what_it_takes
from skippy.resolve.bases import open_base
from skippy.results import Comparison
from skippy.tracking.stage_run import StageRun
from skippy.tracking.tracker import Tracker

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class CompareResult:
    """The run that holds the report, and the winner (None: nobody)."""

    run_id: str
    winner: str | None


def run(config: CompareConfig, tracker: Tracker) -> CompareResult:
    """Gather, judge, render; the report is an artifact of this run."""
    with tracker.stage(
        "compare",
        name="compare",
        note=f"Variants against {config.base_model}: is the mathematics preserved at equal personality?",
        config=config_dict(config),
    ) as stage:
        base = open_base(config.base_model, tracker)
        character = load_character(config.character)
        stage.describe(base_digest=base.digest, character=character.name)
        records = select_evaluations(config, tracker, base, character)
        stage.describe(
            links={f"eval_{name}": ",".join(r.run_id for r in runs) for name, runs in records.items()}
        )
        comparison = gather_comparison(config, tracker, stage.run_id, base, character, records)
        verdicts = judge(comparison)
        files = render(comparison, verdicts)
        _log_report(stage, files)
        sentence = "; ".join(f"{verdict.name}: {verdict.verdict}" for verdict in verdicts.variants)
        stage.set_tags(
            {
                "skippy.winner": verdicts.winner or "",
                "skippy.report_sha256": hashlib.sha256(_encoded(files["report.json"])).hexdigest(),
                "skippy.verdict": f"{sentence}. Winner: {verdicts.winner or 'none'} ({verdicts.gate.reason})",
                "skippy.eval_runs": ",".join(r.run_id for runs in records.values() for r in runs),
            }
        )
        _log_figures(stage, comparison, verdicts)
        for verdict in verdicts.variants:
            logger.info("compare: %s: %s", verdict.name, verdict.reason)
        for sentence in what_it_takes(comparison, verdicts):
            logger.info("compare: to settle %s", sentence)
        for line in commands_it_takes(comparison, verdicts):
            logger.info("compare: %s", line)
        logger.info("compare: winner %s: %s", verdicts.winner or "none", verdicts.gate.reason)
        logger.info("report: %s", tracker.artifacts.path(stage.run_id, "report/index.html"))
        logger.info("next: %s", next_command("promote", config, stage.manager))
        return CompareResult(stage.run_id, verdicts.winner)


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

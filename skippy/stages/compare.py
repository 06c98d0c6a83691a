"""compare: the newest evaluations of base and variants, judged and written up as one page."""

from __future__ import annotations

import hashlib
import logging
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from skippy.characters.loader import load_character
from skippy.characters.schema import Character
from skippy.config import CompareConfig, config_dict
from skippy.core.variants import VARIANTS
from skippy.errors import ConfigError, MissingRunError, ReportError
from skippy.evaluation.gathering import gather_comparison
from skippy.report.conclusions import Verdicts
from skippy.report.page import render
from skippy.report.verdicts import average_accuracy, judge
from skippy.resolve.bases import Base, open_base
from skippy.resolve.runs import CHARACTER_DIGEST, SUBJECT, find_run
from skippy.results import Comparison
from skippy.tracking.records import RunRecord
from skippy.tracking.runs import Tracker
from skippy.tracking.stage_run import StageRun

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
        note=f"V3 and V4 against {config.base_model}: is the mathematics preserved at equal personality?",
        config=config_dict(config),
    ) as stage:
        base = open_base(config.base_model, tracker)
        character = load_character(config.character)
        stage.describe(base_digest=base.digest, character=character.name)
        records = _find_evaluations(config, tracker, base, character)
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
                "skippy.verdict": f"{sentence}. Winner: {verdicts.winner or 'none'} ({verdicts.winner_reason})",
                "skippy.eval_runs": ",".join(r.run_id for runs in records.values() for r in runs),
            }
        )
        _log_figures(stage, comparison, verdicts)
        for verdict in verdicts.variants:
            logger.info("compare: %s: %s", verdict.name, verdict.reason)
        logger.info("compare: winner %s: %s", verdicts.winner or "none", verdicts.winner_reason)
        logger.info("report: %s", tracker.artifact(stage.run_id, "report/index.html"))
        logger.info("next: mlflow run . -e promote --env-manager local")
        return CompareResult(stage.run_id, verdicts.winner)


def _find_evaluations(
    config: CompareConfig, tracker: Tracker, base: Base, character: Character
) -> dict[str, list[RunRecord]]:
    """Evaluations by arm: the runs named, else the newest of each; V3 and V4 are asked for, controls may be there."""
    tags = {CHARACTER_DIGEST: character.digest, SUBJECT: "model"}
    named = _named_runs(config)
    found: dict[str, list[RunRecord]] = {}
    for arm in ("base", *VARIANTS):
        ids = named.get(arm, [])
        try:
            records = [find_run(tracker, "eval", run_id) for run_id in ids] or [
                find_run(tracker, "eval", base=base, variant=arm, extra_tags=tags)
            ]
        except MissingRunError:
            if arm in named:
                raise
            continue
        _require_arm(arm, records, tracker, base, character)
        _require_seeds(arm, records)
        found[arm] = records
    return found


def _named_runs(config: CompareConfig) -> dict[str, list[str]]:
    """Run ids by arm, as the parameters give them; the base has one evaluation, however many seeds there are."""
    given = {"base": config.base_run, "v3": config.v3_run, "v4": config.v4_run}
    named = {
        arm: [run_id.strip() for run_id in ids.split(",") if run_id.strip()] for arm, ids in given.items()
    }
    if len(named["base"]) > 1:
        raise ConfigError(
            "The base is evaluated once.",
            where="base_run",
            expected="one run id: training seeds make several variants, but not several bases",
            found=config.base_run,
            next_step="pass one of them",
        )
    return named


def _require_arm(
    arm: str, records: Sequence[RunRecord], tracker: Tracker, base: Base, character: Character
) -> None:
    """Every evaluation is of one model of this arm and base, trained towards and asked as this character."""
    for record in records:
        train = tracker.read(record.link("train")) if record.link("train") else None
        expected = {
            "variant": (arm, record.variant),
            "base": (base.digest[:16], record.base_digest[:16]),
            "character": (character.digest[:16], record.tags.get(CHARACTER_DIGEST, "")[:16]),
            "trained character": (
                character.name,
                train.character if train else character.name,
            ),
            "subject": ("model", record.tags.get(SUBJECT, "model")),
        }
        wrong = {name: pair for name, pair in expected.items() if pair[0] != pair[1]}
        if wrong:
            raise ReportError(
                f"An evaluation belongs to another {' and '.join(wrong)}.",
                where=f"eval run {record.run_id} {record.name!r}",
                expected=", ".join(f"{name} {wanted}" for name, (wanted, _) in wrong.items()),
                found=", ".join(f"{name} {found or 'none'}" for name, (_, found) in wrong.items()),
                next_step=f"pass an evaluation of {arm} on this base with character={character.name}, or leave it out",
            )


def _require_seeds(arm: str, records: Sequence[RunRecord]) -> None:
    """Several evaluations of a variant are several training seeds: one counted twice would narrow the interval."""
    counts = Counter(record.tags.get("skippy.seed") or "none" for record in records)
    seed, count = counts.most_common(1)[0]
    if count > 1:
        raise ReportError(
            "Evaluations of one training seed are no further seeds.",
            where=f"{arm}_run",
            expected="one evaluation a training seed",
            found=f"{count} evaluations of seed {seed}: "
            + ", ".join(
                record.run_id for record in records if (record.tags.get("skippy.seed") or "none") == seed
            ),
            next_step="pass one run id a seed",
        )


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

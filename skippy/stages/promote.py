"""promote: the champion alias moves if the report's gate opened, and everything behind it still holds."""

from __future__ import annotations

import hashlib
import logging
from dataclasses import asdict, dataclass
from typing import Any

from skippy.config import PromoteConfig, config_dict
from skippy.errors import MissingRunError, PromotionRefused, RegistryError
from skippy.report.record import REPORT_FILE, ReportRecord
from skippy.resolve.bases import Base, open_base
from skippy.resolve.runs import MODEL_URI, find_run
from skippy.stores.merging import verify_checkpoint
from skippy.tracking.promotions import CHAMPION
from skippy.tracking.records import RunRecord
from skippy.tracking.registry import ModelVersionRecord, parse_model_uri
from skippy.tracking.stage_run import StageRun
from skippy.tracking.tags import Tag
from skippy.tracking.tracker import Tracker

logger = logging.getLogger(__name__)

PROMOTION = Tag.PROMOTION
AGAIN = "evaluate and compare again, then promote"


@dataclass(frozen=True)
class PromoteResult:
    """What became of the alias: `promoted`, `unresolved` or `rolled back`, and the champion's version."""

    run_id: str
    state: str
    champion: int | None


def run(config: PromoteConfig, tracker: Tracker) -> PromoteResult:
    """Promote the winner of a comparison, leave the alias where it is with the reason, or roll back."""
    with tracker.stage(
        "promote",
        name="rollback" if config.rollback else "promote",
        note=f"The alias {CHAMPION} of {config.registered_model}.",
        config=config_dict(config),
    ) as stage:
        if config.rollback:
            return _roll_back(config, tracker, stage)
        base = open_base(config.base_model, tracker)
        record = find_run(tracker, "compare", config.compare_run, base=base)
        stage.describe(base_digest=base.digest, character=record.character,
                       links={"compare": record.run_id})  # fmt: skip
        report = _read_report(tracker, record)
        before = _champion(tracker, config.registered_model)
        if not report.winner.variant:
            return _leave(config, stage, record, report, before)
        version = _require_together(config, tracker, base, record, report)
        moved = tracker.promotions.promote(
            config.registered_model,
            version.version,
            reason=report.winner.reason,
            by=config.by,
            report_uri=f"runs:/{record.run_id}/report/index.html",
            figures=_figures(report, version.tags["variant"]),
            expected_champion=before.version if before else None,
        )
        _say(stage, f"{moved.uri} ({version.tags['variant']}) is {CHAMPION}: {report.winner.reason}")
        logger.info("next: load models:/%s@%s", config.registered_model, CHAMPION)
        return PromoteResult(stage.run_id, "promoted", moved.version)


def _read_report(tracker: Tracker, record: RunRecord) -> ReportRecord:
    """The report as `compare` wrote it: bytes and winner are those its tags name."""
    content = tracker.artifacts.path(record.run_id, REPORT_FILE).read_bytes()
    where = f"compare run {record.run_id}, {REPORT_FILE}"
    _require_equal(
        "The report is not the one that compare wrote.",
        where,
        f"SHA-256 {record.tags.get(Tag.REPORT_SHA256) or 'in tag skippy.report_sha256'}",
        f"SHA-256 {hashlib.sha256(content).hexdigest()}",
    )
    report = ReportRecord.from_json(content, where)
    _require_equal(
        "The report and its run disagree on the winner.",
        where,
        record.tags.get(Tag.WINNER) or "nobody",
        report.winner.variant or "nobody",
    )
    return report


def _champion(tracker: Tracker, name: str) -> ModelVersionRecord | None:
    if not tracker.registry.versions(name):
        raise MissingRunError(
            "The registered model has no versions.",
            where=name,
            expected="merged variants",
            found="nothing registered",
            next_step="mlflow run . -e merge --env-manager local -P variant=v4",
        )
    return tracker.registry.alias(name, CHAMPION)


def _leave(
    config: PromoteConfig,
    stage: StageRun,
    record: RunRecord,
    report: ReportRecord,
    before: ModelVersionRecord | None,
) -> PromoteResult:
    """The gate is shut: refused when asked for by hand, a result under `main`."""
    stays = f"the alias stays at version {before.version}" if before else "no alias is set"
    reason = report.winner.reason
    _say(stage, f"unresolved, {stays}: {reason}")
    if config.unresolved == "fail":
        raise PromotionRefused(
            "The gate did not open; " + stays + ".",
            where=f"compare run {record.run_id}",
            expected="persona, then the treatment non-inferior to base, then the treatment better than its rivals",
            found=reason,
            next_step="read the report; more problems, samples or seeds narrow the interval",
        )
    return PromoteResult(stage.run_id, "unresolved", before.version if before else None)


def _require_together(
    config: PromoteConfig, tracker: Tracker, base: Base, record: RunRecord, report: ReportRecord
) -> ModelVersionRecord:
    """The version that the report is about: same base, same weights, evaluated by the runs it names."""
    winner = report.winner.variant
    evaluations = _require_evidence(tracker, record, report)
    ours = [evaluation for evaluation in evaluations if evaluation.variant == winner]
    if not ours:
        raise RegistryError("The report names no evaluation of its winner.", where=f"compare run {record.run_id}",
                            expected=f"an evaluation of {winner}", found="none")  # fmt: skip
    chosen = max(ours, key=lambda evaluation: evaluation.metrics.get("banal/score", 0.0))
    model = tracker.models.resolve(chosen.tags[MODEL_URI])
    facts = verify_checkpoint(model.path)
    checks = {
        "registered model": (config.registered_model, model.name),
        "variant": (winner, model.tags.get("variant")),
        "base digest": (base.digest, model.tags.get("base_digest")),
        "weights digest": (chosen.tags[Tag.MODEL_DIGEST], facts["digest"]),
    }
    for name, (expected, found) in checks.items():
        what = f"Report and registry disagree on the {name}."
        _require_equal(what, chosen.tags[MODEL_URI], str(expected), str(found))
    return tracker.registry.lookup(parse_model_uri(chosen.tags[MODEL_URI]))


def _require_evidence(tracker: Tracker, record: RunRecord, report: ReportRecord) -> list[RunRecord]:
    """The evaluations behind the report: those of its run's tag, of the models it names, samples still there."""
    where = f"compare run {record.run_id}"
    named = {
        item.runs["eval"]: (arm, item.model_digest)
        for arm, entry in report.arms.items()
        for item in entry.evaluations
    }
    tagged = record.tags.get(Tag.EVAL_RUNS, "").split(",")
    what = "The report and its run name different evaluations."
    _require_equal(what, where, ", ".join(sorted(tagged)), ", ".join(sorted(named)))
    evaluations = [find_run(tracker, "eval", run_id) for run_id in tagged]
    for evaluation in evaluations:
        arm, digest = named[evaluation.run_id]
        place = f"{where}, eval run {evaluation.run_id}"
        _require_equal(
            "The report and an evaluation disagree on the model.",
            place,
            f"{evaluation.variant}, weights digest {evaluation.tags.get(Tag.MODEL_DIGEST, '')}",
            f"{arm}, weights digest {digest}",
        )
        if not tracker.artifacts.files(evaluation.run_id, "samples"):
            raise RegistryError(
                "The samples that the report rests on are gone.",
                where=place,
                expected="artifacts under samples/",
                found="none",
                next_step=AGAIN,
            )
    return evaluations


def _require_equal(what: str, where: str, expected: str, found: str) -> None:
    if expected != found:
        raise RegistryError(what, where=where, expected=expected, found=found, next_step=AGAIN)


def _figures(report: ReportRecord, variant: str) -> dict[str, Any]:
    return {variant: asdict(report.verdicts[variant]), "personality": asdict(report.personality)}


def _roll_back(config: PromoteConfig, tracker: Tracker, stage: StageRun) -> PromoteResult:
    moved = tracker.promotions.rollback(config.registered_model, reason="rollback asked for", by=config.by)
    _say(stage, f"{moved.uri} is {CHAMPION} again")
    return PromoteResult(stage.run_id, "rolled back", moved.version)


def _say(stage: StageRun, sentence: str) -> None:
    stage.set_tags({PROMOTION: sentence})
    stage.describe(note=sentence)
    logger.info("promote: %s", sentence)

"""promote: the champion alias moves if the report's gate opened, and everything behind it still holds."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from skippy.config import PromoteConfig, config_dict
from skippy.errors import MissingRunError, PromotionRefused, RegistryError
from skippy.stages.inputs import Base, find_run, open_base
from skippy.stores.merging import verify_checkpoint
from skippy.tracking.records import RunRecord
from skippy.tracking.registry import ModelVersionRecord, parse_model_uri
from skippy.tracking.runs import Tracker
from skippy.tracking.stage_run import StageRun

logger = logging.getLogger(__name__)

CHAMPION = "champion"
PROMOTION = "skippy.promotion"


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
        record = find_run(tracker, "compare", config.compare_run, base_digest=base.digest)
        stage.describe(base_digest=base.digest, character=record.tags.get("skippy.character", ""),
                       links={"compare": record.run_id})  # fmt: skip
        report = json.loads(tracker.artifact(record.run_id, "report/report.json").read_text())
        before = _champion(tracker, config.registered_model)
        if not report["winner"]["variant"]:
            return _leave(config, stage, record, report, before)
        version = _require_together(config, tracker, base, record, report)
        moved = tracker.promote_alias(
            config.registered_model,
            version.version,
            reason=report["winner"]["reason"],
            by=config.by,
            report_uri=f"runs:/{record.run_id}/report/index.html",
            figures=_figures(report, version.tags["variant"]),
            expected_champion=before.version if before else None,
        )
        _say(stage, f"{moved.uri} ({version.tags['variant']}) is {CHAMPION}: {report['winner']['reason']}")
        logger.info("next: load models:/%s@%s", config.registered_model, CHAMPION)
        return PromoteResult(stage.run_id, "promoted", moved.version)


def _champion(tracker: Tracker, name: str) -> ModelVersionRecord | None:
    if not tracker.versions(name):
        raise MissingRunError(
            "The registered model has no versions.",
            where=name,
            expected="merged V3 and V4",
            found="nothing registered",
            next_step="mlflow run . -e merge --env-manager local -P variant=v4",
        )
    return tracker.alias(name, CHAMPION)


def _leave(
    config: PromoteConfig,
    stage: StageRun,
    record: RunRecord,
    report: Mapping[str, Any],
    before: ModelVersionRecord | None,
) -> PromoteResult:
    """The gate is shut: refused when asked for by hand, a result under `main`."""
    stays = f"the alias stays at version {before.version}" if before else "no alias is set"
    reason = report["winner"]["reason"]
    _say(stage, f"unresolved, {stays}: {reason}")
    if config.unresolved == "fail":
        raise PromotionRefused(
            "The gate did not open; " + stays + ".",
            where=f"compare run {record.run_id}",
            expected="persona, then V4 non-inferior to base, then V4 better than V3",
            found=reason,
            next_step="read the report; more problems, samples or seeds narrow the interval",
        )
    return PromoteResult(stage.run_id, "unresolved", before.version if before else None)


def _require_together(
    config: PromoteConfig, tracker: Tracker, base: Base, record: RunRecord, report: Mapping[str, Any]
) -> ModelVersionRecord:
    """The version that the report is about: same base, same weights, evaluated by the runs it names."""
    winner = report["winner"]["variant"]
    evaluations = [find_run(tracker, "eval", run_id) for run_id in record.tags["skippy.eval_runs"].split(",")]
    ours = [evaluation for evaluation in evaluations if evaluation.variant == winner]
    if not ours:
        raise RegistryError("The report names no evaluation of its winner.", where=f"compare run {record.run_id}",
                            expected=f"an evaluation of {winner}", found="none")  # fmt: skip
    chosen = max(ours, key=lambda evaluation: evaluation.metrics.get("banal/score", 0.0))
    model = tracker.resolve_model(chosen.tags["skippy.model_uri"])
    facts = verify_checkpoint(model.path)
    checks = {
        "registered model": (config.registered_model, model.name),
        "variant": (winner, model.tags.get("variant")),
        "base digest": (base.digest, model.tags.get("base_digest")),
        "weights digest": (chosen.tags["skippy.model_digest"], facts["digest"]),
    }
    for name, (expected, found) in checks.items():
        if expected != found:
            raise RegistryError(
                f"Report and registry disagree on the {name}.",
                where=chosen.tags["skippy.model_uri"],
                expected=str(expected),
                found=str(found),
                next_step="evaluate and compare again, then promote",
            )
    return tracker.lookup(parse_model_uri(chosen.tags["skippy.model_uri"]))


def _figures(report: Mapping[str, Any], variant: str) -> dict[str, Any]:
    return {variant: report["verdicts"][variant], "personality": report["personality"]}


def _roll_back(config: PromoteConfig, tracker: Tracker, stage: StageRun) -> PromoteResult:
    moved = tracker.rollback_alias(config.registered_model, reason="rollback asked for", by=config.by)
    _say(stage, f"{moved.uri} is {CHAMPION} again")
    return PromoteResult(stage.run_id, "rolled back", moved.version)


def _say(stage: StageRun, sentence: str) -> None:
    stage.set_tags({PROMOTION: sentence})
    stage.describe(note=sentence)
    logger.info("promote: %s", sentence)

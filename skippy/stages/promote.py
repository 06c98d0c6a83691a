"""promote: the champion alias moves if the report's gate opened, and everything behind it still holds."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from skippy.config import PromoteConfig, config_dict
from skippy.errors import PromotionRefused, RegistryError
from skippy.report.record import REPORT_FILE, ReportRecord
from skippy.resolve.bases import Base, open_base
from skippy.resolve.runs import find_run
from skippy.stores.cards import verify_checkpoint
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


@dataclass(frozen=True)
class PromotePlan:
    """What is decided, and on what, found or refused before a run is opened."""

    base_digest: str = ""  # of the base compared; empty for a rollback
    comparison: RunRecord | None = None  # the run whose report decides; None for a rollback
    before: ModelVersionRecord | None = None  # the champion until now, if any
    # what becomes champion; None: the gate is shut, or this is a rollback
    version: ModelVersionRecord | None = None
    reason: str = ""  # why, in a sentence
    figures: Mapping[str, object] = field(default_factory=dict)  # what the decision rests on


def run(config: PromoteConfig, tracker: Tracker) -> PromoteResult:
    """Promote the winner of a comparison, leave the alias where it is with the reason, or roll back."""
    if config.rollback:
        tracker.promotions.require_previous(config.registered_model)
    plan = PromotePlan() if config.rollback else resolve(config, tracker)
    comparison = plan.comparison
    with tracker.stage(
        "promote",
        name="rollback" if config.rollback else "promote",
        note=f"The alias {CHAMPION} of {config.registered_model}.",
        base_digest=plan.base_digest,
        character=comparison.character if comparison else "",
        links={"compare": comparison.run_id} if comparison else {},
        config=config_dict(config),
    ) as stage:
        if comparison is None:
            moved = tracker.promotions.rollback(
                config.registered_model, reason="rollback asked for", by=config.by
            )
            return record("rolled back", moved, f"{moved.uri} is {CHAMPION} again", stage)
        if plan.version is None:
            return _leave(config, plan, comparison, stage)
        moved = tracker.promotions.promote(
            config.registered_model,
            plan.version.version,
            reason=plan.reason,
            by=config.by,
            report_uri=f"runs:/{comparison.run_id}/report/index.html",
            figures=plan.figures,
            expected_champion=plan.before.version if plan.before else None,
        )
        sentence = f"{moved.uri} ({plan.version.tags['variant']}) is {CHAMPION}: {plan.reason}"
        logger.info("next: load models:/%s@%s", config.registered_model, CHAMPION)
        return record("promoted", moved, sentence, stage)


def resolve(config: PromoteConfig, tracker: Tracker) -> PromotePlan:
    """Read the report, and check that everything behind it still holds.

    Raises:
        SkippyError: something is missing, was altered, or is not what the report says.
    """
    base = open_base(config.base_model, tracker)
    comparison = find_run(tracker, "compare", config.compare_run, base=base)
    report = _read_report(tracker, comparison)
    before = _champion(tracker, config.registered_model)
    plan = PromotePlan(base.digest, comparison, before, reason=report.winner.reason)
    if config.override:
        version = _version_by_hand(config, tracker, base)
        reason = f"override, by hand and not by the gate: {config.override}"
        return replace(
            plan, version=version, reason=reason, figures={"override": config.override, "gate": plan.reason}
        )
    if not report.winner.variant:
        return plan
    version = _require_together(config, tracker, base, comparison, report)
    return replace(plan, version=version, figures=_figures(report, version.tags["variant"]))


def _version_by_hand(config: PromoteConfig, tracker: Tracker, base: Base) -> ModelVersionRecord:
    """The version that a person promotes against the gate: of this base, and as it was written."""
    uri = f"models:/{config.registered_model}/{config.version}"
    version = tracker.registry.lookup(parse_model_uri(uri))
    verify_checkpoint(tracker.models.resolve(uri).path)
    _require_equal(
        "The version is of another base.", uri, base.digest, version.tags.get("base_digest", "unknown")
    )
    return version


def record(state: str, champion: ModelVersionRecord | None, sentence: str, stage: StageRun) -> PromoteResult:
    """Say what became of the alias, in the run and on the terminal."""
    stage.set_tags({PROMOTION: sentence})
    stage.describe(note=sentence)
    logger.info("promote: %s", sentence)
    return PromoteResult(stage.run_id, state, champion.version if champion else None)


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
    tracker.registry.require_versions(name)
    return tracker.registry.alias(name, CHAMPION)


def _leave(config: PromoteConfig, plan: PromotePlan, comparison: RunRecord, stage: StageRun) -> PromoteResult:
    """The gate is shut: refused when asked for by hand, a result under `main`."""
    stays = f"the alias stays at version {plan.before.version}" if plan.before else "no alias is set"
    result = record("unresolved", plan.before, f"unresolved, {stays}: {plan.reason}", stage)
    if config.unresolved == "fail":
        raise PromotionRefused(
            "The gate did not open; " + stays + ".",
            where=f"compare run {comparison.run_id}",
            expected="persona, then the treatment non-inferior to base, then the treatment better than its rivals",
            found=plan.reason,
            next_step="read the report; more problems, samples or seeds narrow the interval. By hand, marked as such "
            'for ever: version=N override="WHY"',
        )
    return result


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
    model = tracker.models.resolve(chosen.tags[Tag.MODEL_URI])
    facts = verify_checkpoint(model.path)
    checks = {
        "registered model": (config.registered_model, model.name),
        "variant": (winner, model.tags.get("variant")),
        "base digest": (base.digest, model.tags.get("base_digest")),
        "weights digest": (chosen.tags[Tag.MODEL_DIGEST], facts["digest"]),
    }
    for name, (expected, found) in checks.items():
        what = f"Report and registry disagree on the {name}."
        _require_equal(what, chosen.tags[Tag.MODEL_URI], str(expected), str(found))
    return tracker.registry.lookup(parse_model_uri(chosen.tags[Tag.MODEL_URI]))


def _require_evidence(tracker: Tracker, record: RunRecord, report: ReportRecord) -> list[RunRecord]:
    """The evaluations behind the report: those of its run's tag, of the models it names, samples still there."""
    where = f"compare run {record.run_id}"
    named = {
        item.runs["eval"]: (arm, item.model_digest)
        for arm, entry in report.arms.items()
        for item in entry.evaluations
    }
    tagged = Tag.EVAL_RUNS.read(record.tags) or ()
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

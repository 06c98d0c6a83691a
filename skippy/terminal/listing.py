"""What the store holds, as plain facts: runs, registered versions, and everything about one run."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from skippy.errors import MissingRunError
from skippy.terminal.table import when
from skippy.tracking.records import RunRecord
from skippy.tracking.registry import parse_model_uri
from skippy.tracking.tags import LINK_PREFIX, LINK_SUFFIX, NOTE_TAG, Tag
from skippy.tracking.tracker import Tracker

RUN_COLUMNS = ("run", "stage", "name", "status", "started", "minutes", "figures")
MODEL_COLUMNS = (
    *("model", "aliases", "variant", "seed", "step", "alpha"),
    *("score", "persona", "verdict", "by hand"),
)
HEADLINES: Mapping[str, Sequence[str]] = {
    "svd": ("svd/worst_residual",),
    "train": ("train/reward_last",),
    "merge": ("merge/delta_error",),
    "eval": ("aime/avg_at_k", "banal/score"),
}
"""Stage → the metrics that its line shows."""
SCORE, PERSONA = "aime/avg_at_k", "banal/score"


def list_runs(tracker: Tracker, stage: str, limit: int) -> list[dict[str, Any]]:
    """The newest runs, whole ids; `as` is the run whose work one took over instead of doing it again."""
    return [_run_row(record) for record in tracker.runs.newest(limit, stage=stage)]


def list_models(tracker: Tracker, name: str) -> list[dict[str, Any]]:
    """Every version, newest first, with its newest evaluation and the verdict of the newest comparison on it.

    Raises:
        MissingRunError: there is no such registered model, or it has no version.
    """
    versions = tracker.registry.require_versions(name)
    evaluations = _by_uri(tracker)
    verdicts = _verdicts(tracker)
    overrides = {
        event.version: str(event.figures["override"])
        for event in tracker.promotions.history(name)
        if "override" in event.figures
    }
    rows = []
    for version in versions:
        evaluation = evaluations.get(version.uri)
        figures = evaluation.metrics if evaluation else {}
        tags = version.tags
        rows.append(
            {
                "model": version.uri,
                "aliases": list(version.aliases),
                **{key: tags.get(key, "") for key in ("variant", "character", "seed", "step", "alpha")},
                "score": figures.get(SCORE),
                "persona": figures.get(PERSONA),
                "verdict": verdicts.get(evaluation.run_id, "") if evaluation else "",
                "by hand": overrides.get(version.version, ""),
                "created": when(version.created),
                "runs": {"merge": version.run_id, "train": tags.get("train_run", "")}
                | ({"eval": evaluation.run_id} if evaluation else {}),
            }
        )
    return rows


def describe_run(tracker: Tracker, run_id: str) -> dict[str, Any]:
    """Everything about one run: what it is, was given, built on, measured and kept.

    Args:
        run_id: or its first digits, or the `models:/` URI of a version, whose merge is meant.

    Raises:
        MissingRunError: no run, or several, begin with `run_id`; or there is no such version.
    """
    if run_id.startswith("models:/"):
        run_id = tracker.registry.lookup(parse_model_uri(run_id)).run_id
    record = tracker.runs.read(run_id)
    links = {tag.removeprefix(LINK_PREFIX).removesuffix(LINK_SUFFIX): value for tag, value in record.tags.items()
             if tag.startswith(LINK_PREFIX) and tag.endswith(LINK_SUFFIX) and value}  # fmt: skip
    try:
        parameters = tracker.runs.config(record.run_id)
    except MissingRunError:
        parameters = dict(record.params)
    return {
        **_run_row(record),
        "note": record.tags.get(NOTE_TAG, ""),
        "error": record.tags.get(Tag.ERROR, ""),
        "parent": record.parent or "",
        "links": links,
        "parameters": parameters,
        "metrics": dict(sorted(record.metrics.items())),
        "artifacts": tracker.artifacts.files(record.run_id),
    }


def _run_row(record: RunRecord) -> dict[str, Any]:
    ended = record.end_time
    figures = {
        name: record.metrics[name] for name in HEADLINES.get(record.stage, ()) if name in record.metrics
    }
    said = record.tags.get(Tag.VERDICT) or record.tags.get(Tag.PROMOTION, "")
    return {
        "run": record.run_id,
        "stage": record.stage,
        "name": record.name,
        "status": record.status,
        "started": when(record.start_time),
        "minutes": None if ended is None else round((ended - record.start_time) / 60_000, 2),
        "as": record.tags.get(Tag.REUSES, ""),
        "figures": figures or said,
    }


def _by_uri(tracker: Tracker) -> dict[str, RunRecord]:
    """models:/ URI → its newest finished evaluation."""
    found: dict[str, RunRecord] = {}
    for record in tracker.runs.find_all("eval"):
        found.setdefault(record.tags.get(Tag.MODEL_URI, ""), record)
    return found


def _verdicts(tracker: Tracker) -> dict[str, str]:
    """Run id of an evaluation → the verdict of the newest comparison that rests on it."""
    found: dict[str, str] = {}
    for record in tracker.runs.find_all("compare"):
        try:
            report = json.loads(
                tracker.artifacts.path(record.run_id, "report/report.json").read_text("utf-8")
            )
        except (MissingRunError, ValueError):
            continue
        for arm, content in report.get("arms", {}).items():
            verdict = report.get("verdicts", {}).get(arm, {}).get("verdict", "")
            for item in content.get("evaluations", ()):
                found.setdefault(item.get("runs", {}).get("eval", ""), verdict)
    return found

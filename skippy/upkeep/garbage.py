"""What a store could do without: how much it is, and what protects the rest.

Kept is what an alias points at, what a report rests on, what other runs were built on, and what is young. Orphans,
finished workspaces and copies of a server's files go at any age, for nothing leads to them or they can be had again.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

from skippy.errors import MissingRunError, SkippyError
from skippy.stores.cards import CARD_FILE
from skippy.stores.documents import parse_object
from skippy.tracking.drafts import WEIGHTS
from skippy.tracking.orphans import bytes_under
from skippy.tracking.registry import ModelVersionRecord
from skippy.tracking.tags import Tag
from skippy.tracking.tracker import Tracker
from skippy.upkeep.findings import RUN_LIMIT, Finding, all_versions, cached_copies, leftovers
from skippy.words import shortened

DAY_SECONDS = 86_400.0
SHOWN_IDS = 3
REPORT_FILE = "report/report.json"


def find_garbage(tracker: Tracker, *, days: float) -> list[Finding]:
    """Everything that may go, and what is like it but protected.

    Args:
        days: versions, unfinished work and cached copies younger than this are kept.
    """
    return [*_versions(tracker, days), *_leftovers(tracker, days), *_cached(days)]


def _versions(tracker: Tracker, days: float) -> Iterator[Finding]:
    reports = _reports(tracker)
    for version in all_versions(tracker):
        if "adapter_digest" not in version.tags:
            continue  # of somebody else
        digest = _digest(tracker.models.read_file(version, f"{WEIGHTS}/{CARD_FILE}"))
        rests = reports.get(version.uri, set()) | reports.get(digest, set())
        kept = [f"alias {alias}" for alias in version.aliases]
        kept += _named("the report of compare run", rests)
        kept += _named("it is the base of run", _built_on(tracker, version, digest))
        kept += _young(version.created / 1000, days)
        path = _place(tracker, version)
        yield Finding(
            "version",
            f"{version.tags.get('variant', '')} merged by run {shortened(version.run_id)}",
            version.uri,
            nbytes=bytes_under(path) if path else None,
            is_fault=False,
            kept_by=tuple(kept),
            is_safe=False,
            act=partial(tracker.promotions.remove_version, version.name, version.version),
        )


def _reports(tracker: Tracker) -> dict[str, set[str]]:
    """Model URI, or digest of its weights → the compare runs whose report rests on an evaluation of it."""
    evaluations = {record.run_id: record for record in tracker.runs.newest(RUN_LIMIT, stage="eval")}
    found: dict[str, set[str]] = {}
    for compare in tracker.runs.newest(RUN_LIMIT, stage="compare"):
        for run_id in Tag.EVAL_RUNS.read(compare.tags) or ():
            record = evaluations.get(run_id)
            keys = (
                {record.tags.get(Tag.MODEL_URI, ""), record.tags.get(Tag.MODEL_DIGEST, "")}
                if record
                else _named_in_report(tracker, compare.run_id)
            )
            for key in keys - {""}:
                found.setdefault(key, set()).add(compare.run_id)
    return found


def _named_in_report(tracker: Tracker, run_id: str) -> set[str]:
    """URIs and digests of the models that a report names, for where an evaluation of it was deleted."""
    try:
        report = parse_object(tracker.artifacts.path(run_id, REPORT_FILE).read_bytes())
    except (MissingRunError, ValueError):
        return set()
    items = [item for arm in report.get("arms", {}).values() for item in arm.get("evaluations", ())]
    return {str(item.get(key, "")) for item in items for key in ("model_uri", "model_digest")}


def _built_on(tracker: Tracker, version: ModelVersionRecord, digest: str) -> set[str]:
    """Runs that took these weights as their base."""
    if not digest:
        return {f"unknown: {version.uri} has no card that can be read"}
    runs = set()
    for stage in ("svd", "subspace", "train", "merge", "study"):
        runs |= {record.run_id for record in tracker.runs.find_all(stage, base_digest=digest, finished=False)}
    return runs


def _digest(content: bytes | None) -> str:
    try:
        return str(parse_object(content or b"")["digest"])
    except (ValueError, KeyError):
        return ""


def _place(tracker: Tracker, version: ModelVersionRecord) -> Path | None:
    """Directory of a version on this machine, None where it is on a server or gone."""
    if tracker.store.is_server:
        return None
    try:
        return tracker.models.resolve(version.uri).path.parent
    except SkippyError:
        return None


def _leftovers(tracker: Tracker, days: float) -> Iterator[Finding]:
    for one in leftovers(tracker):
        # Unfinished work is what a stage goes on from, so that it is kept while it is young.
        yield one if one.is_fault else replace(one, kept_by=tuple(_young(_newest(Path(one.where)), days)))


def _cached(days: float) -> Iterator[Finding]:
    for what, folder in cached_copies():
        yield Finding(
            "cache",
            f"{what}; fetched again when it is needed",
            str(folder),
            nbytes=bytes_under(folder),
            is_fault=False,
            kept_by=tuple(_young(_newest(folder), days)),
            act=partial(shutil.rmtree, folder, ignore_errors=True),
        )


def _newest(folder: Path) -> float:
    """When something under a directory last changed, seconds since the epoch."""
    return max(path.lstat().st_mtime for path in (folder, *folder.rglob("*")))


def _young(since: float, days: float) -> list[str]:
    age = (time.time() - since) / DAY_SECONDS
    return [f"{age:.1f} days old, younger than {days:g} (--days)"] if age < days else []


def _named(what: str, runs: set[str]) -> list[str]:
    shown = shortened(", ".join(sorted(runs)[:SHOWN_IDS]))
    more = f" and {len(runs) - SHOWN_IDS} more" if len(runs) > SHOWN_IDS else ""
    return [f"{what} {shown}{more}"] if runs else []

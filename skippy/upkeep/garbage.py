"""What a store could do without: how much it is, and what protects the rest.

Kept is what an alias points at, what a report rests on, what other runs were built on, and what is young. Orphans,
finished workspaces and copies of a server's files go at any age, for nothing leads to them or they can be had again.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from skippy.errors import MissingRunError, SkippyError
from skippy.resolve.workspaces import idle_workspaces, is_done, remove_workspace
from skippy.stores.cards import CARD_FILE
from skippy.stores.documents import parse_object
from skippy.tracking.artifacts import cache_root
from skippy.tracking.drafts import WEIGHTS
from skippy.tracking.orphans import bytes_under, find_orphans, sweep_orphans
from skippy.tracking.refusals import translated_errors
from skippy.tracking.registry import ModelVersionRecord
from skippy.tracking.tags import Tag
from skippy.tracking.tracker import Tracker

DAY_SECONDS = 86_400.0
SHOWN_IDS = 3
RUN_LIMIT = 50_000
"""The store gives no more at once."""
REPORT_FILE = "report/report.json"


@dataclass(frozen=True)
class Item:
    """Something that may go."""

    kind: str  # in a word or two
    where: str  # version or directory
    nbytes: int | None  # its size; None where it lies on a server
    kept_by: tuple[str, ...]  # what protects it, a phrase each; empty: it can go
    what: str  # more of what it is
    remove: Callable[[], object] = field(repr=False, compare=False)  # deletes it for good

    @property
    def can_go(self) -> bool:
        """Whether nothing protects it."""
        return not self.kept_by

    def facts(self) -> dict[str, Any]:
        """As plain facts."""
        shown = {name: value for name, value in vars(self).items() if name != "remove"}
        return shown | {"can_go": self.can_go}


def find_garbage(tracker: Tracker, *, days: float) -> list[Item]:
    """Everything that may go, and what is like it but protected.

    Args:
        days: versions, unfinished work and cached copies younger than this are kept.
    """
    return [*_versions(tracker, days), *_orphans(tracker), *_workspaces(tracker, days), *_cached(days)]


def remove(items: list[Item]) -> tuple[list[Item], list[tuple[Item, SkippyError]]]:
    """Delete what can go; what went, and what was refused, with the reason."""
    gone, refused = [], []
    for item in items:
        if not item.can_go:
            continue
        try:
            with translated_errors(item.where):
                item.remove()
        except SkippyError as error:
            refused.append((item, error))
        else:
            gone.append(item)
    return gone, refused


def _versions(tracker: Tracker, days: float) -> Iterator[Item]:
    reports = _reports(tracker)
    for name in tracker.registry.names():
        for version in tracker.registry.versions(name):
            if "adapter_digest" not in version.tags:
                continue  # of somebody else
            content = tracker.models.read_file(version, f"{WEIGHTS}/{CARD_FILE}")
            digest = _digest(content)
            kept = [f"alias {alias}" for alias in version.aliases]
            kept += _named(
                "the report of compare run", reports.get(version.uri, set()) | reports.get(digest, set())
            )
            kept += _named("it is the base of run", _built_on(tracker, version, digest))
            kept += _young(version.created / 1000, days)
            path = _place(tracker, version)
            yield Item(
                "version",
                version.uri,
                bytes_under(path) if path else None,
                tuple(kept),
                f"{version.tags.get('variant', '')} merged by run {version.run_id[:8]}",
                partial(tracker.promotions.remove_version, version.name, version.version),
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


def _orphans(tracker: Tracker) -> Iterator[Item]:
    for orphan in find_orphans(tracker.store):
        remove = (
            partial(sweep_orphans, tracker.store, [orphan])
            if orphan.is_safe
            else partial(shutil.rmtree, orphan.where, ignore_errors=True)
        )
        yield Item("orphaned weights", orphan.where, orphan.nbytes, (), orphan.what, remove)


def _workspaces(tracker: Tracker, days: float) -> Iterator[Item]:
    for folder in idle_workspaces(tracker.store):
        kept = () if is_done(folder) else _young(_newest(folder), days, "a stage goes on here")
        what = "finished" if is_done(folder) else "unfinished work"
        yield Item(
            "workspace",
            str(folder),
            bytes_under(folder),
            tuple(kept),
            what,
            partial(remove_workspace, folder),
        )


def _cached(days: float) -> Iterator[Item]:
    for kind in ("models", "runs"):
        for folder in sorted((cache_root() / kind).glob("*/")):
            kept = tuple(_young(_newest(folder), days))
            what = f"copy of a server's {kind.removesuffix('s')}; fetched again when it is needed"
            drop = partial(shutil.rmtree, folder, ignore_errors=True)
            yield Item("cache", str(folder), bytes_under(folder), kept, what, drop)


def _newest(folder: Path) -> float:
    """When something under a directory last changed, seconds since the epoch."""
    return max(path.lstat().st_mtime for path in (folder, *folder.rglob("*")))


def _young(since: float, days: float, why: str = "") -> list[str]:
    age = (time.time() - since) / DAY_SECONDS
    return [f"{why + ', ' if why else ''}{age:.1f} days old"] if age < days else []


def _named(what: str, runs: set[str]) -> list[str]:
    shown = ", ".join(run_id[:8] if len(run_id) == 32 else run_id for run_id in sorted(runs)[:SHOWN_IDS])
    more = f" and {len(runs) - SHOWN_IDS} more" if len(runs) > SHOWN_IDS else ""
    return [f"{what} {shown}{more}"] if runs else []

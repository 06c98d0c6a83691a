"""Where the gigabytes are: by version, run, workspace and cache; a file of several names counts once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from skippy.resolve.workspaces import idle_workspaces
from skippy.tracking.orphans import bytes_under, logged_models
from skippy.tracking.places import local_path
from skippy.tracking.tracker import Tracker
from skippy.upkeep.findings import RUN_LIMIT, all_versions, cached_copies

MODELS = "models"
"""Folder of an experiment's artifacts in which MLflow keeps logged models; the others are runs."""

Row = dict[str, Any]


def measure(tracker: Tracker) -> list[Row]:
    """Everything of the store and of this package on this machine's disk, the largest first.

    Where the store is a server, what it keeps is not here; the cache of its files is.

    Returns:
        Rows of `kind` (model, run, store, workspace, cache), `what`, `where` and `nbytes`.
    """
    seen: set[tuple[int, int]] = set()
    rows = [
        {"kind": kind, "what": what, "where": str(path), "nbytes": bytes_under(path, seen)}
        for kind, what, path in _places(tracker)
    ]
    return sorted((row for row in rows if row["nbytes"]), key=lambda row: -row["nbytes"])


def totals(rows: list[Row]) -> dict[str, int]:
    """Bytes by kind, the largest first."""
    sums: dict[str, int] = {}
    for row in rows:
        sums[row["kind"]] = sums.get(row["kind"], 0) + row["nbytes"]
    return dict(sorted(sums.items(), key=lambda item: -item[1]))


def _places(tracker: Tracker) -> Iterator[tuple[str, str, Path]]:
    root = local_path(tracker.store.artifact_location)
    if root is not None and not tracker.store.is_server:
        yield from _models(tracker, root)
        yield from _runs(tracker, root)
        for path in sorted(root.parent.glob("mlflow.db*")):
            yield "store", "database", path
    idle = set(idle_workspaces(tracker.store))
    for folder in sorted(tracker.store.unfinished.glob("*/")):
        yield "workspace", "idle" if folder in idle else "in use, or on its way", folder
    for what, folder in cached_copies():
        yield "cache", what, folder


def _models(tracker: Tracker, root: Path) -> Iterator[tuple[str, str, Path]]:
    versions = {version.model_id: version for version in all_versions(tracker)}
    known = {model.model_id: model for model in logged_models(tracker.store)}
    for folder in sorted((root / MODELS).glob("*/")):
        version, model = versions.get(folder.name), known.get(folder.name)
        if version is not None:
            aliases = f" ({', '.join(version.aliases)})" if version.aliases else ""
            yield "model", f"{version.uri}{aliases} {version.tags.get('variant', '')}".rstrip(), folder
        else:
            yield "model", f"{model.name}, not registered" if model else "unknown", folder


def _runs(tracker: Tracker, root: Path) -> Iterator[tuple[str, str, Path]]:
    known = {record.run_id: record for record in tracker.runs.newest(RUN_LIMIT)}
    for folder in sorted(root.glob("*/")):
        if folder.name == MODELS:
            continue
        record = known.get(folder.name)
        yield "run", f"{record.stage} {record.name}" if record else "deleted or foreign", folder

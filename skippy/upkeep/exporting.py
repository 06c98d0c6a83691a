"""A registered model as a directory that needs no store: weights, adapter, card, every byte checked."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

from skippy.core.variants import VARIANTS, is_untrained
from skippy.errors import CheckpointError, MissingRunError
from skippy.progress import Progress
from skippy.resolve.files import ALIASES
from skippy.stores.atomic import new_directory
from skippy.stores.cards import verify_checkpoint
from skippy.stores.changes import read_change
from skippy.tracking.drafts import WEIGHTS
from skippy.tracking.models import CARD
from skippy.tracking.orphans import bytes_under
from skippy.tracking.registry import ModelVersionRecord, parse_model_uri
from skippy.tracking.tracker import Tracker

ADAPTER = "adapter"
ORIGIN = "export.json"
ROOM = 1.02


@dataclass(frozen=True)
class Export:
    """What was written."""

    path: Path  # the directory
    uri: str  # `models:/name/version`
    digest: str  # of the tensors, the same as that of the version
    adapter: str  # `adapter`, or why there is none
    nbytes: int  # of everything


def export_model(tracker: Tracker, uri: str, destination: Path) -> Export:
    """Copy a registered version out of the store; whole, or not at all.

    The copy is hashed, not the original: what is damaged in the store, or on the way, is refused alike.

    Args:
        uri: `models:/skippy@champion`, `champion` or `models:/skippy/3`.
        destination: must not exist, or be an empty directory.

    Raises:
        MissingRunError: no such version, or its weights are gone.
        CheckpointError: the destination is taken, the disk too full, or a file is not the one that was written.
    """
    version = tracker.registry.lookup(parse_model_uri(ALIASES.get(uri, uri)))
    weights = tracker.models.resolve(version.uri).path
    adapter, reason = _find_adapter(tracker, version)
    nbytes = bytes_under(weights) + (bytes_under(adapter) if adapter else 0)
    with new_directory(destination, needed_bytes=int(nbytes * ROOM)) as folder:
        _copy(weights, folder / WEIGHTS)
        card = verify_checkpoint(folder / WEIGHTS)
        if adapter is not None:
            _copy(adapter, folder / ADAPTER)
            _require_equal(folder / ADAPTER, str(card["adapter_digest"]))
        text = tracker.models.read_file(version, CARD)
        if text is not None:
            (folder / CARD).write_bytes(text)
        origin = {
            "uri": version.uri,
            "tags": dict(version.tags),
            "digest": card["digest"],
            "base_digest": card["base_digest"],
            "adapter_digest": card["adapter_digest"],
            "adapter": reason,
        }
        (folder / ORIGIN).write_text(json.dumps(origin, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        total = bytes_under(folder)
    return Export(destination, version.uri, str(card["digest"]), reason, total)


def _find_adapter(tracker: Tracker, version: ModelVersionRecord) -> tuple[Path | None, str]:
    """The adapter that was merged, and what to call it; None and the reason where no run keeps it."""
    train_run, step = version.tags.get("train_run", ""), version.tags.get("step", "last")
    rule = VARIANTS.get(version.tags.get("variant", ""))
    if not train_run:
        is_prompt = rule is not None and is_untrained(rule.name)
        return (
            None,
            "none: a prompt has no weights" if is_prompt else "none: it was merged from outside the store",
        )
    # An arm of doses has one update, whatever the dose it was merged at.
    is_whole = step == "last" or (rule is not None and rule.is_dosed)
    path = ADAPTER if is_whole else f"adapters/step_{int(step):06d}"
    try:
        return tracker.artifacts.path(train_run, path), ADAPTER
    except MissingRunError:
        return None, f"none: train run {train_run} no longer keeps {path}"


def _copy(source: Path, target: Path) -> None:
    """Copy a directory file by file; the copies are the person's own and can be written."""
    files = sorted(path for path in source.rglob("*") if path.is_file())
    with Progress(f"export: {target.name}", len(files)) as bar:
        for file in files:
            to = target / file.relative_to(source)
            to.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, to)
            bar.advance(1, file=file.name)


def _require_equal(folder: Path, wanted: str) -> None:
    found = read_change(folder).digest()
    if found != wanted:
        raise CheckpointError(
            "The adapter is not the one that was merged; nothing was exported.",
            where=str(folder),
            expected=f"adapter digest {wanted}",
            found=f"adapter digest {found}",
            next_step="skippy doctor --rehash looks at the version; merge again",
        )

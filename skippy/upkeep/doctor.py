"""What is wrong with a store, what to do about it, and the repairs that can lose nothing.

Every check asks the room that knows: runs whose process is gone are those that the next stage would mark, orphans
those that the next merge would sweep, deliveries those that the next stage would make.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

from skippy.errors import CheckpointError, SkippyError
from skippy.progress import Progress
from skippy.redaction import redact
from skippy.stores.cards import verify_checkpoint
from skippy.tracking.connection import named_uri
from skippy.tracking.exclusion import drop_claim, stale_claims
from skippy.tracking.orphans import bytes_under
from skippy.tracking.outbox import deliver_left_behind, left_behind
from skippy.tracking.promotions import CHAMPION
from skippy.tracking.registry import ModelVersionRecord
from skippy.tracking.schema import other_mlflow
from skippy.tracking.tracker import Tracker
from skippy.upkeep.findings import BY_FIX, Finding, all_versions, leftovers


def examine(tracker: Tracker, *, rehash: bool = False) -> list[Finding]:
    """Everything that is wrong with a store or left over in it, in the order in which it should be mended.

    Args:
        rehash: hash the weights of every version again and compare them with their card; minutes for large models.
    """
    return [
        *_undelivered(tracker),
        *_stale_runs(tracker),
        *_promotions(tracker),
        *_claims(tracker),
        *_versions(tracker, rehash),
        *_aliases(tracker),
        *leftovers(tracker),
    ]


def examine_unopened() -> list[Finding]:
    """What can be said of the store in force before it is opened: which mlflow wrote it."""
    uri = named_uri()
    other = other_mlflow(uri)
    if other is None:
        return []
    what = f"The store and the installed mlflow differ: expected {other.expected}, found {other.found}."
    return [Finding("other mlflow", what, redact(uri), other.next_step, is_fault=other.is_fault)]


def _undelivered(tracker: Tracker) -> Iterator[Finding]:
    for outbox in left_behind(tracker.store):
        yield Finding(
            "undelivered",
            "An ended process kept what the store could not take, and nobody has delivered it since.",
            f"run {outbox.run_id}, {outbox.folder}",
            f"{BY_FIX} delivers it, as the next stage does",
            nbytes=bytes_under(outbox.folder),
            act=partial(deliver_left_behind, tracker.store),
        )


def _stale_runs(tracker: Tracker) -> Iterator[Finding]:
    for record, reason in tracker.processes.stale():
        yield Finding(
            "stale run",
            f"The run says RUNNING, but {reason}.",
            f"{record.stage} run {record.run_id} {record.name!r}",
            f"{BY_FIX} marks it KILLED; start the stage again to go on where it was",
            act=tracker.processes.reap,
        )


def _promotions(tracker: Tracker) -> Iterator[Finding]:
    for name in tracker.registry.names():
        event = tracker.promotions.interrupted(name)
        if event is not None:
            yield Finding(
                "half a promotion",
                f"The {event.action} of version {event.version} was begun by {event.by} at {event.at} and not ended.",
                f"{name}@{CHAMPION}",
                f"{BY_FIX} finishes it where the alias has moved, and drops it where it has not",
                act=partial(tracker.promotions.settle, name),
            )


def _claims(tracker: Tracker) -> Iterator[Finding]:
    for key, process in stale_claims(tracker.store).items():
        yield Finding(
            "stale claim",
            f"Process {process} is gone and still holds a place in a queue.",
            f"tag {key} of the experiment",
            f"{BY_FIX} takes it away; others pass it over anyway",
            act=partial(drop_claim, tracker.store, key),
        )


def _versions(tracker: Tracker, rehash: bool) -> Iterator[Finding]:
    present = []
    for version in all_versions(tracker):
        try:
            tracker.models.require_weights(version.uri)
            present.append(version)
        except SkippyError as error:
            yield Finding(
                "version without weights",
                f"{error.what}{_protected(version)}",
                version.uri,
                f"merge run {version.run_id or 'unknown'} made it: merge again; promote another version where an alias "
                "points here",
            )
    if rehash:
        yield from _altered(tracker, present)


def _altered(tracker: Tracker, versions: list[ModelVersionRecord]) -> Iterator[Finding]:
    ours = [version for version in versions if "adapter_digest" in version.tags]
    places = [(version, tracker.models.resolve(version.uri).path) for version in ours]
    files = sum(len(list(path.rglob("*"))) for _, path in places)
    with Progress("doctor: hashing", files) as bar:
        for version, path in places:
            try:
                card = verify_checkpoint(path, lambda nbytes: bar.advance(1, file=f"{nbytes / 1e9:.2f} GB"))
                _require_own(card, version, str(path))
            except CheckpointError as error:
                yield Finding(
                    "altered weights",
                    f"{error.what}{_protected(version)} Expected {error.expected}; found {error.found}.",
                    f"{version.uri}, {path}",
                    "restore the files from a copy, or merge again; do not promote or serve it",
                )


def _require_own(card: dict[str, Any], version: ModelVersionRecord, where: str) -> None:
    wanted = version.tags["adapter_digest"]
    # The card of a prompt held the character's digest up to 0.3.0.
    if card.get("adapter_digest") not in (wanted, version.tags.get("character_digest")):
        raise CheckpointError(
            "The weights are whole, but not those of this version.",
            where=where,
            expected=f"adapter digest {wanted}",
            found=f"adapter digest {card.get('adapter_digest')}",
            next_step="merge again",
        )


def _aliases(tracker: Tracker) -> Iterator[Finding]:
    for name in tracker.registry.names():
        there = {version.version for version in tracker.registry.versions(name)}
        for alias, number in tracker.registry.aliases(name).items():
            if number not in there:
                yield Finding(
                    "alias of nothing",
                    f"The alias points at version {number}, which is not there.",
                    f"{name}@{alias}",
                    "promote a version, or delete the alias in MLflow's UI",
                )


def _protected(version: ModelVersionRecord) -> str:
    return f" The alias {', '.join(version.aliases)} points at it." if version.aliases else ""

"""What is wrong with a store, what to do about it, and the repairs that can lose nothing.

Every check asks the room that knows: runs whose process is gone are those that the next stage would mark, orphans
those that the next merge would sweep, deliveries those that the next stage would make.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from skippy.errors import CheckpointError, SkippyError
from skippy.progress import Progress
from skippy.redaction import redact
from skippy.resolve.workspaces import idle_workspaces, is_done
from skippy.stores.cards import verify_checkpoint
from skippy.tracking.connection import named_uri
from skippy.tracking.exclusion import drop_claim, stale_claims
from skippy.tracking.orphans import bytes_under, find_orphans, sweep_orphans
from skippy.tracking.outbox import deliver_left_behind, left_behind
from skippy.tracking.promotions import CHAMPION
from skippy.tracking.refusals import translated_errors
from skippy.tracking.registry import ModelVersionRecord
from skippy.tracking.schema import OtherMlflow, other_mlflow
from skippy.tracking.tracker import Tracker

Repair = Callable[[], object]
BY_FIX = "skippy doctor --fix"


@dataclass(frozen=True)
class Finding:
    """Something that a person should know of a store."""

    kind: str  # in two or three words
    what: str  # a sentence
    where: str  # run, version, alias or directory
    next_step: str  # what to do about it
    is_fault: bool = True  # whether something is wrong; else it is only worth knowing
    nbytes: int | None = None  # what it holds of this machine's disk; None where that is not the point
    # mends it and can lose nothing; None where a person must decide
    repair: Repair | None = field(default=None, repr=False, compare=False)

    def facts(self) -> dict[str, Any]:
        """As plain facts."""
        shown = {name: value for name, value in vars(self).items() if name != "repair"}
        return shown | {"is_mendable": self.repair is not None}


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
        *_orphans(tracker),
        *_workspaces(tracker),
    ]


def mend(findings: list[Finding]) -> tuple[list[Finding], list[tuple[Finding, SkippyError]]]:
    """Carry out every repair; those mended, and those whose repair was refused, with the reason."""
    mended, refused = [], []
    for finding in findings:
        if finding.repair is None:
            continue
        try:
            with translated_errors(finding.where):
                finding.repair()
        except SkippyError as error:
            refused.append((finding, error))
        else:
            mended.append(finding)
    return mended, refused


def examine_unopened() -> list[Finding]:
    """What can be said of the store in force before it is opened: which mlflow wrote it."""
    uri = named_uri()
    other = other_mlflow(uri)
    return [] if other is None else [_of_other_mlflow(uri, other)]


def _of_other_mlflow(uri: str, other: OtherMlflow) -> Finding:
    what = f"The store and the installed mlflow differ: expected {other.expected}, found {other.found}."
    return Finding("other mlflow", what, redact(uri), other.next_step, is_fault=other.is_fault)


def _undelivered(tracker: Tracker) -> Iterator[Finding]:
    for outbox in left_behind(tracker.store):
        yield Finding(
            "undelivered",
            "An ended process kept what the store could not take, and nobody has delivered it since.",
            f"run {outbox.run_id}, {outbox.folder}",
            f"{BY_FIX} delivers it, as the next stage does",
            nbytes=bytes_under(outbox.folder),
            repair=partial(deliver_left_behind, tracker.store),
        )


def _stale_runs(tracker: Tracker) -> Iterator[Finding]:
    for record, reason in tracker.processes.stale():
        yield Finding(
            "stale run",
            f"The run says RUNNING, but {reason}.",
            f"{record.stage} run {record.run_id} {record.name!r}",
            f"{BY_FIX} marks it KILLED; start the stage again to go on where it was",
            repair=tracker.processes.reap,
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
                repair=partial(tracker.promotions.settle, name),
            )


def _claims(tracker: Tracker) -> Iterator[Finding]:
    for key, process in stale_claims(tracker.store).items():
        yield Finding(
            "stale claim",
            f"Process {process} is gone and still holds a place in a queue.",
            f"tag {key} of the experiment",
            f"{BY_FIX} takes it away; others pass it over anyway",
            repair=partial(drop_claim, tracker.store, key),
        )


def _versions(tracker: Tracker, rehash: bool) -> Iterator[Finding]:
    present = []
    for version in _all_versions(tracker):
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


def _orphans(tracker: Tracker) -> Iterator[Finding]:
    for orphan in find_orphans(tracker.store):
        yield Finding(
            "orphaned weights",
            f"Nothing leads to {orphan.what}.",
            orphan.where,
            f"{BY_FIX} removes it, as the next merge does"
            if orphan.is_safe
            else "skippy gc --yes removes it",
            nbytes=orphan.nbytes,
            repair=partial(sweep_orphans, tracker.store, [orphan]) if orphan.is_safe else None,
        )


def _workspaces(tracker: Tracker) -> Iterator[Finding]:
    for folder in idle_workspaces(tracker.store):
        if is_done(folder):
            yield Finding(
                "leftover workspace",
                "Its run is FINISHED; only its removal was cut short.",
                str(folder),
                f"{BY_FIX} removes it",
                nbytes=bytes_under(folder),
                repair=partial(shutil.rmtree, folder, ignore_errors=True),
            )
        elif folder.name.startswith("serve-"):
            yield Finding(
                "log of a server",
                "A server was killed; nothing goes on from here.",
                str(folder),
                "read why, then let skippy gc remove it",
                is_fault=False,
                nbytes=bytes_under(folder),
            )
        else:
            yield Finding(
                "unfinished work",
                "A stage stopped here and goes on here when it is started again.",
                str(folder),
                "start the stage again, or let skippy gc show it",
                is_fault=False,
                nbytes=bytes_under(folder),
            )


def _all_versions(tracker: Tracker) -> Iterator[ModelVersionRecord]:
    for name in tracker.registry.names():
        yield from tracker.registry.versions(name)


def _protected(version: ModelVersionRecord) -> str:
    return f" The alias {', '.join(version.aliases)} points at it." if version.aliases else ""

"""Something of a store that a person should know of, and what can be done about it; what doctor, gc and disk share."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from skippy.errors import SkippyError
from skippy.resolve.workspaces import idle_workspaces, is_done, remove_workspace, stage_of
from skippy.tracking.artifacts import cache_root
from skippy.tracking.orphans import bytes_under, find_orphans, sweep_orphans
from skippy.tracking.refusals import translated_errors
from skippy.tracking.registry import ModelVersionRecord
from skippy.tracking.tracker import Tracker

BY_FIX = "skippy doctor --fix"
RUN_LIMIT = 50_000
"""The store gives no more at once."""


@dataclass(frozen=True)
class Finding:
    """What a person should know of a store, and the act that mends or removes it."""

    kind: str  # in two or three words
    what: str  # a sentence
    where: str  # run, version, alias or directory
    next_step: str = ""  # what to do about it
    is_fault: bool = True  # whether something is wrong; else it is only worth knowing
    nbytes: int | None = (
        None  # what it holds of this machine's disk; None where that is not known or not the point
    )
    kept_by: tuple[str, ...] = ()  # what protects it, a phrase each
    is_safe: bool = True  # whether the act can lose nothing; else a person must ask for it
    # mends or removes it for good; None where only a person can
    act: Callable[[], object] | None = field(default=None, repr=False, compare=False)

    @property
    def can_go(self) -> bool:
        """Whether something can be done about it, and nothing protects it."""
        return self.act is not None and not self.kept_by

    def facts(self) -> dict[str, Any]:
        """As plain facts."""
        shown = {name: value for name, value in vars(self).items() if name != "act"}
        return shown | {"can_go": self.can_go, "is_mendable": self.can_go and self.is_safe}


def carry_out(findings: Iterable[Finding]) -> tuple[list[Finding], list[tuple[Finding, SkippyError]]]:
    """Do what can be done about each that nothing protects; what was done, and what was refused, with the reason."""
    done, refused = [], []
    for finding in findings:
        if finding.act is None or finding.kept_by:
            continue
        try:
            with translated_errors(finding.where):
                finding.act()
        except SkippyError as error:
            refused.append((finding, error))
        else:
            done.append(finding)
    return done, refused


def leftovers(tracker: Tracker) -> Iterator[Finding]:
    """What ended or killed processes left: weights that nothing leads to, and workspaces where nobody works."""
    for orphan in find_orphans(tracker.store):
        yield Finding(
            "orphaned weights",
            f"Nothing leads to {orphan.what}.",
            orphan.where,
            f"{BY_FIX} removes it, as the next merge does"
            if orphan.is_safe
            else "skippy gc --yes removes it",
            nbytes=orphan.nbytes,
            is_safe=orphan.is_safe,
            act=partial(sweep_orphans, tracker.store, [orphan])
            if orphan.is_safe
            else partial(shutil.rmtree, orphan.where, ignore_errors=True),
        )
    for folder in idle_workspaces(tracker.store):
        if is_done(folder):
            kind, what = "leftover workspace", "Its run is FINISHED; only its removal was cut short."
            step = f"{BY_FIX} removes it"
        elif stage_of(folder) == "serve":
            kind, what = "log of a server", "A server was killed; nothing goes on from here."
            step = "read why, then let skippy gc remove it"
        else:
            kind, what = "unfinished work", "A stage stopped here and goes on here when it is started again."
            step = "start the stage again, or let skippy gc remove it once it is old"
        yield Finding(
            *(kind, what, str(folder), step, is_done(folder), bytes_under(folder)),
            is_safe=is_done(folder),
            act=partial(remove_workspace, folder),
        )


def all_versions(tracker: Tracker) -> Iterator[ModelVersionRecord]:
    """Every version of every registered model."""
    for name in tracker.registry.names():
        yield from tracker.registry.versions(name)


def cached_copies() -> Iterator[tuple[str, Path]]:
    """What was fetched from servers to this machine: what it is, and where."""
    for kind in ("model", "run"):
        for folder in sorted((cache_root() / f"{kind}s").glob("*/")):
            yield f"copy of a server's {kind}", folder

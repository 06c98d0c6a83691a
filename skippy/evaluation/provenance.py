"""Where a report comes from: code, digests, and the commands that make it again. Not a stage: `compare` tells it."""

from __future__ import annotations

import importlib.metadata
import platform
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from skippy.characters.schema import Character
from skippy.commands import command
from skippy.resolve.bases import Base
from skippy.resolve.runs import walks_behind
from skippy.results import PromotionState, Provenance
from skippy.stores.problems import ProblemSet
from skippy.tracking.promotions import CHAMPION, PREVIOUS
from skippy.tracking.records import RunRecord
from skippy.tracking.tags import Tag
from skippy.tracking.tracker import Tracker

SAMPLES = "{samples}"
PACKAGES = ("mlflow", "torch", "transformers", "trl", "peft", "numpy", "scipy", "safetensors")


def gather_provenance(
    tracker: Tracker,
    own: RunRecord,
    base: Base,
    character: Character,
    problems: ProblemSet | None,
    records: Mapping[str, Sequence[RunRecord]],
    comparison_command: str,
) -> Provenance:
    """What a reader needs to trust the figures of run `own`, or to make them again."""
    behind = list(_runs_behind(tracker, records))
    svd = next((record for record in behind if record.stage == "svd"), None)
    return Provenance(
        experiment="skippy",
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        code_version=own.tags.get(Tag.CODE_VERSION, ""),
        is_dirty=own.tags.get(Tag.GIT_DIRTY) == "true",
        base_model=base.name,
        base_digest=base.digest,
        projector_digest=svd.tags.get(Tag.PROJECTOR_DIGEST, "") if svd else "",
        character=character.name,
        character_digest=character.digest,
        problem_source=records["base"][0].tags.get(Tag.PROBLEMS, "") if problems else "",
        problem_digest=problems.digest if problems else "",
        problem_count=len(problems.problems) if problems else 0,
        versions={"python": platform.python_version()}
        | {name: importlib.metadata.version(name) for name in PACKAGES},
        commands=_commands(tracker, records, behind),
        base_licence=read_licence(base.path),
        runs_page=tracker.store.run_page,
        rerun=_rerun(tracker, records),
        comparison_command=comparison_command,
    )


def read_licence(folder: Path) -> str:
    """The licence stated beside a checkpoint: `license:` in its README, else the first line of a LICENSE file."""
    readme = folder / "README.md"
    if readme.is_file():
        stated = re.search(
            r"^license:\s*(\S.*?)\s*$", readme.read_text("utf-8", "replace")[:4000], re.MULTILINE
        )
        if stated:
            return stated[1]
    for path in sorted(folder.glob("LICEN[SC]E*")):
        lines = [
            line.strip() for line in path.read_text("utf-8", "replace")[:4000].splitlines() if line.strip()
        ]
        if lines:
            return lines[0]
    return ""


def promotion_state(name: str, tracker: Tracker) -> PromotionState:
    """The aliases as they are, and who set the champion's, when and why."""
    champion, previous = tracker.registry.alias(name, CHAMPION), tracker.registry.alias(name, PREVIOUS)
    tags = champion.tags if champion else {}
    return PromotionState(
        champion=str(champion.version) if champion else "",
        previous=str(previous.version) if previous else "",
        who=tags.get("promoted_by", ""),
        when=tags.get("promoted_at", ""),
        why=tags.get("promotion_reason", ""),
    )


def _commands(
    tracker: Tracker, records: Mapping[str, Sequence[RunRecord]], behind: Sequence[RunRecord]
) -> tuple[str, ...]:
    """The one that made all evaluations, where one did; else that of every run, in the order they build."""
    parent = _parent(tracker, records)
    return tuple(
        command(record.stage, tracker.runs.config(record.run_id))
        for record in ([parent] if parent else behind)
    )


def _rerun(tracker: Tracker, records: Mapping[str, Sequence[RunRecord]]) -> tuple[str, ...]:
    """What evaluates every arm again with `{samples}` samples a problem: `main` where it made them, else `eval`."""
    parent = _parent(tracker, records)
    made = [parent] if parent else [record for runs in records.values() for record in runs]
    return tuple(
        command(record.stage, tracker.runs.config(record.run_id) | {"samples": SAMPLES}).replace(
            f"'samples={SAMPLES}'", f"samples={SAMPLES}"
        )
        for record in made
    )


def _parent(tracker: Tracker, records: Mapping[str, Sequence[RunRecord]]) -> RunRecord | None:
    """The run of `main` that made all evaluations, None where they were made one by one."""
    parents = {record.parent for runs in records.values() for record in runs}
    parent = tracker.runs.read(only) if len(parents) == 1 and (only := next(iter(parents))) else None
    return parent if parent and parent.stage == "main" else None


def _runs_behind(tracker: Tracker, records: Mapping[str, Sequence[RunRecord]]) -> Iterator[RunRecord]:
    """Every run that the evaluations rest on and themselves, once each, earlier stages first."""
    evaluations = [record for runs in records.values() for record in runs]
    merges = [tracker.runs.read(record.link("merge")) for record in evaluations if record.link("merge")]
    trainings = [tracker.runs.read(record.link("train")) for record in evaluations if record.link("train")]
    sources = [
        tracker.runs.read(record.link(stage))
        for stage in ("svd", "subspace")
        for record in trainings
        if record.link(stage)
    ]
    walks = [walk for record in merges for walk in walks_behind(record, tracker)]
    ordered = (*sources, *trainings, *walks, *merges, *evaluations)
    yield from {record.run_id: record for record in ordered}.values()

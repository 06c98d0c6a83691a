"""The runs that earlier stages left, by id or the newest of the right kind."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from functools import partial
from operator import attrgetter

from skippy.lab.paths import LAB
from skippy.resolve.bases import Base
from skippy.tracking.runs import NOTHING, RunRecord
from skippy.tracking.tags import Tag
from skippy.tracking.tracker import Tracker
from skippy.words import split_list

logger = logging.getLogger(__name__)


def find_run(
    tracker: Tracker,
    stage: str,
    run_id: str = "",
    *,
    base: Base | None = None,
    variant: str | None = None,
    character: str | None = None,
    extra_tags: Mapping[str, str] = NOTHING,
    make_with: Mapping[str, str] = NOTHING,
) -> RunRecord:
    """The run a parameter names, or the newest finished one of the right kind; says which.

    A run that reused an earlier one leads to it. Where there is none, the command that makes one is shown with the
    base, where that is not the lab, and with `make_with`.
    """
    if run_id:
        record = tracker.runs.get(run_id, stage=stage)
    else:
        of_base = {"base_model": base.name} if base and base.name != LAB else {}
        record = tracker.runs.find(
            stage,
            base_digest=base.digest if base else None,
            variant=variant,
            character=character,
            extra_tags=extra_tags,
            make_with={**of_base, **make_with},
        )
    while Tag.REUSES in record.tags:
        record = tracker.runs.get(record.tags[Tag.REUSES], stage=stage)
    if not run_id:
        logger.info("using %s run %s (%s)", stage, record.run_id, record.name)
    return record


def find_runs(tracker: Tracker, stage: str, text: str, where: str) -> tuple[RunRecord, ...]:
    """The finished runs that parameter `where` lists, comma-separated; none twice, however its id is shortened."""
    return split_list(text, where, partial(find_run, tracker, stage), key=attrgetter("run_id"))


def walks_behind(merge: RunRecord, tracker: Tracker) -> list[RunRecord]:
    """The evaluations of checkpoints by which a merge chose its step; none where it was not matched."""
    return [tracker.runs.read(run_id) for run_id in Tag.WALK_RUNS.read(merge.tags) or ()]

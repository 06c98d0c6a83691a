"""The same work, told by one digest: what a restarted pipeline need not do again."""

from __future__ import annotations

import hashlib
import json

from skippy.tracking.runs import RunRecord
from skippy.tracking.tags import Tag
from skippy.tracking.tracker import Tracker

WORK: str = Tag.WORK
"""Tag of a run: digest of everything that decides its result."""


def work_digest(*parts: str) -> str:
    """One digest for what makes two runs interchangeable: stage, digests of its inputs, settings."""
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]


def find_equal_run(tracker: Tracker, stage: str, work: str) -> RunRecord | None:
    """The newest finished run that did this very work; None where it has to be done."""
    return next(iter(tracker.runs.find_all(stage, extra_tags={WORK: work})), None)


def finished_jobs(tracker: Tracker, stage: str, work: str) -> dict[str, str]:
    """What earlier pipelines of the very same work have finished: job → run id, the newest of each.

    Args:
        tracker: where they are.
        stage: of the pipeline, `main`.
        work: its `work_digest`; everything that decides what its jobs do must be in it.
    """
    parents = {run.run_id for run in tracker.runs.find_all(stage, extra_tags={WORK: work}, finished=False)}
    found: dict[str, str] = {}
    for run in tracker.runs.children(parents):
        job = Tag.JOB.read(run.tags)
        if job and run.status == "FINISHED":
            found.setdefault(job, run.run_id)
    return found

"""The same work, told by one digest: what a restarted pipeline need not do again."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Mapping

from skippy.errors import MissingRunError, SkippyError
from skippy.resolve.bases import Base
from skippy.resolve.runs import find_run
from skippy.tracking.runs import RunRecord
from skippy.tracking.stage_run import StageRun
from skippy.tracking.tags import Tag
from skippy.tracking.tracker import Tracker

logger = logging.getLogger(__name__)


def work_digest(*parts: object) -> str:
    """One digest for what makes two runs interchangeable: digests of inputs, settings."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:32]


def find_equal_run(
    tracker: Tracker,
    stage: str,
    work: str | Mapping[str, str],
    check: Callable[[RunRecord], object],
    *,
    base: Base | None = None,
) -> RunRecord | None:
    """The newest finished run that did this very work, if what it made is still there.

    Args:
        work: from `work_digest`, the digest of the code that decides it being one of its parts; or all the tags that
            make two runs of one base interchangeable.
        check: raises `SkippyError` where what the run made is gone or damaged; then the work is done again.
    """
    try:
        found = find_run(
            tracker, stage, base=base, extra_tags={Tag.WORK: work} if isinstance(work, str) else work
        )
        check(found)
    except MissingRunError:
        return None
    except SkippyError as error:
        logger.warning("%s: an earlier run cannot be used, so the work is done again. %s", stage, error)
        return None
    return found


def take_over(found: RunRecord, stage: StageRun, tracker: Tracker, again: str = "reuse=false") -> None:
    """Let a run say that an earlier one did its work, and what came of it; whoever is given it is led there.

    The figures stand in its description and not among its metrics, where MLflow's own searches and groups would count
    one piece of work twice.
    """
    logger.info(
        "%s: run %s has done exactly this already; %s does it again", found.stage, found.run_id, again
    )
    stage.set_tags({Tag.REUSES: found.run_id})
    page = tracker.store.run_page.replace("{run}", found.run_id)
    rows = [f"| {name} | {value:.6g} |" for name, value in sorted(found.metrics.items())]
    table = ["", "", "| its metric | last value |", "|---|---:|", *rows] if rows else []
    told = f"Nothing to do: run [{found.name} ({found.run_id})]({page}) did exactly this, and has curves and artifacts."
    stage.describe(note="\n".join([told, *table]))

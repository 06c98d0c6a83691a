"""Stored evaluations that may serve as positive controls: of the same base, problems, samples and sampling."""

from __future__ import annotations

from collections.abc import Collection
from itertools import islice

from skippy.errors import ReportError
from skippy.evaluation.equality import read_facts, unlike
from skippy.resolve.bases import Base
from skippy.resolve.runs import find_run
from skippy.tracking.records import RunRecord
from skippy.tracking.tags import Tag
from skippy.tracking.tracker import Tracker

MOST = 20
"""Controls tried besides the one named: those with the lowest scores."""
SCORE = "aime/avg_at_k"


def find_controls(
    control: str, tracker: Tracker, base: Base, reference: RunRecord, taken: Collection[RunRecord]
) -> list[RunRecord]:
    """The control that a person names, and the most damaging evaluations there are, whatever their character.

    Args:
        reference: the base's evaluation; a control was asked exactly like it.
        taken: what is compared anyway; the same weights asked or merged once more are no other model.

    Raises:
        ReportError: the one named was asked otherwise, or is of another base.
    """
    asked = read_facts(tracker, reference).asked
    named = [find_run(tracker, "eval", control)] if control else []
    for record in named:
        wrong = unlike(read_facts(tracker, record).asked, asked)
        if record.base_digest != base.digest:
            wrong = [f"base {record.base_digest[:16]} and not {base.digest[:16]}", *wrong]
        if wrong:
            raise ReportError(
                "The control was not asked like the base.",
                where=f"control={record.run_id} {record.name!r}",
                expected=f"base, problems, samples and sampling of eval run {reference.run_id}",
                found="; ".join(wrong),
                next_step="evaluate the control on the same problems with the same samples and sampling",
            )
    used = {record.run_id for record in (*taken, *named)}
    weights = {record.tags.get(Tag.MODEL_DIGEST) for record in taken} - {None}
    tags: dict[str, str] = {Tag.BASE_DIGEST: base.digest, Tag.SUBJECT: "model"}
    stored = tracker.runs.each("eval", extra_tags=tags, below=(SCORE, reference.metrics.get(SCORE, 1.0)))
    others = (record for record in stored if record.run_id not in used and record.variant != "base")
    found = (record for record in others if record.tags.get(Tag.MODEL_DIGEST) not in weights)
    alike = (record for record in found if not unlike(read_facts(tracker, record).asked, asked))
    return named + list(islice(alike, MOST))

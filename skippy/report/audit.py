"""Extraction audit: how every sample's answer was read, or why not."""

from __future__ import annotations

from collections import Counter

from skippy.report.canvas import Canvas, name_room
from skippy.report.numerals import percent
from skippy.results import Arm, Comparison

ORDER = (
    *("boxed", "answer_line", "out_of_range", "not_an_integer"),
    *("unbalanced_box", "unclosed_think", "no_answer"),
)
MEANING = {
    "boxed": "the last balanced box holds an integer 0–999",
    "answer_line": "no box; the last Answer: line holds it",
    "out_of_range": "what decides is an integer outside 0–999",
    "not_an_integer": "what decides is not one integer",
    "unbalanced_box": "a box was opened and never closed",
    "unclosed_think": "the text ends inside its thought",
    "no_answer": "neither a box nor an Answer: line",
    "not_a_number": "what decides is not one number",
    "not_mathematics": "what decides holds no expression",
}


def count_statuses(arm: Arm) -> dict[str, int]:
    """Status → samples over all seeds, known statuses in a fixed order, then any others."""
    counts: Counter[str] = Counter()
    for evaluation in arm.evaluations:
        counts.update(evaluation.statuses)
    names = [*ORDER, *sorted(set(counts) - set(ORDER))]
    return {name: counts[name] for name in names if counts[name]}


def audit_line(comparison: Comparison) -> str:
    """One sentence where every sample of every arm was read alike; empty where there is something to look at."""
    found = {status for arm in comparison.arms for status in count_statuses(arm)}
    if len(found) != 1:
        return ""
    (status,) = found
    return f"Every sample of every arm was read alike: {status} ({MEANING.get(status, status)})."


def draw_audit(comparison: Comparison, width: int) -> str | None:
    """One bar per arm, split by status; None where no statuses were kept."""
    arms = [(arm, count_statuses(arm)) for arm in comparison.arms]
    if not any(counts for _, counts in arms):
        return None
    canvas = Canvas(width, "Share of samples by extraction status")
    left, y = 24.0 + name_room(arm.label for arm in comparison.arms), 20.0
    room = width - left
    for position, (arm, counts) in enumerate(arms):
        total = sum(counts.values()) or 1
        canvas.text(left - 10, y + 16, arm.label, f"row-name arm-{arm.name}", "end")
        x = left
        for status, count in counts.items():
            share = count / total
            hint = f"{arm.label}: {status} {percent(share)} ({count} samples)"
            style = f"status-{status.replace('_', '-')}"
            canvas.rect(x, y, share * room - 1, 24, f"status {style}", hint=hint)
            canvas.text(x + 8, y + 16, _fit_label(status, share, share * room), "on-status")
            if position == 0 and share * room > 320:
                canvas.text(x, y - 6, MEANING.get(status, status), "note")
            x += share * room
        y += 34
    return canvas.finish(y)


def _fit_label(status: str, share: float, room: float) -> str:
    """The most that fits into a segment: status and share, the share alone, or nothing."""
    candidates = (f"{status} {percent(share)}", percent(share))
    return next((text for text in candidates if 7.6 * len(text) + 10 < room), "")

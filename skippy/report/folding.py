"""Panels that carry nothing, each as the one line that says so; the panel stays behind it, shut."""

from __future__ import annotations

from collections.abc import Sequence

from skippy.report.audit import audit_line
from skippy.report.flips import Flip, mean_shares
from skippy.report.numerals import percent, plain
from skippy.report.traits import mean_tokens
from skippy.report.wording import truncated_share
from skippy.results import Comparison

ALIKE_LENGTH, ALIKE_SHARE = 0.03, 0.005
"""Mean lengths within 3 %, and shares of cut samples within half a point, show nothing."""


def folded(
    comparison: Comparison, traits: dict[str, dict[str, float]], flips: Sequence[Flip]
) -> dict[str, str]:
    """Panel → its one line; panels that have something to show are not in it."""
    lines = {
        "audit": audit_line(comparison),
        "lengths": _lengths(comparison),
        "traits": _traits(traits),
        "trajectory": _trajectory(comparison),
        "rewards": _rewards(comparison),
        "heatmap": _heatmap(comparison, flips),
    }
    return {name: line for name, line in lines.items() if line}


def _lengths(comparison: Comparison) -> str:
    tokens = [mean_tokens(arm) for arm in comparison.arms]
    cut = [truncated_share(arm) for arm in comparison.arms]
    if max(tokens) - min(tokens) > ALIKE_LENGTH * max(tokens) or max(cut) - min(cut) > ALIKE_SHARE:
        return ""
    told = " / ".join(plain(value, 0) for value in tokens)
    return (
        f"Answers are as long in every arm ({told} tokens a sample), and as often cut ({percent(max(cut))})."
    )


def _traits(adjusted: dict[str, dict[str, float]]) -> str:
    found = [p for by_trait in adjusted.values() for p in by_trait.values()]
    if not found or min(found) < 0.05:
        return ""
    return f"No trait is shown to have changed in any arm (smallest adjusted p {min(found):.2f})."


def _trajectory(comparison: Comparison) -> str:
    points = [p for arm in comparison.variants for item in arm.evaluations for p in item.trajectory]
    if not points or any(not p.null_low <= p.ratio <= p.null_high for p in points):
        return ""
    return "No character delta leaves its null at any step."


def _rewards(comparison: Comparison) -> str:
    curves = [item.rewards for arm in comparison.variants for item in arm.evaluations if item.rewards]
    if not curves or any(len(set(curve.values())) > 1 for curve in curves):
        return ""
    return "No reward moved at any step."


def _heatmap(comparison: Comparison, flips: Sequence[Flip]) -> str:
    base, *others = (mean_shares(arm) for arm in comparison.arms)
    if flips or any(shares != base for shares in others):
        return ""
    return "Every problem was solved as often by every arm."

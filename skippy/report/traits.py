"""Trait profile and lengths: small dot plots, one row each."""

from __future__ import annotations

import numpy as np

from skippy.core.inference.seeds import non_inferiority_over_seeds
from skippy.core.variants import label_of
from skippy.report.canvas import Canvas, Scale, fit_scale, name_room, spread_labels
from skippy.report.numerals import bounds, percent, plain, signed
from skippy.report.wording import truncated_share
from skippy.results import Arm, Comparison

DIRECT_LABELS = 3
LINE_PIXELS = 18.0
CONFIDENCE = 0.975
"""Of each bound: two of them make the 95 % interval that is drawn."""


def trait_means(arm: Arm) -> dict[str, float]:
    """Trait → mean over prompts and seeds."""
    values: dict[str, list[float]] = {}
    for evaluation in arm.evaluations:
        for name, scores in (evaluation.banal.traits if evaluation.banal else {}).items():
            values.setdefault(name, []).append(float(np.mean(scores)))
    return {name: sum(means) / len(means) for name, means in values.items()}


def trait_intervals(arm: Arm) -> dict[str, tuple[float, float]]:
    """Trait → 95 % interval of its mean, over prompts and seeds; traits that not every seed has are left out."""
    scored = [item.banal for item in arm.evaluations if item.banal is not None]
    names = [
        name for name in (scored[0].traits if scored else {}) if all(name in item.traits for item in scored)
    ]
    tables = {name: np.asarray([item.traits[name] for item in scored]) for name in names}
    return {
        name: non_inferiority_over_seeds(table, 0.0, CONFIDENCE).interval
        for name, table in tables.items()
        if table.shape[1] > 1
    }


def draw_traits(comparison: Comparison, adjusted: dict[str, dict[str, float]], width: int) -> str | None:
    """Mean trait scores per arm with intervals; a filled dot changed against base (Holm-adjusted p < 0.05)."""
    means = {arm.name: trait_means(arm) for arm in comparison.arms}
    intervals = {arm.name: trait_intervals(arm) for arm in comparison.arms}
    names = list(dict.fromkeys(name for profile in means.values() for name in profile))
    if not names:
        return None
    canvas = Canvas(width, "Mean trait scores of each model on held-out everyday prompts")
    left, right = (96.0 if canvas.is_narrow else 130.0), width - 20.0
    values = [value for profile in means.values() for value in profile.values()]
    values += [end for found in intervals.values() for interval in found.values() for end in interval]
    scale = fit_scale([0.0, *values], left, right, pad=0.08)
    step = 7.0 if len(means) <= DIRECT_LABELS else 8.0
    row = step * len(means) + 14.0
    legend = _legend([label_of(name) for name in means], width)
    top = 34.0 + (LINE_PIXELS * legend[-1][1] if len(means) > DIRECT_LABELS else 0.0)
    bottom = top + row * len(names)
    canvas.x_axis(scale, top, bottom, "mean trait score", digits=1)
    canvas.line(scale(0), top, scale(0), bottom, "zero")
    for index, trait in enumerate(names):
        y = top + row * (index + 0.5)
        canvas.text(0, y + 4, trait, "label")
        present = {name: profile[trait] for name, profile in means.items() if trait in profile}
        canvas.line(scale(min(present.values())), y, scale(max(present.values())), y, "link")
        for position, (name, value) in enumerate(present.items()):
            shifted = y + step * (position - (len(present) - 1) / 2)
            p = adjusted.get(name, {}).get(trait)
            is_hollow = p is not None and p >= 0.05
            interval = intervals[name].get(trait)
            note = f" ({bounds(interval, 2)})" if interval else ""
            note += "" if p is None else f", adjusted p {p:.2g}"
            style = f"{'hollow' if is_hollow else 'dot'} arm-{name}"
            if interval:
                canvas.line(scale(interval[0]), shifted, scale(interval[1]), shifted, f"whisker arm-{name}")
            hint = f"{label_of(name)} {trait} {signed(value, 2)}{note}"
            canvas.circle(scale(value), shifted, 4.5 if interval else 5.5, style, hint)
    if len(means) > DIRECT_LABELS:
        for name, (place, line) in zip(means, legend, strict=True):
            canvas.text(place, 24 + LINE_PIXELS * line, label_of(name), f"name arm-{name}", "middle")
    else:
        _label_first_row(canvas, means, names, scale, top)
    return canvas.finish(bottom + 44)


def _label_first_row(
    canvas: Canvas, means: dict[str, dict[str, float]], names: list[str], scale: Scale, top: float
) -> None:
    """Names of the arms above their dots in the first row, moved apart."""
    present = sorted((profile[names[0]], name) for name, profile in means.items() if names[0] in profile)
    places = spread_labels([scale(value) for value, _ in present], gap=36.0)
    places = [place - max(0.0, places[-1] + 14 - canvas.width) for place in places]
    for place, (_, name) in zip(places, present, strict=True):
        canvas.text(place, top - 10, label_of(name), f"name arm-{name}", "middle")


def _legend(labels: list[str], width: float) -> list[tuple[float, int]]:
    """Where the names of many arms stand above a figure, the middle and the line of each: in as many as they take."""
    places: list[tuple[float, int]] = []
    x, line = 0.0, 0
    for label in labels:
        room = name_room([label]) + 16
        if x + room > width:
            x, line = 0.0, line + 1
        places.append((x + room / 2, line))
        x += room
    return places


def draw_lengths(comparison: Comparison, width: int) -> str:
    """Mean answer length on mathematics, with the share of samples cut at the limit."""
    canvas = Canvas(width, "Mean completion length of each model and share of truncated samples")
    left = 24.0 + name_room(arm.label for arm in comparison.arms)
    tokens = {arm.name: mean_tokens(arm) for arm in comparison.arms}
    room = width - left - (120 if canvas.is_narrow else 300)
    longest = max(max(tokens.values()), 1e-9)
    y = 8.0
    for arm in comparison.arms:
        length = tokens[arm.name] / longest * room
        canvas.text(left - 10, y + 16, arm.label, f"row-name arm-{arm.name}", "end")
        canvas.rect(left, y, length, 22, f"bar arm-{arm.name}", radius=3)
        cut = percent(truncated_share(arm))
        text = f"{plain(tokens[arm.name], 0)} · {cut} cut"
        if not canvas.is_narrow:
            text = f"{plain(tokens[arm.name], 0)} tokens a sample · {cut} cut at the limit"
        canvas.text(left + length + 8, y + 15, text, "tick")
        y += 32
    return canvas.finish(y + 2)


def mean_tokens(arm: Arm) -> float:
    """Mean completion length on the mathematics suite, over samples and seeds."""
    scores = [score for evaluation in arm.evaluations for score in evaluation.scores]
    return sum(score.mean_tokens * score.k for score in scores) / max(1, sum(score.k for score in scores))

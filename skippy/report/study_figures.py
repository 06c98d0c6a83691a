"""The figures of a study: frontiers, runs by seed, differences at equal persona, and divergence against loss."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from skippy.core.inference.cells import NO_TRAINING, Cell, TrainingDose
from skippy.core.inference.collapse import COLLAPSED_SHARE
from skippy.core.inference.frontier import Difference, FrontierPoint
from skippy.core.inference.study import Analysis
from skippy.core.variants import has_seed, label_of
from skippy.report.canvas import Canvas, Scale, fit_scale, name_room, spread_labels
from skippy.report.numerals import bounds, plain, signed

ROW_PIXELS = 34
ROW_NAME_PIXELS = 7.3  # mean advance of a bold 12.5 px character in a wide font
KL_FLOOR = 1e-5
"""Nats a token; smaller divergences are drawn here."""


def doses_shown(analysis: Analysis) -> list[TrainingDose]:
    """The training doses that get a frontier each; arms with a recipe of their own are drawn into all of them."""
    doses = sorted({point.training for point in analysis.frontier})
    return [dose for dose in doses if dose != NO_TRAINING] or doses


def draw_dose_frontier(analysis: Analysis, training: TrainingDose, width: int) -> str:
    """Persona against score over α, one path an arm from the base on, bars of one standard error."""
    points = [point for point in analysis.frontier if point.training in (training, NO_TRAINING)]
    canvas = Canvas(width, f"Persona against score over the scale of the update, {training.label}")
    arms = list(dict.fromkeys(point.arm for point in points))
    left, right = 44.0, width - 16.0 - name_room([label_of(arm) for arm in arms])
    top, bottom = 34.0, (260.0 if canvas.is_narrow else 380.0)
    base = 100 * analysis.base_score
    across = Scale(-0.03, 1.03, left, right)
    heights = [100 * value for point in points for value in (point.score, *(s for _, s in point.by_seed))]
    up = fit_scale([*heights, base, base - 100 * analysis.margin - 1], bottom, top)
    canvas.x_axis(across, top, bottom, "persona score, held-out everyday prompts", digits=1)
    canvas.y_axis(up, left, right, "avg_at_k, points")
    canvas.line(left, up(base), right, up(base), "zero")
    canvas.line(left, up(base - 100 * analysis.margin), right, up(base - 100 * analysis.margin), "margin")
    ends = []
    for arm in arms:
        path = [point for point in points if point.arm == arm]
        _draw_path(canvas, path, (analysis.base_persona, base), across, up)
        ends.append((up(100 * path[-1].score), label_of(arm), f"name arm-{arm}"))
    ends.append((up(base - 100 * analysis.margin), "base − δ", "margin-label"))
    for y, (_, text, style) in zip(spread_labels([y for y, _, _ in ends], gap=17.0), ends, strict=True):
        canvas.text(right + 8, y + 4, text, style)
    return canvas.finish(bottom + 44)


def _draw_path(
    canvas: Canvas, path: Sequence[FrontierPoint], base: tuple[float, float], across: Scale, up: Scale
) -> None:
    style = f"arm-{path[0].arm}"
    places = [(across(point.persona), up(100 * point.score)) for point in path]
    if has_seed(path[0].arm):  # nothing lies between the base and an arm that is one point
        canvas.path([(across(base[0]), up(base[1])), *places], f"curve {style}")
    for persona, score in path[-1].by_seed:
        canvas.circle(
            across(persona), up(100 * score), 2.6, f"seed {style}", f"one seed: {plain(100 * score)}"
        )
    for point, (x, y) in zip(path, places, strict=True):
        reach = up(0) - up(100 * point.loss.standard_error)
        canvas.line(x, y - reach, x, y + reach, f"error {style}")
        if math.isfinite(point.persona_error):
            wide = across(point.persona_error) - across(0)
            canvas.line(x - wide, y, x + wide, y, f"error {style}")
        words = (
            f"{label_of(point.arm)}, α {point.alpha:g}: persona {plain(point.persona, 2)}, "
            f"{plain(100 * point.score)} points, {signed(100 * point.loss.mean)} "
            f"({bounds((100 * point.loss.lower, 100 * point.loss.upper))})"
        )
        canvas.circle(x, y, 4, f"dot {style}", words)


def draw_runs(analysis: Analysis, width: int) -> str:
    """Every training's score as trained, a row an arm and training dose: a collapse is a dot far left."""
    canvas = Canvas(width, "Score of every training at α = 1, by arm and training dose")
    names = [f"{label_of(count.arm)}  {count.training.label}" for count in analysis.collapses]
    left = 12.0 if canvas.is_narrow else _room(names)
    right, row = width - 70.0, ROW_PIXELS + (18 if canvas.is_narrow else 0)
    base = 100 * analysis.base_score
    across = Scale(-2.0, max(base * 1.08, 10.0), left, right)
    top, bottom = 26.0, 26.0 + row * len(analysis.collapses)
    canvas.rect(left, top, across(COLLAPSED_SHARE * base) - left, bottom - top, "zone-bad")
    canvas.x_axis(across, top, bottom, "avg_at_k as trained (α = 1), points")
    canvas.line(across(base), top, across(base), bottom, "zero")
    canvas.text(across(base), top - 8, "base", "note", "middle")
    for index, count in enumerate(analysis.collapses):
        style = f"arm-{count.arm}"
        middle = top + row * index + row / 2 + (8 if canvas.is_narrow else 0)
        _name_row(canvas, left, middle, names[index], style)
        for score in count.scores:
            canvas.circle(across(100 * score), middle, 4, f"seed {style}", f"{plain(100 * score)} points")
        mean = 100 * sum(count.scores) / len(count.scores)
        canvas.line(across(mean), middle - 9, across(mean), middle + 9, f"whisker {style}")
        canvas.text(width - 4, middle + 4, f"{count.collapsed}/{count.runs}", "tick", "end")
    canvas.text(width - 4, top - 8, "collapsed", "note", "end")
    return canvas.finish(bottom + 44)


def draw_differences(differences: Sequence[Difference], margin: float | int, width: int) -> str | None:
    """Arm against arm where their personas are equal, simultaneous bounds; None without any."""
    if not differences:
        return None
    canvas = Canvas(width, "Differences between arms at equal persona, with simultaneous bounds")
    left = 12.0 if canvas.is_narrow else _room(map(describe_difference, differences))
    right, row = width - (12.0 if canvas.is_narrow else 175.0), ROW_PIXELS + (16 if canvas.is_narrow else -6)
    values = [0.0, -100 * margin, 100 * margin]
    for one in differences:
        if one.bound:
            values += [100 * one.bound.lower, 100 * one.bound.upper]
    across = fit_scale(values, left, right)
    top, bottom = 26.0, 26.0 + row * len(differences)
    canvas.x_axis(across, top, bottom, "difference, points")
    canvas.line(across(0), top, across(0), bottom, "zero")
    for index, one in enumerate(differences):
        middle = top + row * index + row / 2 + (8 if canvas.is_narrow else 0)
        style = f"arm-{one.first}"
        _name_row(canvas, left, middle, describe_difference(one), style)
        if one.bound is None:
            canvas.line(left, middle, right, middle, "missing")
            canvas.text(right, middle - 5, "out of reach", "note", "end")
            continue
        low, high = across(100 * one.bound.lower), across(100 * one.bound.upper)
        canvas.line(low, middle, high, middle, f"whisker {style}")
        words = f"{signed(100 * one.bound.mean)} ({bounds((100 * one.bound.lower, 100 * one.bound.upper))})"
        canvas.circle(across(100 * one.bound.mean), middle, 5, f"dot {style}", words)
        if not canvas.is_narrow:
            canvas.text(right + 10, middle + 4, words, "tick")
    return canvas.finish(bottom + 44)


def _room(names: Iterable[str]) -> float:
    """What the names of rows take beside a figure."""
    return 12.0 + ROW_NAME_PIXELS * max(map(len, names), default=0)


def _name_row(canvas: Canvas, left: float, middle: float, name: str, style: str) -> None:
    """A row's name: left of it, or above it on a phone."""
    x, y = (left, middle - 13) if canvas.is_narrow else (0.0, middle + 4)
    canvas.text(x, y, name, f"row-name {style}")


def describe_difference(one: Difference) -> str:
    """`V4 − V3 at .7, lr 0.001, β 0, 200 steps`."""
    place = f"persona {one.persona:g}" if one.persona is not None else f"α {one.alpha:g}"
    dose = "all doses" if one.training is None else one.training.label
    return f"{label_of(one.first)} − {label_of(one.second)}, {place}, {dose}"


def draw_divergence(
    analysis: Analysis, cells: Sequence[Cell], predictor: str, label: str, width: int
) -> str | None:
    """Divergence of each cell (log scale) against the score it lost; None where it was not measured."""
    shown = [cell for cell in cells if not cell.is_failed and predictor in cell.predictors]
    if not shown:
        return None
    canvas = Canvas(width, f"{label} against the score lost, one dot a cell")
    left, right, top = 44.0, width - 14.0, 34.0
    bottom = 250.0 if canvas.is_narrow else 340.0
    logs = [math.log10(max(KL_FLOOR, float(cell.predictors[predictor]))) for cell in shown]
    losses = [100 * (analysis.base_score - cell.score) for cell in shown]
    across, up = fit_scale(logs, left, right), fit_scale([*losses, 0.0], bottom, top)
    for power in range(math.ceil(min(logs)), math.floor(max(logs)) + 1):
        canvas.line(across(power), top, across(power), bottom, "grid")
        canvas.text(across(power), bottom + 16, f"{10.0**power:g}", "tick", "middle")
    canvas.text((left + right) / 2, bottom + 34, f"{label}, nats a token", "axis", "middle")
    canvas.y_axis(up, left, right, "score lost, points")
    canvas.line(left, up(0), right, up(0), "zero")
    for cell, x, loss in zip(shown, logs, losses, strict=True):
        words = f"{label_of(cell.arm)}, {cell.training.label}, α {cell.alpha:g}, seed {cell.seed}"
        canvas.circle(across(x), up(loss), 3, f"seed arm-{cell.arm}", words)
    return canvas.finish(bottom + 44)

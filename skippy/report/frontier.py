"""Frontier: persona against mathematics over checkpoints, with both error bars."""

from __future__ import annotations

from statistics import fmean

from skippy.core.variants import is_untrained, label_of, place_words
from skippy.report.canvas import Canvas, Scale, fit_scale, name_room, spread_labels
from skippy.report.numerals import listed, plain, signed
from skippy.results import Comparison, Evaluation, FrontierPoint
from skippy.words import counted


def draw_frontier(comparison: Comparison, base_accuracy: float, width: int) -> str | None:
    """The figure, or None where no checkpoint was evaluated; the base line is that of the walk, if it has one."""
    paths = [
        (arm.name, evaluation)
        for arm in comparison.variants
        for evaluation in arm.evaluations
        if evaluation.frontier
    ]
    if not paths:
        return None
    canvas = Canvas(width, "Persona score against accuracy over checkpoints, one path per variant and seed")
    left, right = 44.0, width - max(68.0, 12.0 + name_room(arm.label for arm in comparison.arms))
    top, bottom = 34.0, (250.0 if canvas.is_narrow else 360.0)
    points = [point for _, evaluation in paths for point in evaluation.frontier]
    asked = [100 * point.accuracy for point in points if point.is_base]
    base_accuracy = fmean(asked) if asked else base_accuracy
    across = fit_scale([p.persona + s * p.persona_error for p in points for s in (-1, 1)], left, right)
    heights = [100 * (p.accuracy + s * p.accuracy_error) for p in points for s in (-1, 1)]
    margin = base_accuracy - comparison.margin_points
    up = fit_scale([*heights, base_accuracy, margin - 1], bottom, top)
    canvas.x_axis(across, top, bottom, "persona score, held-out everyday prompts", digits=0)
    canvas.y_axis(up, left, right, f"{comparison.suite_label}: avg_at_k, points")
    canvas.line(left, up(base_accuracy), right, up(base_accuracy), "zero")
    canvas.line(left, up(margin), right, up(margin), "margin")
    for name, evaluation in paths:
        _draw_path(canvas, name, evaluation, across, up)
    ends = {name: evaluation.frontier[-1] for name, evaluation in reversed(paths)}
    levels = [
        (base_accuracy, f"base {plain(base_accuracy)}", "note"),
        (margin, "base − δ", "margin-label"),
        *((100 * point.accuracy, label_of(name), f"name arm-{name}") for name, point in ends.items()),
    ]
    rows = spread_labels([up(level) for level, _, _ in levels], gap=17.0, low=top, high=bottom)
    for y, (_, text, style) in zip(rows, levels, strict=True):
        canvas.text(right + 8, y + 4, text, style)
    return canvas.finish(bottom + 44)


def _draw_path(canvas: Canvas, name: str, evaluation: Evaluation, across: Scale, up: Scale) -> None:
    style = f"arm-{name}"
    places = [(across(point.persona), up(100 * point.accuracy)) for point in evaluation.frontier]
    canvas.path(places, f"curve {style}")
    for point, (x, y) in zip(evaluation.frontier, places, strict=True):
        reach = (across(point.persona + point.persona_error) - x, up(100 * point.accuracy_error) - up(0))
        canvas.line(x - reach[0], y, x + reach[0], y, f"error {style}")
        canvas.line(x, y - reach[1], x, y + reach[1], f"error {style}")
        if point.is_chosen:
            canvas.circle(x, y, 9, f"ring {style}")
        mark = "dot arm-base" if point.is_base else f"dot {style}"
        canvas.circle(x, y, 4, mark, _describe(name, evaluation, point))


def _where(name: str, evaluation: Evaluation, point: FrontierPoint) -> str:
    return "" if is_untrained(name) else f" seed {evaluation.seed}, {place_words(name, point.step)}"


def _describe(name: str, evaluation: Evaluation, point: FrontierPoint) -> str:
    chosen = ", chosen by persona alone" if point.is_chosen else ""
    who = "base" if point.is_base else f"{label_of(name)}{_where(name, evaluation, point)}"
    return f"{who}: persona {signed(point.persona, 2)}, accuracy {plain(100 * point.accuracy)}{chosen}"


def choice_sentence(comparison: Comparison) -> str:
    """How the model under comparison was chosen among checkpoints or scales; empty where nobody chose."""
    evaluations = [(arm, one) for arm in comparison.variants for one in arm.evaluations]
    sentences = []
    if any(point.is_chosen for _, one in evaluations for point in one.frontier):
        sentences.append(
            "Ringed: the checkpoint under comparison, chosen by persona alone and blind to the mathematics."
        )
    scaled = [
        f"{arm.label} seed {one.seed}: {one.matched_dose}" for arm, one in evaluations if one.matched_dose
    ]
    if scaled:
        sentences.append(
            "Under comparison is the last checkpoint, its update scaled to a matched persona on validation prompts, "
            f"blind to the mathematics. {'; '.join(scaled)}."
        )
    return " ".join(sentences)


def frontier_caption(comparison: Comparison) -> str:
    """What the points of the frontier rest on: problems, samples, whose noise they share, what the bars are."""
    walked = [arm for arm in comparison.variants if not is_untrained(arm.name)]
    points = [p for arm in walked for e in arm.evaluations for p in e.frontier]
    choice = choice_sentence(comparison)
    if not points:
        return f"{choice} No checkpoints along the way were evaluated.".strip()
    designs = {(point.n, point.k) for point in points if point.n}
    asked = " or ".join(f"{counted(n, 'problem')} × {counted(k, 'sample')}" for n, k in sorted(designs))
    bars = (
        "Horizontal bars: one standard error of the persona score. Vertical bars: one standard error of the paired "
        "difference to the base"
    )
    if any(point.is_base for point in points):
        shared = (
            f"The base and every checkpoint answered the same {asked}, with the same sample seeds, other ones than "
            "those of the evaluations above: the points share their noise with the line, and not with the table."
        )
        still = [arm.label for arm in comparison.variants if arm not in walked]
        if still:
            shared += f" {listed(still)} has no path: its point is its evaluation, set off by its difference."
        return f"{choice} {shared} {bars} (at the base itself, of its score).".strip()
    return (
        f"{choice} Every checkpoint answered {asked or 'a smaller set'}; the base was not asked with the same sample "
        f"seeds, so compare the points with each other rather than with the line. {bars}."
    ).strip()

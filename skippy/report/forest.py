"""Forest plot: each variant's paired difference to base, with its bounds, against zero and −δ."""

from __future__ import annotations

from skippy.core.variants import label_of
from skippy.report.canvas import NARROW, Canvas, fit_scale
from skippy.report.conclusions import VariantVerdict, Verdicts
from skippy.report.numerals import bounds, signed
from skippy.report.wording import verdict_words

ROW_PIXELS = 46
LABEL_PIXELS = 60  # half of the words at the margin


def draw_forest(verdicts: Verdicts, margin_points: float, width: int) -> str:
    """The figure; variants that are not comparable keep their row and say so."""
    canvas = Canvas(
        width, "Paired difference of each variant to base, with one-sided 95 % bounds and the margin"
    )
    is_narrow = width <= NARROW
    left, right = (12, width - 12) if is_narrow else (120, width - 250)
    values = [0.0, -margin_points * 1.35, margin_points * 0.6]
    for verdict in verdicts.variants:
        values += [*(verdict.interval or ()), *verdict.seed_means]
    scale = fit_scale(values, left, right)
    row = ROW_PIXELS + (24 if is_narrow else 0)
    top, bottom = 30, 30 + row * len(verdicts.variants) + 6
    edge = scale(-margin_points)
    canvas.rect(left, top - 6, edge - left, bottom - top + 6, "zone-bad")
    canvas.x_axis(scale, top - 6, bottom, "difference to base, points")
    canvas.line(scale(0), top - 6, scale(0), bottom, "zero")
    canvas.line(edge, top - 14, edge, bottom, "margin")
    anchor = "middle" if scale(0) - edge > LABEL_PIXELS else "end"  # or it would run into the next one
    canvas.text(edge, top - 18, f"margin −δ = −{margin_points:g}", "margin-label", anchor)
    canvas.text(scale(0) + 4, top - 18, "no loss", "note")
    for index, verdict in enumerate(verdicts.variants):
        _draw_row(canvas, verdict, scale, top + row * index, is_narrow)
    return canvas.finish(bottom + 44)


def _draw_row(canvas: Canvas, verdict: VariantVerdict, scale, top: float, is_narrow: bool) -> None:
    style = f"arm-{verdict.name}"
    middle = top + ROW_PIXELS / 2 + (22 if is_narrow else 0)
    words = verdict_words(verdict)
    figures = f"{signed(verdict.mean_difference)}  ({bounds(verdict.interval)})"
    if is_narrow:
        canvas.text(12, top + 14, label_of(verdict.name), f"name {style}")
        canvas.text(canvas.width - 12, top + 14, words, f"strong halo word-{verdict.verdict}", "end")
        canvas.text(canvas.width - 12, top + 31, figures if verdict.interval else "", "tick halo", "end")
    else:
        canvas.text(0, middle + 5, label_of(verdict.name), f"name {style}")
        canvas.text(scale.end + 16, middle - 3, words, f"strong word-{verdict.verdict}")
        canvas.text(scale.end + 16, middle + 14, figures if verdict.interval else "", "tick")
    if verdict.interval is None or verdict.mean_difference is None:
        canvas.line(scale.start, middle, scale.end, middle, "missing")
        return
    low, high = (scale(bound) for bound in verdict.interval)
    if len(verdict.seed_means) > 1:
        for mean in verdict.seed_means:
            canvas.circle(
                scale(mean), middle + 12, 2.6, f"seed {style}", f"one training seed: {signed(mean)}"
            )
    canvas.line(low, middle, high, middle, f"whisker {style}")
    for end in (low, high):
        canvas.line(end, middle - 6, end, middle + 6, f"whisker {style}")
    canvas.circle(scale(verdict.mean_difference), middle, 6, f"dot {style}", figures)

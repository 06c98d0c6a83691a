"""The character deltas of one training run as figures that carry their own words: curve, heat map, traits.

Unlike the report's figures these stand alone in a run's artifacts, where no page explains them: each says in
its first line what it shows, and every number a reader may want is printed, since an image shows no hints.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from skippy.core.personality.deltas import BAND
from skippy.core.personality.measurement import TargetDelta
from skippy.core.variants import label_of
from skippy.report.canvas import WIDE, Canvas, fit_scale, spread_labels
from skippy.report.numerals import MISSING, percent, plain, signed
from skippy.report.palette import figure_style, read_template
from skippy.report.printing import stand_alone
from skippy.report.trait_profile import draw_trait_profile
from skippy.results import CharacterHistory, TrajectoryPoint

LAYER_PIXELS, CELL_PIXELS, ROW_PIXELS = 74, 98, 22
FULL_COLOUR_Z = 6.0
"""z at which a cell has its strongest shade, chosen so that the numbers in it stay readable."""
STRONGEST_SHADE = 0.45
SHADES = {"above": "above the null", "inside": "inside", "below": "below"}


def draw_character_figures(history: CharacterHistory) -> dict[str, str]:
    """File name → SVG text, self-contained and deterministic; what was not measured is left out.

    Returns:
        `trajectory.svg`, `targets.svg` (layers × modules), `traits.svg`.
    """
    who = f"{label_of(history.variant)} {history.character}"
    drawings = {
        "trajectory.svg": draw_character_trajectory(who, history.variant, history.points),
        "targets.svg": draw_targets(who, history.step, history.targets),
        "traits.svg": draw_trait_profile(who, history.variant, history.traits, history.trait_null),
    }
    style = figure_style([history.variant]) + read_template("character.css")
    return {name: stand_alone(drawing, style) for name, drawing in drawings.items() if drawing}


def draw_character_trajectory(who: str, variant: str, points: Sequence[TrajectoryPoint]) -> str | None:
    """personality_energy_ratio by step, in percent, with chance and the null band; None without points."""
    if not points:
        return None
    last = points[-1]
    share = f"{_share(last.ratio)} of the update is in the personality subspace"
    place = _place(last.ratio, last.null_low, last.null_high)
    headline = f"{who}, step {last.step}: {share}, {place} the null band"
    canvas = Canvas(WIDE, headline)
    canvas.text(0, 18, headline, "headline")
    band_words = f"{100 * BAND[0]:g}–{100 * BAND[1]:g} %"
    subtitle = f"Null: {band_words} band of random subspaces with the activations' covariance. Chance: K/d."
    canvas.text(0, 38, subtitle, "subtitle")
    left, right, top, bottom = 44.0, WIDE - 200.0, 84.0, 330.0
    across = fit_scale([0.0, *(point.step for point in points)], left, right, pad=0.0)
    heights = [100 * v for p in points for v in (p.ratio, p.chance, p.null_low, p.null_high)]
    up = fit_scale([0.0, *heights], bottom, top, pad=0.04)
    # A single measurement has a band too: it is drawn a few pixels wide.
    edges = [(across(p.step) + shift, p) for p in points for shift in ((-6, 6) if len(points) == 1 else (0,))]
    upper = [(x, up(100 * p.null_high)) for x, p in edges]
    lower = [(x, up(100 * p.null_low)) for x, p in reversed(edges)]
    canvas.path([*upper, *lower], "null-band", is_closed=True)
    canvas.x_axis(across, top, bottom, "training step")
    canvas.y_axis(up, left, right, "personality_energy_ratio, % of ‖ΔW‖², pooled over all targets")
    canvas.path([(x, up(100 * p.chance)) for x, p in edges], "chance")
    canvas.path([(across(p.step), up(100 * p.ratio)) for p in points], f"curve arm-{variant}")
    for p in points:
        hint = f"step {p.step}: {_share(p.ratio)}, z {_z(p.null_z)}"
        canvas.circle(across(p.step), up(100 * p.ratio), 3.2, f"dot arm-{variant}", hint)
    labels = {
        (f"{label_of(variant)} {_share(last.ratio)}, z {_z(last.null_z)}", f"name arm-{variant}"): last.ratio,
        (f"chance {_share(last.chance)}", "tick"): last.chance,
        (f"null band {_share(last.null_low)} – {_share(last.null_high)}", "tick"): (
            (last.null_low + last.null_high) / 2
        ),
    }
    rows = spread_labels([up(100 * value) for value in labels.values()], gap=17.0)
    for (text, style), y in zip(labels, rows, strict=True):
        canvas.text(across(last.step) + 12, y + 4, text, style)
    return canvas.finish(bottom + 44)


def draw_targets(who: str, step: int, targets: Sequence[TargetDelta]) -> str | None:
    """Layers × modules: every target's ratio and z, with pooled margins; None without targets."""
    if not targets:
        return None
    kinds = list(dict.fromkeys(target.kind for target in targets))
    layers = sorted({target.layer for target in targets})
    cells = {(target.layer, target.kind): target for target in targets}
    above = sum(target.ratio > target.null_high for target in targets)
    headline = f"{who}, step {step}: {above} of {len(targets)} targets are above their null band"
    canvas = Canvas(max(WIDE, LAYER_PIXELS + CELL_PIXELS * (len(kinds) + 1)), headline)
    canvas.text(0, 18, headline, "headline")
    canvas.text(0, 38, "Bold: share of the target's ‖ΔW‖² inside the personality subspace, %.", "subtitle")
    canvas.text(0, 55, "Beside it: z against random subspaces; pooled: the null's mean, %.", "subtitle")
    for column, kind in enumerate([*kinds, "all modules"]):
        side = next((target.side for target in targets if target.kind == kind), "pooled")
        middle = LAYER_PIXELS + CELL_PIXELS * (column + 0.5)
        canvas.text(middle, 84, kind, "row-name", "middle")
        canvas.text(middle, 99, side, "aside", "middle")
    y = 106.0
    for layer in layers:
        canvas.text(LAYER_PIXELS - 8, y + 15, f"layer {layer}", "row-name", "end")
        for column, kind in enumerate(kinds):
            _draw_target(canvas, LAYER_PIXELS + CELL_PIXELS * column, y, cells.get((layer, kind)))
        members = [target for target in targets if target.layer == layer]
        _draw_pooled(canvas, LAYER_PIXELS + CELL_PIXELS * len(kinds), y, members)
        y += ROW_PIXELS
    canvas.text(LAYER_PIXELS - 8, y + 21, "all layers", "row-name", "end")
    for column, kind in enumerate(kinds):
        members = [target for target in targets if target.kind == kind]
        _draw_pooled(canvas, LAYER_PIXELS + CELL_PIXELS * column, y + 6, members)
    _draw_pooled(canvas, LAYER_PIXELS + CELL_PIXELS * len(kinds), y + 6, targets)
    _draw_shades(canvas, y + ROW_PIXELS + 18)
    return canvas.finish(y + ROW_PIXELS + 44)


def _draw_target(canvas: Canvas, x: float, y: float, target: TargetDelta | None) -> None:
    box = (x + 1, y + 1, CELL_PIXELS - 2, ROW_PIXELS - 2)
    if target is None or not math.isfinite(target.ratio):
        canvas.rect(*box, "cell-missing")
        words = "no target" if target is None else "no update"
        canvas.text(x + CELL_PIXELS / 2, y + 15, words, "aside", "middle")
        return
    style = f"cell-{_place(target.ratio, target.null_low, target.null_high)}"
    reach = min(1.0, abs(target.z) / FULL_COLOUR_Z) if math.isfinite(target.z) else 1.0
    shade = None if style == "cell-inside" else 0.1 + (STRONGEST_SHADE - 0.1) * reach
    canvas.rect(*box, style, opacity=shade, hint=f"{target.target}: {_share(target.ratio)}, z {_z(target.z)}")
    canvas.text(x + 7, y + 15, _figure(target.ratio), "value")
    canvas.text(x + CELL_PIXELS - 7, y + 15, f"z {_z(target.z)}", "aside", "end")


def _draw_pooled(canvas: Canvas, x: float, y: float, targets: Iterable[TargetDelta]) -> None:
    """Σ energy / Σ ‖ΔW‖² with the null's mean pooled alike (MATH §4): never a mean of ratios."""
    moved = [target for target in targets if target.delta_norm > 0 and math.isfinite(target.ratio)]
    canvas.rect(x + 1, y + 1, CELL_PIXELS - 2, ROW_PIXELS - 2, "cell-pooled")
    if not moved:
        canvas.text(x + CELL_PIXELS / 2, y + 15, "no update", "aside", "middle")
        return
    total = sum(target.delta_norm**2 for target in moved)
    ratio = sum(target.energy for target in moved) / total
    null = sum(target.null_mean * target.delta_norm**2 for target in moved) / total
    canvas.text(x + 7, y + 15, _figure(ratio), "value")
    canvas.text(x + CELL_PIXELS - 7, y + 15, f"null {_figure(null)}", "aside", "end")


def _draw_shades(canvas: Canvas, y: float) -> None:
    for index, (place, text) in enumerate(SHADES.items()):
        x = LAYER_PIXELS + 130 * index
        canvas.rect(x, y, 26, 14, f"cell-{place}", opacity=None if place == "inside" else STRONGEST_SHADE)
        canvas.text(x + 33, y + 11, text, "tick")


def _place(ratio: float, low: float, high: float) -> str:
    return "above" if ratio > high else "below" if ratio < low else "inside"


def _share(share: float) -> str:
    return percent(share, _digits(share)) if math.isfinite(share) else MISSING


def _figure(share: float) -> str:
    """In percent without the sign, for cells whose caption has it."""
    return plain(100 * share, _digits(share)) if math.isfinite(share) else MISSING


def _digits(share: float) -> int:
    """About three figures: 23.1 %, 3.65 %, 0.171 % (chance is K/d, small in a wide model)."""
    return 1 if share >= 0.0995 else 2 if share >= 0.00995 else 3


def _z(z: float) -> str:
    return MISSING if not math.isfinite(z) else signed(z, 1 if abs(z) < 99.5 else 0)

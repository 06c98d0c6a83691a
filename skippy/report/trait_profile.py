"""The trait profile c(t) at start, middle and end of training with its null: a radar, or bars below three traits."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from skippy.report.canvas import WIDE, Canvas, Scale, fit_scale
from skippy.report.numerals import signed

FEWEST_SPOKES = 3
RADIUS = 150.0
INNER = 0.16
"""Share of the radius at which the lowest value lies, so that a profile of zeros is more than a point."""
CENTRE = (WIDE / 2 - 40, 316.0)
BAR_PIXELS = 20
NULL_WORDS = "where 95 % of random shifts as long as the last one lie, with the activations' covariance"
LEAST_REACH = 0.01
"""c(t) that every scale reaches: before the first update all values are 0, and a scale needs two ends."""


def choose_moments(steps: Sequence[int]) -> dict[str, int]:
    """`start`, `middle` and `end` of the measured steps; fewer where there are fewer."""
    ordered = sorted(set(steps))
    if not ordered:
        return {}
    first, last = ordered[0], ordered[-1]
    middle = min(ordered, key=lambda step: (abs(step - (first + last) / 2), step))
    start = {"start": first} if first < last else {}
    between = {"middle": middle} if first < middle < last else {}
    return {**start, **between, "end": last}


def draw_trait_profile(
    who: str, variant: str, traits: Mapping[int, Mapping[str, float]], null: Mapping[str, float]
) -> str | None:
    """The figure, or None where no trait was measured. A trait missing at a moment is drawn nowhere.

    Args:
        traits: step → trait → c(t).
        null: trait → |c| that random shifts stay below; without it no band is drawn.
    """
    moments = choose_moments(list(traits))
    profiles = {name: traits[step] for name, step in moments.items()}
    shared = [name for name in profiles.get("end", {}) if all(name in p for p in profiles.values())]
    if not shared:
        return None
    final = profiles["end"]
    most = max(shared, key=lambda name: abs(final[name]))
    headline = f"{who}, step {moments['end']}: furthest from the base in {most}, {signed(final[most], 2)}"
    reach = {name: null[name] for name in shared} if set(shared) <= set(null) else {}
    if reach:
        outside = sum(abs(final[name]) > reach[name] for name in shared)
        headline += f"; {outside} of {len(shared)} traits outside the null"
    canvas = Canvas(WIDE, headline)
    canvas.text(0, 18, headline, "headline")
    subtitle = (
        "Trait coordinates c(t): 0 is the base, 1 the whole contrast of showing a trait and lacking it."
    )
    canvas.text(0, 38, subtitle, "subtitle")
    if reach:
        canvas.text(0, 55, f"Shaded, the null: {NULL_WORDS}.", "subtitle")
    labelled = {f"{name} · step {step}": profiles[name] for name, step in moments.items()}
    draw = _draw_radar if len(shared) >= FEWEST_SPOKES else _draw_bars
    return canvas.finish(draw(canvas, variant, shared, labelled, reach))


def _draw_radar(
    canvas: Canvas,
    variant: str,
    names: Sequence[str],
    profiles: Mapping[str, Mapping[str, float]],
    reach: Mapping[str, float],
) -> float:
    """One spoke a trait, one outline a moment, the null a ring; returns the height used."""
    values = [profile[name] for profile in profiles.values() for name in names]
    values += [side * value for value in reach.values() for side in (-1, 1)]
    fitted = fit_scale([0.0, LEAST_REACH, *values], INNER * RADIUS, RADIUS, pad=0.0)
    scale = Scale(fitted.low, fitted.high, INNER * RADIUS, RADIUS)
    if reach:
        outer, inner = (
            [spoke_point(i, len(names), scale(side * reach[name])) for i, name in enumerate(names)]
            for side in (1, -1)
        )
        # One outline, out and back in along the first spoke: a ring.
        canvas.path([*outer, outer[0], inner[0], *reversed(inner)], "null-band", is_closed=True)
    for value in scale.ticks(4):
        outline = [spoke_point(index, len(names), scale(value)) for index in range(len(names))]
        canvas.path(outline, "web-base" if value == 0 else "web", is_closed=True)
    for index in range(len(names)):
        canvas.line(*CENTRE, *spoke_point(index, len(names), RADIUS), "grid")
    for label, profile in profiles.items():
        outline = [spoke_point(i, len(names), scale(profile[name])) for i, name in enumerate(names)]
        moment = label.split(" ")[0]
        canvas.path(outline, f"profile profile-{moment} arm-{variant}", is_closed=True)
    for value in scale.ticks(4):  # on the edge left of the top spoke, over the outlines
        x, y = spoke_point(-0.5, len(names), scale(value) * math.cos(math.pi / len(names)))
        canvas.text(x, y + 4, "base 0" if value == 0 else f"{value:g}".replace("-", "−"), "note", "middle")
    for index, name in enumerate(names):
        _label_spoke(canvas, index, len(names), name, [profile[name] for profile in profiles.values()])
    _label_outlines(canvas, variant, names, profiles, scale)
    return CENTRE[1] + RADIUS + 60


def spoke_point(index: float, count: int, radius: float) -> tuple[float, float]:
    """Pixel at `radius` on spoke `index` of `count`; the first points up, the rest follow clockwise."""
    angle = 2 * math.pi * index / count - math.pi / 2
    return CENTRE[0] + radius * math.cos(angle), CENTRE[1] + radius * math.sin(angle)


def _label_spoke(canvas: Canvas, index: int, count: int, name: str, values: Sequence[float]) -> None:
    """The trait's name outside its spoke, and its values in the order of the moments."""
    x, y = spoke_point(index, count, RADIUS + 14)
    lean = (x - CENTRE[0]) / RADIUS
    anchor = "middle" if abs(lean) < 0.2 else "start" if lean > 0 else "end"
    y += 12 * (y - CENTRE[1]) / RADIUS - 2
    canvas.text(x, y, name, "row-name", anchor)
    canvas.text(x, y + 15, " → ".join(signed(value, 2) for value in values), "tick", anchor)


def _label_outlines(
    canvas: Canvas,
    variant: str,
    names: Sequence[str],
    profiles: Mapping[str, Mapping[str, float]],
    scale: Scale,
) -> None:
    """Names of the moments, top right, each led to the first edge of its outline."""
    anchors = {}
    for label, profile in profiles.items():
        ends = [spoke_point(index, len(names), scale(profile[names[index]])) for index in (0, 1)]
        anchors[label] = tuple((a + b) / 2 for a, b in zip(*ends, strict=True))
    left = CENTRE[0] + RADIUS + 10
    order = sorted(anchors, key=lambda label: anchors[label][1])
    for row, label in enumerate(order):
        x, y = anchors[label]
        baseline = CENTRE[1] - RADIUS - 46 + 18 * row
        canvas.line(x, y, left - 6, baseline - 4, f"leader arm-{variant}")
        canvas.circle(x, y, 2.6, f"dot arm-{variant}")
        canvas.text(left, baseline, label, f"moment arm-{variant}")


def _draw_bars(
    canvas: Canvas,
    variant: str,
    names: Sequence[str],
    profiles: Mapping[str, Mapping[str, float]],
    reach: Mapping[str, float],
) -> float:
    """Two traits span no radar: one bar a moment under each trait's name; returns the height used."""
    values = [profile[name] for profile in profiles.values() for name in names]
    values += [side * value for value in reach.values() for side in (-1, 1)]
    scale = fit_scale([0.0, LEAST_REACH, *values], 150.0, WIDE - 80.0, pad=0.04)
    y = 70.0
    for name in names:
        canvas.text(0, y + 12, name, "row-name")
        y += 20
        if reach:
            ends = [scale(side * reach[name]) for side in (-1, 1)]
            canvas.rect(ends[0], y - 2, ends[1] - ends[0], BAR_PIXELS * len(profiles), "null-band")
        for label, profile in profiles.items():
            ends = sorted((scale(0.0), scale(profile[name])))
            canvas.text(0, y + 13, label, "tick")
            style = f"bar bar-{label.split(' ')[0]} arm-{variant}"
            canvas.rect(ends[0], y, ends[1] - ends[0], BAR_PIXELS - 4, style)
            canvas.text(ends[1] + 6, y + 13, signed(profile[name], 2), "value")
            y += BAR_PIXELS
        y += 14
    canvas.line(scale(0.0), 70.0, scale(0.0), y - 8, "zero")
    canvas.text(scale(0.0), y + 8, "base 0", "note", "middle")
    return y + 20

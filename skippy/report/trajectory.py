"""Character delta over training: personality_energy_ratio by step, with a null band per arm."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from statistics import fmean

from skippy.core.variants import VARIANTS, label_of
from skippy.report.canvas import Canvas, fit_scale, name_room, spread_labels
from skippy.report.numerals import plain, signed
from skippy.results import Comparison, TrajectoryPoint

DIRECT_LABELS = 3
"""Arms up to which each has its own band."""


def draw_trajectory(comparison: Comparison, width: int) -> str | None:
    """The figure, or None where no trajectory was recorded."""
    paths = [
        (arm.name, evaluation.seed, evaluation.trajectory)
        for arm in comparison.variants
        for evaluation in arm.evaluations
        if evaluation.trajectory and not VARIANTS[arm.name].is_dosed  # whose path is no training
    ]
    if not paths:
        return None
    canvas = Canvas(width, "Share of the update's energy inside the personality subspace, by training step")
    left, right = 44.0, width - (14.0 if canvas.is_narrow else 90.0)
    right -= name_room(arm.label for arm in comparison.variants)
    top, bottom = 34.0, 210.0
    points = [point for _, _, path in paths for point in path]
    across = fit_scale([point.step for point in points], left, right, pad=0.02)
    up = fit_scale([0.0, *(v for p in points for v in (p.ratio, p.null_high))], bottom, top, pad=0.03)
    bands = {
        name: _null_band([path for owner, _, path in paths if owner == name])
        for name in dict.fromkeys(name for name, _, _ in paths)
    }
    if len(bands) > DIRECT_LABELS:  # bands on bands hide what they say: one that holds them all
        bands = {next(iter(bands)): _null_band([path for _, _, path in paths], min, max)}
    for name, band in bands.items():
        upper = [(across(step), up(high)) for step, (_, high) in band.items()]
        lower = [(across(step), up(low)) for step, (low, _) in reversed(band.items())]
        canvas.path([*upper, *lower], f"null-band arm-{name}", is_closed=True)
    canvas.x_axis(across, top, bottom, "training step")
    canvas.y_axis(up, left, right, "personality_energy_ratio", count=4, digits=2)
    ends = [(max(band), band[max(band)][0]) for band in bands.values()]
    rows = spread_labels([up(low) - 6 for _, low in ends])
    owners = len({name for name, _, _ in paths})
    for name, (step, _), y in zip(bands, ends, rows, strict=True):
        whose = label_of(name) if len(bands) == owners else f"{owners} arms'"
        canvas.text(across(step) - 6, y, f"{whose} null, 95 %", "null-label", "end")
    for name, seed, path in paths:
        canvas.path([(across(p.step), up(p.ratio)) for p in path], f"curve arm-{name}")
        for p in path:
            hint = f"{label_of(name)} seed {seed}, step {p.step}: {plain(p.ratio, 3)}, z {signed(p.null_z)}"
            canvas.circle(across(p.step), up(p.ratio), 3.2, f"dot arm-{name}", hint)
    firsts = {name: path[-1] for name, _, path in reversed(paths)}
    rows = spread_labels([up(point.ratio) for point in firsts.values()], low=top, high=bottom)
    for (name, point), y in zip(firsts.items(), rows, strict=True):
        note = "" if canvas.is_narrow else f"  z {signed(point.null_z)}"
        canvas.text(across(point.step) + 10, y + 4, label_of(name) + note, f"name arm-{name}")
    return canvas.finish(bottom + 44)


def _null_band(
    paths: Sequence[Sequence[TrajectoryPoint]],
    lowest: Callable[[Iterable[float]], float] = fmean,
    highest: Callable[[Iterable[float]], float] = fmean,
) -> dict[int, tuple[float, float]]:
    """Step → null quantiles, in order of steps: of one arm the mean over its training seeds, of many the widest."""
    points = [point for path in paths for point in path]
    return {
        step: (
            lowest(p.null_low for p in points if p.step == step),
            highest(p.null_high for p in points if p.step == step),
        )
        for step in sorted({point.step for point in points})
    }

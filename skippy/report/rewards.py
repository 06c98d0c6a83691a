"""Reward over training: one curve an arm and seed."""

from __future__ import annotations

from skippy.core.variants import label_of
from skippy.report.canvas import Canvas, fit_scale, name_room, spread_labels
from skippy.report.numerals import signed
from skippy.results import Comparison


def draw_rewards(comparison: Comparison, width: int) -> str | None:
    """The figure, or None where no training logged a reward at two steps."""
    paths = [
        (arm.name, evaluation.seed, sorted(evaluation.rewards.items()))
        for arm in comparison.variants
        for evaluation in arm.evaluations
        if len(evaluation.rewards) > 1
    ]
    if not paths:
        return None
    canvas = Canvas(width, "Mean reward of each training by step")
    left, right = 44.0, width - max(40.0, 14.0 + name_room(label_of(name) for name, _, _ in paths))
    top, bottom = 34.0, 210.0
    across = fit_scale([step for _, _, path in paths for step, _ in path], left, right, pad=0.02)
    up = fit_scale([reward for _, _, path in paths for _, reward in path], bottom, top)
    canvas.x_axis(across, top, bottom, "training step")
    canvas.y_axis(up, left, right, "mean reward", count=4, digits=1)
    for name, seed, path in paths:
        canvas.path([(across(step), up(reward)) for step, reward in path], f"curve arm-{name}")
        step, reward = path[-1]
        hint = f"{label_of(name)} seed {seed}, step {step}: {signed(reward, 2)}"
        canvas.circle(across(step), up(reward), 3.2, f"dot arm-{name}", hint)
    ends = {name: path[-1][1] for name, _, path in reversed(paths)}
    rows = spread_labels([up(reward) for reward in ends.values()], low=top, high=bottom)
    for name, y in zip(ends, rows, strict=True):
        canvas.text(right + 8, y + 4, label_of(name), f"name arm-{name}")
    return canvas.finish(bottom + 44)

"""A training run's character written down by hand: every number chosen, nothing measured."""

from __future__ import annotations

import math

from skippy.core.personality.measurement import TargetDelta
from skippy.report.character_figures import CharacterHistory
from skippy.results import TrajectoryPoint

KINDS = {
    **dict.fromkeys(("q_proj", "k_proj", "v_proj"), "reads"),
    "o_proj": "writes",
    **dict.fromkeys(("gate_proj", "up_proj"), "reads"),
    "down_proj": "writes",
}


def example_point(step: int, ratio: float, *, low: float = 0.05, high: float = 0.11) -> TrajectoryPoint:
    middle = (low + high) / 2
    return TrajectoryPoint(step, ratio, (ratio - middle) / (high - low) * 4, low, high, 0.036)


def example_target(layer: int, kind: str, ratio: float, *, energy: float = 2.0) -> TargetDelta:
    """One line of the table with ‖ΔW‖² = `energy`, null 0.05–0.11."""
    return TargetDelta(
        target=f"model.language_model.layers.{layer}.{kind}",
        layer=layer,
        kind=kind,
        side=KINDS[kind],
        K=7,
        delta_norm=math.sqrt(energy),
        energy=ratio * energy,
        ratio=ratio,
        chance=0.036,
        null_mean=0.08,
        null_sd=0.015,
        null_low=0.05,
        null_high=0.11,
        z=(ratio - 0.08) / 0.015,
        singular_values=(math.sqrt(ratio * energy),),
    )


def example_history(depth: int = 4, last_step: int = 60, every: int = 5) -> CharacterHistory:
    """A persona that rises out of its null and settles, strongest where the middle layers write."""
    rise = {step: 1 - math.exp(-3 * step / last_step) for step in range(every, last_step + 1, every)}
    goals = {"arrogance": 0.62, "sarcasm": 0.48, "brilliance": 0.21, "impatience": 0.33, "ancientness": -0.12}
    targets = [
        example_target(
            layer,
            kind,
            0.03
            + 0.16 * math.exp(-(((layer + 0.5) / depth - 0.6) ** 2) / 0.05) * (1 + (column % 4 == 3)) / 2,
            energy=1 + column,
        )
        for layer in range(depth)
        for column, kind in enumerate(KINDS)
    ]
    return CharacterHistory(
        character="skippy",
        variant="v4",
        points=[example_point(step, 0.06 + 0.13 * share) for step, share in rise.items()],
        step=last_step,
        targets=targets,
        traits={step: {name: goal * share for name, goal in goals.items()} for step, share in rise.items()},
        trait_null=dict(zip(goals, (0.31, 0.22, 0.27, 0.18, 0.2), strict=True)),
    )

"""Training one cell's adapter: the same GRPO as the train stage, its curves kept in memory and logged once."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from skippy.core.style import rewards
from skippy.core.variants import find_variant
from skippy.studies.inputs import StudyInputs, Unit
from skippy.tracking.stage_run import StageRun
from skippy.training.grpo import train_grpo
from skippy.training.plan import TrainOutcome, TrainRequest

CURVE_POINTS = 60
"""Points of each curve that a cell's run keeps: what a store of a thousand cells can carry."""
EARLY_SHARE = 0.25
WATCHED = {
    "train/kl": "kl",
    "train/grad_norm": "grad_norm",
    "train/entropy": "entropy",
    "train/reward": "reward",
    "train/completion_length_mean": "completion_length",
}
"""Curve → what the predictors `early_…` and `late_…` call it."""


@dataclass
class CellSink:
    """Takes what training reports: curves in memory, tables and folders dropped; the adapter is logged by the cell."""

    curves: dict[int, dict[str, float]] = field(default_factory=dict)

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Keep them."""
        self.curves.setdefault(step or 0, {}).update(metrics)

    def log_table(self, rows: Sequence[Mapping[str, Any]], artifact_path: str) -> None:
        """Drop it."""

    def log_folder(self, folder: Path, artifact_dir: str = "") -> None:
        """Drop it."""


def train_cell(
    inputs: StudyInputs, unit: Unit, folder: Path, device: str, stage: StageRun
) -> tuple[TrainOutcome, dict[str, float]]:
    """Train, log thinned curves, and return the outcome with what the training says about itself.

    The figures: `early_…` and `late_…`, means over the first and the last quarter of the steps; leakage over
    chance at the end; the spectral margin.
    """
    sink = CellSink()
    outcome = train_grpo(request_of(inputs, unit, folder, device), sink)
    curves = whole_curves(sink.curves)
    steps = sorted(curves)
    every = max(1, math.ceil(len(steps) / CURVE_POINTS))
    for step in (*steps[:-1:every], *steps[-1:]):
        stage.log_metrics(curves[step], step=step)
    return outcome, training_figures(curves, outcome)


def whole_curves(curves: Mapping[int, Mapping[str, float]]) -> dict[int, dict[str, float]]:
    """Every metric at every step from its first on: a training logs a value only where it moves."""
    known: dict[str, float] = {}
    found = {}
    for step in sorted(curves):
        known |= curves[step]
        found[step] = dict(known)
    return found


def training_figures(curves: Mapping[int, Mapping[str, float]], outcome: TrainOutcome) -> dict[str, float]:
    """What a training says about itself, by the names that the analysis uses."""
    steps = sorted(step for step in curves if "train/reward" in curves[step])
    quarter = max(1, round(EARLY_SHARE * len(steps)))
    figures = {}
    for part, chosen in (("early", steps[:quarter]), ("late", steps[-quarter:])):
        for metric, name in WATCHED.items():
            values = [curves[step][metric] for step in chosen if metric in curves[step]]
            if values:
                figures[f"{part}_{name}"] = sum(values) / len(values)
    last = curves[steps[-1]] if steps else {}
    for side in ("left", "right"):
        rho, chance = last.get(f"leakage/rho_{side}"), last.get(f"leakage/chance_{side}")
        if rho is not None and chance:
            figures[f"rho_{side}_ratio"] = rho / chance
    if outcome.margin is not None:
        figures["margin"] = outcome.margin.worst
    return figures


def request_of(inputs: StudyInputs, unit: Unit, folder: Path, device: str) -> TrainRequest:
    """The request of one training; what differs between cells is arm, dose and seed alone."""
    rules = replace(inputs.character.rules, hardened=True)
    implied: dict[str, Any] = dict(find_variant(unit.arm).implies)
    return TrainRequest(
        base_path=inputs.base.path,
        base_digest=inputs.base.digest,
        base_name=inputs.base.public_name,
        variant=unit.arm,
        k=inputs.plan.k,
        projectors=inputs.projectors,
        prompts=[prompt.text for prompt in inputs.character.train_prompts],
        reward_functions=(
            partial(rewards.personality, rules=rules),
            partial(rewards.coherence, rules=rules),
            partial(rewards.identity, rules=rules),
        ),
        reward_names=("personality", "coherence", "identity"),
        settings=replace(unit.settings, **implied),
        output_dir=folder,
        device=device,
    )

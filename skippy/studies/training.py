"""Making one cell's update as the train stage makes it: its curves kept in memory and logged once.

Where a method reads the base's own answers, each cell draws its own with its seed: a mask or a vector varies with the
answers that it is made from, as a training varies with its samples. No statistic of one seed enters another.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from skippy.core.variants import find_variant
from skippy.evaluation.base_answers import ask_base
from skippy.models.loading import load_model, load_tokenizer
from skippy.resolve.devices import pick_device
from skippy.stores.answers import Answers, group_answers
from skippy.studies.inputs import StudyInputs, Unit, turned
from skippy.tracking.stage_run import StageRun
from skippy.training.makers import MAKERS, Order
from skippy.training.making import Made
from skippy.training.plan import SilentSink

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
class CellSink(SilentSink):
    """Takes what training reports: curves in memory, tables and folders dropped; the adapter is logged by the cell."""

    curves: dict[int, dict[str, float]] = field(default_factory=dict)

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Keep them."""
        self.curves.setdefault(step or 0, {}).update(metrics)


def train_cell(
    inputs: StudyInputs, unit: Unit, folder: Path, device: str, stage: StageRun
) -> dict[str, float]:
    """Make `adapter/` in the folder, log thinned curves, and return what the making says about itself.

    The figures: `early_…` and `late_…`, means over the first and the last quarter of the steps; leakage over
    chance at the end; the spectral margin.
    """
    sink = CellSink()
    order = order_of(inputs, unit, device)
    made = MAKERS[order.variant.method](order).make(folder, sink, is_first=True)
    assert made is not None
    curves = whole_curves(sink.curves)
    steps = sorted(curves)
    every = max(1, math.ceil(len(steps) / CURVE_POINTS))
    for step in (*steps[:-1:every], *steps[-1:]):
        stage.log_metrics(curves[step], step=step)
    return training_figures(curves, made)


def whole_curves(curves: Mapping[int, Mapping[str, float]]) -> dict[int, dict[str, float]]:
    """Every metric at every step from its first on: a training logs a value only where it moves."""
    known: dict[str, float] = {}
    found = {}
    for step in sorted(curves):
        known |= curves[step]
        found[step] = dict(known)
    return found


def training_figures(curves: Mapping[int, Mapping[str, float]], made: Made) -> dict[str, float]:
    """What a training says about itself, by the names that the analysis uses."""
    steps = sorted(step for step in curves if "train/reward" in curves[step])
    quarter = max(1, round(EARLY_SHARE * len(steps)))
    figures = {}
    for part, chosen in (("early", steps[:quarter]), ("late", steps[-quarter:])):
        for metric, name in WATCHED.items():
            values = [curves[step][metric] for step in chosen if metric in curves[step]]
            if values:
                figures[f"{part}_{name}"] = sum(values) / len(values)
    last = {**(curves[steps[-1]] if steps else {}), **made.metrics}
    for side in ("left", "right"):
        rho, chance = last.get(f"leakage/rho_{side}"), last.get(f"leakage/chance_{side}")
        if rho is not None and chance:
            figures[f"rho_{side}_ratio"] = rho / chance
    if "leakage/margin_worst" in made.metrics:
        figures["margin"] = made.metrics["leakage/margin_worst"]
    return figures


def order_of(inputs: StudyInputs, unit: Unit, device: str) -> Order:
    """What is made; what differs between cells is arm, dose and seed alone."""
    rule = find_variant(unit.arm)
    return Order(
        variant=rule,
        base=inputs.base,
        character=inputs.character,
        seed=unit.seed,
        device=device,
        preset=inputs.plan.preset,
        turned=turned(unit.training),
        k=str(inputs.plan.k),
        protected=inputs.protected.get(rule.own_basis),
        projectors=inputs.projectors,
        answers=draw_answers(inputs, unit.seed, device) if rule.reads_answers else None,
    )


def draw_answers(inputs: StudyInputs, seed: int, device: str) -> Answers:
    """The base's own answers, as `subspace` keeps them, with sampling seeds that follow from the cell's."""
    model, tokenizer = (
        load_model(inputs.base.path, device=str(pick_device(device))),
        load_tokenizer(inputs.base.path),
    )
    prompts = [prompt.text for prompt in inputs.character.subspace_prompts()]
    tokens = inputs.base.profile.answer_tokens
    return group_answers(ask_base(model, tokenizer, inputs.character, prompts, max_tokens=tokens, seed=seed))

"""Assay sensitivity of a report: whether a loss of δ would have been seen on this base with these problems."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from skippy.core.inference.sensitivity import PositiveControl, positive_control
from skippy.report.conclusions import Sensitivity
from skippy.report.means import POINTS
from skippy.report.numerals import moment, plain, signed
from skippy.report.pairing import difference_table, find_mismatch
from skippy.results import Arm, Comparison, Evaluation

HOW_TO_MAKE_ONE = (
    "train a variant at a dose that does cost mathematics (more steps, or a higher learning rate), evaluate it "
    "on the same problems, and compare again with control=RUN, the run id of that evaluation"
)


def judge_sensitivity(comparison: Comparison, base: Arm) -> Sensitivity:
    """The positive control among the arms and the stored evaluations of the same base, problems and sampling.

    Source: MATH.md §9; ICH E10 (2000), §1.5. Departure: the most damaging of all that were tried is the control,
    with a bound that holds for all of them together.
    """
    tried = [arm for arm in (*comparison.variants, *comparison.controls) if not find_mismatch(base, arm)]
    tables = {str(index): difference_table(arm, base) for index, arm in enumerate(tried)}
    margin = comparison.margin_points / POINTS
    control = positive_control(
        _of_one_shape(tables),
        margin,
        np.random.default_rng(comparison.bootstrap_seed),
        confidence=comparison.confidence,
    )
    arm = tried[int(control.name)] if control.name else None
    label = arm.label if arm else ""
    is_stored = arm is not None and arm not in comparison.variants
    stored = arm.evaluations[0] if arm and is_stored else None
    return Sensitivity(
        is_shown=control.is_shown,
        control=arm.name if arm else "",
        label=f"an earlier evaluation of {label}" if is_stored else label,
        is_stored=is_stored,
        runs=tuple(item.runs.get("eval", "") for item in arm.evaluations) if arm else (),
        mean_difference=control.bound.mean * POINTS if control.bound else None,
        upper_bound=control.bound.upper * POINTS if control.bound else None,
        margin=comparison.margin_points,
        tried=control.tried,
        reason=_explain(control, label, comparison.margin_points, stored),
        next_step="" if control.is_shown else HOW_TO_MAKE_ONE,
    )


def _of_one_shape(tables: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Arms with fewer training seeds are filled up with rows of NaN, which count as seeds that are not there."""
    seeds = max((len(table) for table in tables.values()), default=0)
    return {
        name: np.concatenate([table, np.full((seeds - len(table), table.shape[1]), np.nan)])
        for name, table in tables.items()
    }


def _explain(control: PositiveControl, label: str, margin_points: float, stored: Evaluation | None) -> str:
    if control.bound is None:
        return "no arm can be compared with the base, so nothing was tested"
    mean, upper = control.bound.mean * POINTS, control.bound.upper * POINTS
    earlier = ""
    if stored:
        when = f" at {moment(stored.evaluated)}" if stored.evaluated else ""
        run = f" in run {stored.runs['eval']}" if stored.runs.get("eval") else ""
        earlier = f", no arm of this comparison but evaluated{when}{run} on the same problems,"
    if control.is_shown:
        return (
            f"{label}{earlier} lost {plain(-mean)} points (upper bound {signed(upper)}), "
            f"so a loss of {margin_points:g} points is visible on these problems"
        )
    return (
        f"no arm and no control is shown to lose {margin_points:g} points: the most damaging, {label}"
        f"{earlier or ','} stands at {signed(mean)} points (upper bound {signed(upper)})"
    )

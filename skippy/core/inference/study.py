"""The whole analysis of a study, from its cells to everything that its page may say; pure and deterministic."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from skippy.core.inference.cells import Cell
from skippy.core.inference.collapse import CollapseCount, count_collapses, separation
from skippy.core.inference.curves import Curve, build_curves, points_of
from skippy.core.inference.frontier import (
    Difference,
    FrontierPoint,
    frontier,
    kept_at,
    matched_differences,
    predictor_at,
    unmatched_differences,
)
from skippy.core.inference.loss_dose import LossDose, loss_dose
from skippy.core.inference.predictions import Evidence, Fate, Prediction, judge_prediction
from skippy.core.inference.predictors import Estimate, rank_correlation, regression, regression_gain
from skippy.core.inference.sensitivity import PositiveControl, positive_control
from skippy.core.inference.simultaneous import Bound, simultaneous_bounds
from skippy.core.variants import comparisons

LEVELS = (0.5, 0.7, 0.9)
KL = ("kl_base_arm_everyday", "kl_arm_base_everyday", "kl_base_arm_problems", "kl_arm_base_problems")
LEAKAGE = ("rho_left_ratio", "rho_right_ratio")
CURVES = ("kl", "grad_norm", "entropy", "reward", "completion_length")
PREDICTORS = (
    *(*KL, *LEAKAGE, "delta_norm", "margin", "answer_length", "truncated", "coherence"),
    *(f"{part}_{name}" for part in ("early", "late") for name in CURVES),
)
"""What a cell may know of itself besides its scores; `early_…` and `late_…` are of the curves of its training."""


@dataclass(frozen=True)
class Kept:
    """What an arm keeps at a persona: difference to the base, and how coherent it is; None where out of reach."""

    arm: str
    training: str
    persona: float | int
    reached: int
    seeds: int
    loss: Bound | None
    coherence: float | None = None


@dataclass(frozen=True, eq=False)
class Analysis:
    """Everything a study can say."""

    margin: float | int  # δ, a share of one
    base_score: float  # avg_at_k of the base
    base_persona: float  # its mean persona score
    frontier: Sequence[FrontierPoint]  # every dose of every arm
    kept: Sequence[Kept]  # score kept at each persona level
    matched: Sequence[Difference]  # arm against arm at equal persona
    unmatched: Sequence[Difference]  # arm against arm at the largest α
    lost: Sequence[LossDose]  # the dose at which δ is lost, by arm and training dose
    control: PositiveControl  # whether the instrument saw a loss of δ
    correlations: Mapping[str, Estimate]  # predictor → rank correlation with the score lost
    regressions: Mapping[str, Estimate]  # predictors, joined by " + " → R² on seeds left out
    leakage_gain: Estimate | None  # what leakage explains beyond KL
    collapses: Sequence[CollapseCount]  # runs that collapsed
    separations: Mapping[str, Estimate]  # statistic → probability that a collapsed run has more of it
    fates: Sequence[Fate]  # of the predictions
    failed: Sequence[Cell]  # cells that are left out


def analyse(
    cells: Sequence[Cell],
    base: Cell,
    *,
    margin: float | int,
    seed: int,
    predictions: Sequence[Prediction] = (),
    levels: Sequence[float | int] = LEVELS,
) -> Analysis:
    """Analyse a study.

    Args:
        seed: of every draw; each question has a stream of its own, so that one more changes no other.
        levels: personas at which arms are compared; that of an arm that is one point comes to them.

    Raises:
        ReportError: cells that cannot be paired, or none at all.
    """
    curves = build_curves(cells, base)
    pairs = pairs_of([curve.arm for curve in curves], predictions)
    matched = matched_differences(curves, pairs, levels, _stream(seed, "matched"))
    lost = [
        loss_dose(curve, margin, _stream(seed, f"lost {curve.arm} {curve.training.label}"))
        for curve in curves
        if curve.point is None
    ]
    tables = {
        f"{curve.arm}, {curve.training.label}, α {curve.alphas[row]:g}": curve.differences[row]
        for curve in curves
        for row in range(1, len(curve.alphas))
    }
    names = sorted({name for cell in cells for name in cell.predictors})
    unmatched = unmatched_differences(curves, pairs, _stream(seed, "unmatched"))
    evidence = Evidence(cells, base, curves, [*matched, *unmatched], margin)
    return Analysis(
        margin=margin,
        base_score=base.score,
        base_persona=base.persona,
        frontier=frontier(curves, _stream(seed, "frontier")),
        kept=_kept(curves, sorted({*levels, *points_of(curves)}), _stream(seed, "kept")),
        matched=matched,
        unmatched=unmatched,
        lost=[found for found in lost if found is not None],
        control=positive_control(tables, margin, _stream(seed, "control")),
        correlations=_present({n: rank_correlation(cells, base, n, _stream(seed, n)) for n in names}),
        regressions=_present(
            {
                " + ".join(chosen): regression(cells, base, chosen, _stream(seed, "regression"))
                for chosen in (*((name,) for name in names), KL, (*KL, *LEAKAGE))
            }
        ),
        leakage_gain=regression_gain(cells, base, KL, LEAKAGE, _stream(seed, "gain")),
        collapses=count_collapses(cells, base),
        separations=_present({n: separation(cells, base, n, _stream(seed, f"tells {n}")) for n in names}),
        fates=[judge_prediction(p, evidence, _stream(seed, f"prediction {p.name}")) for p in predictions],
        failed=[cell for cell in cells if cell.is_failed],
    )


def pairs_of(arms: Iterable[str], predictions: Sequence[Prediction] = ()) -> tuple[tuple[str, str], ...]:
    """Which arms are set against which: treatments against all others, then what predictions ask beside."""
    names = tuple(dict.fromkeys(arms))
    asked = [(p.arguments.get("first"), p.arguments.get("second")) for p in predictions]
    extra = [(str(first), str(second)) for first, second in asked if {first, second} <= set(names)]
    return tuple(dict.fromkeys([*comparisons(names), *extra]))


def _kept(
    curves: Sequence[Curve], levels: Sequence[float | int], generator: np.random.Generator
) -> list[Kept]:
    tables = [(c, level, kept_at(c, level) - c.shares[0]) for c in curves for level in levels]
    reached = [int(np.isfinite(table).all(axis=1).sum()) for _, _, table in tables]
    usable = [table for (_, _, table), count in zip(tables, reached, strict=True) if count]
    bounds = iter(simultaneous_bounds(np.stack(usable), generator) if usable else ())
    return [
        Kept(
            c.arm,
            c.training.label,
            level,
            count,
            len(c.seeds),
            next(bounds) if count else None,
            _mean_of_any(predictor_at(c, "coherence", level)),
        )
        for (c, level, _), count in zip(tables, reached, strict=True)
    ]


def _mean_of_any(values: np.ndarray) -> float | None:
    return float(np.nanmean(values)) if np.isfinite(values).any() else None


def _present(found: Mapping[str, Estimate | None]) -> dict[str, Estimate]:
    return {name: one for name, one in found.items() if one is not None}


def _stream(seed: int, name: str) -> np.random.Generator:
    return np.random.default_rng([seed, *name.encode()])

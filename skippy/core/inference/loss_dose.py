"""At which dose an arm has lost δ.

Two answers. *Shown*: the smallest dose of the grid at which bounds that hold along the whole curve say so, lower
bound below −δ and upper bound below 0. *Crossing*: the dose at which the mean loss reaches δ, between two doses of
the grid, with an interval from drawing problems and seeds again. An arm that never loses δ is censored: its dose
is "more than the largest tried", and so may be the upper end of an interval.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from skippy.core.inference.cells import TrainingDose
from skippy.core.inference.curves import Curve
from skippy.core.inference.frontier import crossing
from skippy.core.inference.simultaneous import draw_counts, simultaneous_bounds

RESAMPLES = 2000


@dataclass(frozen=True)
class DoseEstimate:
    """A dose, with its interval; None is "more than the largest tried"."""

    value: float | None  # estimate
    lower: float | None  # end of the interval
    upper: float | None  # end of the interval


@dataclass(frozen=True)
class LossDose:
    """Where one arm at one training dose has lost δ."""

    arm: str  # variant
    training: TrainingDose  # training dose
    margin: float | int  # δ
    # smallest α of the grid at which the loss is shown; None where it is nowhere
    shown_alpha: float | int | None
    shown_persona: float | None  # mean persona there
    alpha: DoseEstimate  # α at which the mean loss reaches δ
    persona: DoseEstimate  # mean persona at that α
    reached: float  # share of draws in which the loss reaches δ at all
    largest_alpha: float | int  # largest tried
    largest_persona: float  # mean persona there
    by_seed: tuple[float | None, ...]  # α at which each seed's own loss reaches δ; None where it never does

    @property
    def is_censored(self) -> bool:
        """Whether the mean loss never reaches δ."""
        return self.alpha.value is None


def loss_dose(
    curve: Curve,
    margin: float | int,
    generator: np.random.Generator,
    *,
    confidence: float = 0.95,
    resamples: int = RESAMPLES,
) -> LossDose | None:
    """Where the arm has lost δ; None where no seed finished.

    The interval holds 2·`confidence` − 1 of the draws, so that each end is one-sided at `confidence`, as bounds
    elsewhere.

    Source: MATH §8. Departure: the interval is of the crossing, not of the grid dose at which it is shown.
    """
    is_whole = np.isfinite(curve.personas).all(axis=0)
    if not is_whole.any():
        return None
    differences, personas = curve.differences[:, is_whole], curve.personas[:, is_whole]
    alphas = np.array(curve.alphas, dtype=float)
    bounds = simultaneous_bounds(differences[1:], generator, confidence=confidence, resamples=resamples)
    shown = next((row for row, bound in enumerate(bounds, start=1) if bound.is_loss(margin)), None)
    losses, levels = _draws(differences, personas, generator, resamples)
    drawn = [_cross(-loss, margin, alphas, level) for loss, level in zip(losses, levels, strict=True)]
    value = _cross(-differences.mean(axis=(1, 2)), margin, alphas, personas.mean(axis=1))
    tail = 1 - confidence
    return LossDose(
        arm=curve.arm,
        training=curve.training,
        margin=float(margin),
        shown_alpha=None if shown is None else curve.alphas[shown],
        shown_persona=None if shown is None else float(personas[shown].mean()),
        alpha=_estimate(value[0], [draw[0] for draw in drawn], tail),
        persona=_estimate(value[1], [draw[1] for draw in drawn], tail),
        reached=sum(draw[0] is not None for draw in drawn) / resamples,
        largest_alpha=curve.alphas[-1],
        largest_persona=float(personas[-1].mean()),
        by_seed=tuple(
            _cross(-differences[:, seed].mean(axis=1), margin, alphas, personas[:, seed])[0]
            for seed in range(int(is_whole.sum()))
        ),
    )


def _draws(
    differences: Float[np.ndarray, "alphas seeds problems"],
    personas: Float[np.ndarray, "alphas seeds"],
    generator: np.random.Generator,
    resamples: int,
) -> tuple[Float[np.ndarray, "draws alphas"], Float[np.ndarray, "draws alphas"]]:
    """Mean difference and mean persona along the curve in every draw of seeds and problems."""
    seeds = draw_counts(differences.shape[1], resamples, generator) / differences.shape[1]
    problems = draw_counts(differences.shape[2], resamples, generator) / differences.shape[2]
    by_problem = np.einsum("bp,asp->bas", problems, differences, optimize=True)
    return np.einsum("bs,bas->ba", seeds, by_problem), seeds @ personas.T


def _cross(
    losses: np.ndarray, margin: float | int, alphas: np.ndarray, personas: np.ndarray
) -> tuple[float | None, float | None]:
    """α and persona at which the losses, 0 at α = 0, first reach the margin."""
    place = crossing(losses, margin)
    if place is None:
        return None, None
    low, high, weight = place
    alpha, persona = ((1 - weight) * axis[low] + weight * axis[high] for axis in (alphas, personas))
    return float(alpha), float(persona)


def _estimate(value: float | None, drawn: list[float | None], tail: float) -> DoseEstimate:
    ordered = np.sort([np.inf if one is None else one for one in drawn])
    low, high = np.quantile(ordered, [tail, 1 - tail], method="inverted_cdf")
    ends = [float(end) if np.isfinite(end) else None for end in (low, high)]
    return DoseEstimate(value, *ends)

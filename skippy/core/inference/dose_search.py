"""Matched persona: the α at which an arm's persona equals a target, found without looking at mathematics.

Persona need not rise with α: an overdose may fall back. So α is first raised step by step until the persona is
there, which stays on the rising branch, and then bisected between the last two.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from skippy.errors import ConfigError

SCAN_STEPS = 4
EVALUATIONS = 10


@dataclass(frozen=True)
class MeanPersona:
    """Persona at one dose, prompts as the unit."""

    mean: float  # over prompts, of the mean over a prompt's answers
    lower: float  # end of the interval, two-sided
    upper: float  # the other end
    deviation: float  # standard deviation of single answers
    prompts: int  # how many


def mean_persona(scores: Sequence[Sequence[float]]) -> MeanPersona:
    """Mean persona with Student's interval over prompts; the whole range [0, 1] for a single prompt.

    Args:
        scores: of the answers, by prompt; at least one answer each.
    """
    means = np.array([np.mean(of_prompt) for of_prompt in scores])
    single = np.concatenate([np.asarray(of_prompt, dtype=float) for of_prompt in scores])
    mean, count = float(means.mean()), len(means)
    deviation = float(single.std(ddof=1)) if single.size > 1 else 0.0
    if count < 2:
        return MeanPersona(mean, 0.0, 1.0, deviation, count)
    reach = float(stats.t.ppf(0.975, count - 1) * means.std(ddof=1) / np.sqrt(count))
    return MeanPersona(mean, mean - reach, mean + reach, deviation, count)


@dataclass(frozen=True)
class DoseMatch:
    """The dose that was found, or why there is none."""

    alpha: float  # nearest found, matched or not; the smaller of two equally near
    persona: float  # measured there
    is_matched: bool  # the persona is within the tolerance
    reason: str  # why not, in a sentence; empty where it is
    measured: tuple[tuple[float, float], ...]  # every α that was measured, with its persona, in order


def match_dose(
    measure: Callable[[float], float],
    target: float | int,
    tolerance: float | int,
    *,
    largest: float | int = 1.0,
    scan_steps: int = SCAN_STEPS,
    evaluations: int = EVALUATIONS,
) -> DoseMatch:
    """Bisection on α for `measure(α) = target` on the rising branch.

    Args:
        measure: mean persona at an α, on prompts and seeds of its own; each α is measured once.
        target: persona to match.
        tolerance: accepted distance; well below the 0.25 SD of single answers within which personas count as equal.
        largest: no α beyond this one is tried.
        scan_steps: equal steps in which α is raised until the target is passed.
        evaluations: measurements at most.

    Raises:
        ConfigError: settings under which nothing could be measured or matched.

    Source: MATH §8; bisection. Departure: the step-wise rise before it.
    """
    if not (tolerance > 0 and largest > 0 and scan_steps >= 1 and evaluations >= 1):
        raise ConfigError(
            "A dose cannot be searched for with these settings.",
            where="tolerance, largest, scan_steps, evaluations",
            expected="all positive",
            found=f"{tolerance}, {largest}, {scan_steps}, {evaluations}",
            next_step="pass a tolerance of a tenth of the SD of the persona scores",
        )
    measured: list[tuple[float, float]] = []

    def look(alpha: float) -> float:
        measured.append((alpha, float(measure(alpha))))
        return measured[-1][1]

    low = high = 0.0
    for step in range(1, scan_steps + 1):
        if len(measured) == evaluations:
            return _ended(measured, target, tolerance, f"{evaluations} measurements were not enough")
        low, high = high, largest * step / scan_steps
        persona = look(high)
        if abs(persona - target) <= tolerance:
            return _ended(measured, target, tolerance, "")
        if persona > target:
            break
    else:
        return _ended(
            measured, target, tolerance, f"the persona never reaches {target:.3g} up to α = {largest:g}"
        )
    while len(measured) < evaluations:
        middle = (low + high) / 2
        persona = look(middle)
        if abs(persona - target) <= tolerance:
            break
        low, high = (middle, high) if persona < target else (low, middle)
    return _ended(measured, target, tolerance, f"{evaluations} measurements were not enough")


def _ended(
    measured: list[tuple[float, float]], target: float | int, tolerance: float | int, reason: str
) -> DoseMatch:
    alpha, persona = min(measured, key=lambda pair: (abs(pair[1] - target), pair[0]))
    is_matched = abs(persona - target) <= tolerance
    return DoseMatch(alpha, persona, is_matched, "" if is_matched else reason, tuple(measured))

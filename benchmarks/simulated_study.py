"""Studies played out: dose curves with a known loss, to try every claim of a study's page on.

Problem i has a base rate p_i ~ Beta(a, b) as in `simulation`. At scale α the rate is
`σ(logit p_i − h(α)·(1 + ω z_i + τ u_s))` with z and u normal, h(α) the arm's harm in logits; a run is carried
away with its seed u_s. Persona rises as `α·reach`, a little differently for each seed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from scipy import special

from skippy.core.inference.cells import NO_TRAINING, Cell, TrainingDose

Harm = Callable[[float], float]


@dataclass(frozen=True)
class World:
    """What a simulated study is like.

    Attributes:
        problems: asked of every cell.
        samples: k.
        prompts: everyday prompts.
        seeds: trainings of an arm.
        alphas: scales.
        ceiling: every base rate is drawn above this one; near 1 the instrument can hardly lose.
        problem_spread: ω, of effects between problems.
        seed_spread: τ, of effects between seeds.
        persona_spread: SD over seeds of the persona at α = 1.
    """

    problems: int = 80
    samples: int = 4
    prompts: int = 12
    seeds: int = 6
    alphas: tuple[float | int, ...] = (0.25, 0.5, 0.75, 1.0)
    ceiling: float | int = 0.0
    problem_spread: float | int = 0.3
    seed_spread: float | int = 0.3
    persona_spread: float | int = 0.03


def flat(alpha: float) -> float:
    """No harm at any dose."""
    return 0.0


def ramp(slope: float | int) -> Harm:
    """Harm in proportion to α."""
    return lambda alpha: slope * alpha


def cliff(edge: float | int, depth: float | int) -> Harm:
    """No harm up to `edge`, all of it beyond."""
    return lambda alpha: depth if alpha > edge else 0.0


def draw_study(
    arms: Mapping[str, Harm],
    world: World,
    generator: np.random.Generator,
    *,
    training: TrainingDose = TrainingDose(0.001, 0.04, 60),  # noqa: B008 - frozen
    reach: float | int = 0.95,
) -> tuple[Cell, list[Cell]]:
    """The base and every cell of one simulated study.

    Args:
        arms: arm → harm by α.
        world: what the study is like.
        generator: source of randomness.
        training: of every arm.
        reach: mean persona at α = 1.

    Returns:
        The base, and the cells; the predictor `harm` is h(α)(1 + τ u_s), `noise` means nothing.
    """
    rates = world.ceiling + (1 - world.ceiling) * generator.beta(0.7, 0.7, world.problems)
    latent = special.logit(np.clip(rates, 1e-9, 1 - 1e-9))
    names = [f"problem {index}" for index in range(world.problems)]
    prompts = [f"prompt {index}" for index in range(world.prompts)]

    def cell(
        arm: str, dose: TrainingDose, alpha: float, seed: int, shift: np.ndarray, persona: float
    ) -> Cell:
        counts = generator.binomial(world.samples, special.expit(latent - shift))
        scores = np.clip(persona + 0.05 * generator.normal(size=world.prompts), 0, 1)
        predictors = {"harm": float(shift.mean()), "noise": float(generator.normal())}
        return Cell(
            arm,
            dose,
            alpha,
            seed,
            world.samples,
            dict(zip(names, counts.tolist(), strict=True)),
            dict(zip(prompts, scores.tolist(), strict=True)),
            predictors,
        )

    base = cell("base", NO_TRAINING, 0.0, -1, np.zeros(world.problems), 0.02)
    of_problem = world.problem_spread * generator.normal(size=world.problems)
    cells = []
    for seed in range(world.seeds):
        for arm, harm in arms.items():
            luck = world.seed_spread * generator.normal()
            top = reach + world.persona_spread * generator.normal()
            for alpha in world.alphas:
                shift = harm(alpha) * (1 + of_problem + luck)
                cells.append(cell(arm, training, alpha, seed, shift, alpha * top))
    return base, cells

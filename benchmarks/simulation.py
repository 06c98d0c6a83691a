"""Evaluations played out: counts of correct samples with a known true difference, to try the tests on.

Problem i has a base rate p_i ~ Beta(a, b), U-shaped like AIME: most problems are nearly always or nearly
never solved. The variant's rate is `σ(logit p_i + s + ω z_i + τ u_s)` with z and u normal: effects differ
between problems and vanish at the ends. The shift s is solved so that the population mean of p′ − p is
exactly the difference asked.

Everyday answers are simpler: normal effects of prompt, of arm and prompt together, and of the single answer.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy import optimize, special, stats

GRID_RATES, GRID_EFFECTS = 801, 81


@dataclass(frozen=True)
class Population:
    """What problems are like.

    Attributes:
        alpha: first shape of the Beta law of base rates.
        beta: second shape.
        effect_logits: ω, SD over problems of the variant's effect, in logits.
        seed_logits: τ, SD over training seeds of an effect common to all problems, in logits.
    """

    alpha: float = 0.7
    beta: float = 0.7
    effect_logits: float = 0.4
    seed_logits: float = 0.0

    def shift_for(self, difference: float) -> float:
        """The s with E[p′ − p] = `difference` over problems and seeds, by quadrature over quantiles."""
        rates = stats.beta.ppf((np.arange(GRID_RATES) + 0.5) / GRID_RATES, self.alpha, self.beta)
        effects = math.hypot(self.effect_logits, self.seed_logits) * stats.norm.ppf(
            (np.arange(GRID_EFFECTS) + 0.5) / GRID_EFFECTS
        )
        latent = _logit(rates)[:, None] + effects

        def excess(shift: float) -> float:
            return float((special.expit(latent + shift) - rates[:, None]).mean()) - difference

        return float(optimize.brentq(excess, -6.0, 6.0))


def draw_shares(
    n: int,
    k: int,
    shift: float,
    population: Population,
    generator: np.random.Generator,
    *,
    seeds: int = 1,
) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, "seeds n"]]:
    """Observed p̂ of the base and of each training seed of the variant, on the same n new problems.

    Args:
        n: problems.
        k: samples a problem.
        shift: s, from `population.shift_for(true difference)`.
        population: what problems are like.
        generator: source of randomness.
        seeds: training seeds of the variant.
    """
    rates = generator.beta(population.alpha, population.beta, n)
    of_problem = population.effect_logits * generator.normal(size=(1, n))
    of_seed = population.seed_logits * generator.normal(size=(seeds, 1))
    changed = special.expit(_logit(rates) + shift + of_problem + of_seed)
    base = generator.binomial(k, rates)
    variant = generator.binomial(k, changed)
    return base / k, variant / k


@dataclass(frozen=True)
class Chatter:
    """What everyday answers are like; all SDs in persona score.

    Attributes:
        prompt_sd: between prompts, common to both arms.
        taste_sd: between prompts in the difference of two arms: one is funnier on this prompt, the other on that.
        answer_sd: between answers to one prompt.
    """

    prompt_sd: float = 0.6
    taste_sd: float = 0.5
    answer_sd: float = 0.8

    @property
    def single_sd(self) -> float:
        """SD of a single answer's score over all prompts, the unit of "equal personality"."""
        return math.hypot(self.prompt_sd, self.taste_sd / math.sqrt(2), self.answer_sd)


def draw_personas(
    prompts: int, answers: int, difference: float, chatter: Chatter, generator: np.random.Generator
) -> tuple[Float[np.ndarray, "prompts answers"], Float[np.ndarray, "prompts answers"]]:
    """Persona scores of two arms whose true means differ by `difference` (first − second), on the same prompts.

    Args:
        prompts: held-out everyday prompts.
        answers: answers of each arm to a prompt.
        difference: true mean difference.
        chatter: what answers are like.
        generator: source of randomness.
    """
    common = chatter.prompt_sd * generator.normal(size=(prompts, 1))
    own = chatter.taste_sd / math.sqrt(2) * generator.normal(size=(2, prompts, 1))
    noise = chatter.answer_sd * generator.normal(size=(2, prompts, answers))
    first, second = common + own + noise
    return first + difference, second


def _logit(rates: np.ndarray) -> np.ndarray:
    return special.logit(np.clip(rates, 1e-9, 1 - 1e-9))

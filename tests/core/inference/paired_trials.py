"""The margin of the paired tests, and how often trials of 60 problems × 16 samples pass them."""

import numpy as np

from benchmarks.simulation import Population, draw_shares
from skippy.core.inference.paired import non_inferiority

MARGIN = 0.05


def preserved_rate(difference: float, population: Population, decide, trials: int = 1200) -> float:
    shift, generator = population.shift_for(difference), np.random.default_rng(1)
    count = 0
    for _ in range(trials):
        base, variant = draw_shares(60, 16, shift, population, generator)
        count += decide(base, variant[0])
    return count / trials


def paired(base: np.ndarray, variant: np.ndarray) -> bool:
    return non_inferiority(variant - base, MARGIN).verdict.startswith("preserved")

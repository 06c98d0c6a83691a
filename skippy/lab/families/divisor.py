"""The greatest common divisor."""

from __future__ import annotations

import random

from skippy.lab.families.exercise import Exercise, Family, solve, word
from skippy.lab.families.steps import divide

# By level: largest number, largest common factor put in, most divisions allowed.
SHAPES = {1: (50, 9, 3), 2: (99, 15, 4), 3: (300, 30, 4), 4: (999, 60, 5), 5: (999, 60, 7)}
WORDINGS = (
    "Find the greatest common divisor of {a} and {b}.",
    "What is the greatest common divisor of {a} and {b}?",
)


def draw_divisor(random_source: random.Random, level: int) -> Exercise:
    """Euclid's algorithm, one division a line."""
    largest, factors, most = SHAPES[level]
    while True:
        factor = random_source.randint(2, factors)
        b, a = sorted(random_source.sample(range(factor, largest + 1, factor), 2))
        lines, high, low = [], a, b
        while low:
            lines.append(divide(high, low))
            high, low = low, high % low
        if len(lines) <= most:
            question = word(random_source, WORDINGS, a=a, b=b)
            return Exercise((a, b), question, solve(lines, high), high)


DIVISOR = Family("divisor", "the greatest common divisor", draw_divisor)

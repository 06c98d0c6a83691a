"""A sequence in which each term is the sum of the two before it."""

from __future__ import annotations

import random

from skippy.lab.families.exercise import Exercise, Family, solve, word

# By level: largest first terms and range of the index asked for.
SHAPES = {1: (9, (4, 5)), 2: (15, (5, 7)), 3: (30, (7, 8)), 4: (20, (9, 10)), 5: (40, (9, 12))}
WORDINGS = (
    "A sequence begins {a}, {b} and each later term is the sum of the two before it. Find term {n}.",
    "Terms 1 and 2 are {a} and {b}. Each later term is the sum of the two before it. Find term {n}.",
)


def draw_recurrence(random_source: random.Random, level: int) -> Exercise:
    """x_{i+1} = x_i + x_{i−1}."""
    largest, bounds = SHAPES[level]
    first, second = random_source.randint(1, largest), random_source.randint(1, largest)
    index = random_source.randint(*bounds)
    values = [first, second]
    while len(values) < index:
        values.append(values[-1] + values[-2])
    question = word(random_source, WORDINGS, a=first, b=second, n=index)
    lines = [" ".join(str(value) for value in values)]
    return Exercise((first, second, index), question, solve(lines, values[-1]), values[-1])


RECURRENCE = Family("recurrence", "each term the sum of the two before it", draw_recurrence)

"""A function applied again and again."""

from __future__ import annotations

import random

from skippy.lab.families.exercise import Exercise, Family, solve, word

# By level: largest start and range of the number of steps.
SHAPES = {1: (30, (2, 3)), 2: (60, (4, 5)), 3: (99, (6, 7)), 4: (99, (8, 10)), 5: (150, (9, 10))}
WORDINGS = (
    "Start with {a}. In each step an even number is halved and an odd x becomes 3x+{c}. "
    "Find the number after {n} steps.",
    "Begin at {a}. Even numbers are halved, an odd x becomes 3x+{c}. What is reached after {n} steps?",
)


def draw_hailstone(random_source: random.Random, level: int) -> Exercise:
    """Apply x → x/2 if even, 3x + c if odd."""
    largest, bounds = SHAPES[level]
    start, summand = random_source.randint(3, largest), random_source.choice((1, 3, 5, 7))
    steps = random_source.randint(*bounds)
    values = [start]
    for _ in range(steps):
        value = values[-1]
        values.append(value // 2 if value % 2 == 0 else 3 * value + summand)
    question = word(random_source, WORDINGS, a=start, c=summand, n=steps)
    lines = [" ".join(str(value) for value in values)]
    return Exercise((start, summand, steps), question, solve(lines, values[-1]), values[-1])


HAILSTONE = Family("hailstone", "a function applied again and again", draw_hailstone)

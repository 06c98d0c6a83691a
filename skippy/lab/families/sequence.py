"""A far term of an arithmetic sequence."""

from __future__ import annotations

import random

from skippy.lab.families.exercise import Exercise, Family, solve, word
from skippy.lab.families.steps import add, multiply, subtract

# By level: ranges of the first term, the difference and the index.
RANGES = {
    1: ((1, 9), (2, 9), (5, 10)),
    2: ((10, 60), (2, 9), (11, 40)),
    3: ((10, 99), (11, 60), (5, 10)),
    4: ((10, 99), (11, 40), (12, 24)),
    5: ((10, 99), (21, 39), (18, 30)),
}
WORDINGS = (
    "An arithmetic sequence begins {a}, {b}. Find term {n}.",
    "Term 1 of an arithmetic sequence is {a} and term 2 is {b}. Find term {n}.",
)


def draw_sequence(random_source: random.Random, level: int) -> Exercise:
    """First term plus (n − 1)·d from the first two terms."""
    first, difference, index = (random_source.randint(*bounds) for bounds in RANGES[level])
    second, rise = first + difference, (index - 1) * difference
    lines = [subtract(second, first), subtract(index, 1), *multiply(difference, index - 1), add(first, rise)]
    answer = first + rise
    question = word(random_source, WORDINGS, a=first, b=second, n=index)
    return Exercise((first, second, index), question, solve(lines, answer), answer)


SEQUENCE = Family("sequence", "a far term of an arithmetic sequence", draw_sequence)

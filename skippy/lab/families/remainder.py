"""Remainder of a product plus a number."""

from __future__ import annotations

import random

from skippy.lab.families.exercise import Exercise, Family, solve, word
from skippy.lab.families.steps import add, divide, multiply

# By level: ranges of the two factors, the summand and the divisor.
RANGES = {
    1: ((2, 9), (2, 9), (1, 9), (3, 9)),
    2: ((11, 29), (2, 9), (1, 29), (3, 9)),
    3: ((21, 99), (3, 9), (10, 99), (3, 9)),
    4: ((11, 39), (11, 29), (10, 99), (3, 9)),
    5: ((41, 99), (11, 29), (10, 99), (3, 9)),
}
WORDINGS = (
    "Find the remainder when {a}*{b}+{c} is divided by {m}.",
    "What remains when {a}*{b}+{c} is divided by {m}?",
)


def draw_remainder(random_source: random.Random, level: int) -> Exercise:
    """(a·b + c) mod m."""
    a, b, c, m = (random_source.randint(*bounds) for bounds in RANGES[level])
    total = a * b + c
    answer = total % m
    lines = [*multiply(a, b), add(a * b, c), divide(total, m)]
    question = word(random_source, WORDINGS, a=a, b=b, c=c, m=m)
    return Exercise((a, b, c, m), question, solve(lines, answer), answer)


REMAINDER = Family("remainder", "remainder of a product plus a number", draw_remainder)

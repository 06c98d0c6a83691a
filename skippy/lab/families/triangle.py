"""Twice the area of a triangle with integer vertices."""

from __future__ import annotations

import random

from skippy.lab.families.exercise import Exercise, Family, solve, word
from skippy.lab.families.steps import multiply, subtract

# By level: ranges of the first vertex's x and y, then of the second's.
RANGES = {
    1: ((1, 9), (1, 9), (1, 9), (1, 9)),
    2: ((10, 40), (1, 9), (10, 40), (1, 9)),
    3: ((30, 99), (2, 9), (30, 99), (2, 9)),
    4: ((11, 39), (1, 9), (11, 60), (11, 29)),
    5: ((21, 60), (2, 9), (21, 60), (11, 19)),
}
WORDINGS = (
    "Find twice the area of the triangle with vertices (0,0), ({a},{b}) and ({c},{d}).",
    "A triangle has vertices (0,0), ({a},{b}), ({c},{d}). What is twice its area?",
)


def draw_triangle(random_source: random.Random, level: int) -> Exercise:
    """|a·d − b·c|."""
    a = b = c = d = 0
    while a * d == c * b:  # the vertices must not lie on one line
        a, b, c, d = (random_source.randint(*bounds) for bounds in RANGES[level])
    high, low = max(a * d, c * b), min(a * d, c * b)
    lines = [*multiply(a, d), *multiply(c, b), subtract(high, low)]
    answer = high - low
    question = word(random_source, WORDINGS, a=a, b=b, c=c, d=d)
    return Exercise((a, b, c, d), question, solve(lines, answer), answer)


TRIANGLE = Family("triangle", "twice the area of a triangle with integer vertices", draw_triangle)

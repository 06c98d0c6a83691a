"""Sums of powers of the roots of a quadratic, without the roots."""

from __future__ import annotations

import random

from skippy.lab.families.exercise import Exercise, Family, solve, word
from skippy.lab.families.steps import multiply, subtract

# By level: range of the sum and of the product of the roots, and the power.
SHAPES = {
    1: ((3, 9), (2, 30), 2),
    2: ((10, 19), (5, 60), 2),
    3: ((20, 34), (10, 99), 2),
    4: ((5, 12), (2, 30), 3),
    5: ((6, 17), (2, 99), 3),
}
WORDINGS = (
    "The roots of x^2-{s}x+{p} are r and s. Find r^{n}+s^{n}.",
    "Let r and s be the roots of x^2-{s}x+{p}. What is r^{n}+s^{n}?",
)


def draw_roots(random_source: random.Random, level: int) -> Exercise:
    """Vieta: r²+s² = S²−2P and r³+s³ = S(S²−3P)."""
    sums, products, power = SHAPES[level]
    total, product = random_source.randint(*sums), random_source.randint(*products)
    square, multiple = total * total, power * product
    inner = square - multiple
    lines = [*multiply(total, total), *multiply(product, power), subtract(square, multiple)]
    answer = inner
    if power == 3:
        lines += multiply(inner, total)
        answer = inner * total
    question = word(random_source, WORDINGS, s=total, p=product, n=power)
    return Exercise((total, product, power), question, solve(lines, answer), answer)


ROOTS = Family("roots", "sums of powers of the roots of a quadratic", draw_roots)

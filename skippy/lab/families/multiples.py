"""How many integers up to N are divisible by one of two numbers."""

from __future__ import annotations

import random
from math import gcd

from skippy.lab.families.exercise import Exercise, Family, solve, word
from skippy.lab.families.steps import add, multiply, subtract

# By level: range of N, and the divisors to choose from.
SHAPES = {
    1: ((20, 70), (2, 3, 4, 5)),
    2: ((50, 200), (2, 3, 4, 5, 7)),
    3: ((200, 999), (2, 3, 4, 5, 7)),
    4: ((200, 999), (3, 5, 7, 8, 9, 11)),
    5: ((500, 999), (6, 7, 8, 9, 11, 13)),
}
WORDINGS = (
    "How many integers from 1 to {n} are divisible by {a} or {b}?",
    "Count the integers from 1 to {n} that are divisible by {a} or {b}.",
)


def draw_multiples(random_source: random.Random, level: int) -> Exercise:
    """Inclusion and exclusion: ⌊N/a⌋ + ⌊N/b⌋ − ⌊N/ab⌋ for coprime a < b."""
    bounds, divisors = SHAPES[level]
    number = random_source.randint(*bounds)
    pairs = [(a, b) for a in divisors for b in divisors if a < b and gcd(a, b) == 1]
    a, b = random_source.choice(pairs)
    by_a, by_b, by_both = number // a, number // b, number // (a * b)
    answer = by_a + by_b - by_both
    lines = [f"{number}/{a}:{by_a}", f"{number}/{b}:{by_b}", *multiply(a, b), f"{number}/{a * b}:{by_both}"]
    lines += [add(by_a, by_b), subtract(by_a + by_b, by_both)]
    question = word(random_source, WORDINGS, n=number, a=a, b=b)
    return Exercise((number, a, b), question, solve(lines, answer), answer)


MULTIPLES = Family("multiples", "integers divisible by one of two numbers", draw_multiples)

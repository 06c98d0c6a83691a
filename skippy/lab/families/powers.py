"""Remainder of a power times a number."""

from __future__ import annotations

import random

from skippy.lab.families.exercise import Exercise, Family, solve, word

EXPONENTS = {1: (2, 3), 2: (4, 5), 3: (6, 7), 4: (8, 10), 5: (11, 14)}
WORDINGS = (
    "Find the remainder when {c}*{a}^{n} is divided by {m}.",
    "What remains when {c}*{a}^{n} is divided by {m}?",
)


def draw_powers(random_source: random.Random, level: int) -> Exercise:
    """c·aⁿ mod m, one factor a line, each reduced at once."""
    a, c = random_source.randint(2, 9), random_source.randint(2, 9)
    m, n = random_source.randint(5, 11), random_source.randint(*EXPONENTS[level])
    residue, residues = c % m, [c % m]
    for _ in range(n):
        residue = residue * a % m
        residues.append(residue)
    lines = [" ".join(str(value) for value in residues)]
    question = word(random_source, WORDINGS, a=a, c=c, n=n, m=m)
    return Exercise((c, a, n, m), question, solve(lines, residue), residue)


POWERS = Family("powers", "remainder of a power times a number", draw_powers)

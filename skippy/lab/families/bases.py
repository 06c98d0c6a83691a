"""A number written in another base."""

from __future__ import annotations

import random

from skippy.lab.families.exercise import Exercise, Family, solve, word

# By level: range of the base and number of digits.
SHAPES = {1: ((4, 9), 2), 2: ((3, 6), 3), 3: ((6, 9), 3), 4: ((4, 6), 4), 5: ((6, 7), 4)}
WORDINGS = (
    "In base {b} a number is written {digits}. Find it in base ten.",
    "Convert {digits} from base {b} to base ten.",
)


def draw_bases(random_source: random.Random, level: int) -> Exercise:
    """Horner's rule, one digit a line."""
    bounds, length = SHAPES[level]
    base = random_source.randint(*bounds)
    digits = [random_source.randint(1, base - 1)]
    digits += [random_source.randint(0, base - 1) for _ in range(length - 1)]
    value, lines = digits[0], []
    for digit in digits[1:]:
        lines.append(f"{value}*{base}+{digit}={value * base}+{digit}={value * base + digit}")
        value = value * base + digit
    written = int("".join(str(digit) for digit in digits))
    question = word(random_source, WORDINGS, b=base, digits=written)
    return Exercise((base, written), question, solve(lines, value), value)


BASES = Family("bases", "a number written in another base", draw_bases)

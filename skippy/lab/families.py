"""The families of problems: what each asks, how hard its levels are, and how an exercise of one is drawn and worked.

A function per family, put into `FAMILIES` where it stands. All write their arithmetic by the same few lines, so that
skill in one family carries to the others.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import gcd
from typing import Any

LARGEST_ANSWER = 999
TRAINED_LEVELS = (1, 2, 3, 4)
LEVELS = (*TRAINED_LEVELS, 5)  # the last is harder than anything trained on

Drawn = tuple[dict[str, int], list[str], int]
"""The numbers of an exercise as its wording names them, its worked lines, and its answer."""
Numbers = Callable[[random.Random, Any], Drawn]


@dataclass(frozen=True)
class Exercise:
    r"""One question with its worked solution."""

    parameters: tuple[int, ...]  # the numbers that define it; its identity, whatever the wording
    question: str  # what is asked
    solution: str  # worked lines, the last one `\boxed{answer}`
    answer: int  # an integer, 0–999 once accepted by the generator


@dataclass(frozen=True)
class Family:
    """A kind of problem."""

    name: str  # its identifier in tables and metrics
    sentence: str  # what it asks, for people
    levels: Mapping[int, Any]  # what makes a level as hard as it is; the family's function says what it means
    wordings: tuple[str, str]  # of the same question
    numbers: Numbers

    def draw(self, source: random.Random, level: int) -> Exercise:
        """An exercise of a level; its answer may fall outside 0–999 and is then redrawn."""
        numbers, lines, answer = self.numbers(source, self.levels[level])
        question = source.choice(self.wordings).format(**numbers)
        solution = "\n".join([*lines, f"\\boxed{{{answer}}}"])
        return Exercise(tuple(numbers.values()), question, solution, answer)


FAMILIES: dict[str, Family] = {}
"""By name, in the order in which they are asked."""


def family(
    name: str, sentence: str, levels: Mapping[int, Any], wordings: tuple[str, str]
) -> Callable[[Numbers], Numbers]:
    """Put the function below into `FAMILIES`."""

    def register(numbers: Numbers) -> Numbers:
        FAMILIES[name] = Family(name, sentence, levels, wordings, numbers)
        return numbers

    return register


def add(left: int, right: int) -> str:
    """`12+7=19`."""
    return f"{left}+{right}={left + right}"


def subtract(left: int, right: int) -> str:
    """`19-7=12`."""
    return f"{left}-{right}={left - right}"


def divide(number: int, divisor: int) -> str:
    """`59=8*7+3`: quotient and remainder in one line."""
    return f"{number}={number // divisor}*{divisor}+{number % divisor}"


def multiply(left: int, right: int) -> list[str]:
    """One line where a factor is a digit or a multiple of ten, else tens, units and their sum."""
    if min(left, right) < 10 or left % 10 == 0 or right % 10 == 0:
        return [f"{left}*{right}={left * right}"]
    tens, units = right // 10 * 10, right % 10
    return [f"{left}*{tens}={left * tens}", f"{left}*{units}={left * units}", add(left * tens, left * units)]


def in_a_row(values: list[int]) -> list[str]:
    """All on one line."""
    return [" ".join(str(value) for value in values)]


@family(
    "remainder",
    "remainder of a product plus a number",
    {
        1: ((2, 9), (2, 9), (1, 9), (3, 9)),
        2: ((11, 29), (2, 9), (1, 29), (3, 9)),
        3: ((21, 99), (3, 9), (10, 99), (3, 9)),
        4: ((11, 39), (11, 29), (10, 99), (3, 9)),
        5: ((41, 99), (11, 29), (10, 99), (3, 9)),
    },
    (
        "Find the remainder when {a}*{b}+{c} is divided by {m}.",
        "What remains when {a}*{b}+{c} is divided by {m}?",
    ),
)
def _remainder(source: random.Random, level: Any) -> Drawn:
    """(a·b + c) mod m; a level is the ranges of a, b, c and m."""
    a, b, c, m = (source.randint(*bounds) for bounds in level)
    lines = [*multiply(a, b), add(a * b, c), divide(a * b + c, m)]
    return {"a": a, "b": b, "c": c, "m": m}, lines, (a * b + c) % m


@family(
    "powers",
    "remainder of a power times a number",
    {1: (2, 3), 2: (4, 5), 3: (6, 7), 4: (8, 10), 5: (11, 14)},
    (
        "Find the remainder when {c}*{a}^{n} is divided by {m}.",
        "What remains when {c}*{a}^{n} is divided by {m}?",
    ),
)
def _powers(source: random.Random, level: Any) -> Drawn:
    """c·aⁿ mod m, one factor after another, each reduced at once; a level is the range of n."""
    a, c = source.randint(2, 9), source.randint(2, 9)
    m, n = source.randint(5, 11), source.randint(*level)
    residues = [c % m]
    for _ in range(n):
        residues.append(residues[-1] * a % m)
    return {"c": c, "a": a, "n": n, "m": m}, in_a_row(residues), residues[-1]


@family(
    "sequence",
    "a far term of an arithmetic sequence",
    {
        1: ((1, 9), (2, 9), (5, 10)),
        2: ((10, 60), (2, 9), (11, 40)),
        3: ((10, 99), (11, 60), (5, 10)),
        4: ((10, 99), (11, 40), (12, 24)),
        5: ((10, 99), (21, 39), (18, 30)),
    },
    (
        "An arithmetic sequence begins {a}, {b}. Find term {n}.",
        "Term 1 of an arithmetic sequence is {a} and term 2 is {b}. Find term {n}.",
    ),
)
def _sequence(source: random.Random, level: Any) -> Drawn:
    """First term plus (n − 1)·d from the first two; a level is the ranges of the first term, of d and of n."""
    first, difference, n = (source.randint(*bounds) for bounds in level)
    second, rise = first + difference, (n - 1) * difference
    lines = [subtract(second, first), subtract(n, 1), *multiply(difference, n - 1), add(first, rise)]
    return {"a": first, "b": second, "n": n}, lines, first + rise


@family(
    "bases",
    "a number written in another base",
    {1: ((4, 9), 2), 2: ((3, 6), 3), 3: ((6, 9), 3), 4: ((4, 6), 4), 5: ((6, 7), 4)},
    (
        "In base {b} a number is written {digits}. Find it in base ten.",
        "Convert {digits} from base {b} to base ten.",
    ),
)
def _bases(source: random.Random, level: Any) -> Drawn:
    """Horner's rule, one digit a line; a level is the range of the base and the number of digits."""
    bounds, length = level
    base = source.randint(*bounds)
    digits = [source.randint(1, base - 1), *(source.randint(0, base - 1) for _ in range(length - 1))]
    value, lines = digits[0], []
    for digit in digits[1:]:
        lines.append(f"{value}*{base}+{digit}={value * base}+{digit}={value * base + digit}")
        value = value * base + digit
    return {"b": base, "digits": int("".join(map(str, digits)))}, lines, value


@family(
    "triangle",
    "twice the area of a triangle with integer vertices",
    {
        1: ((1, 9), (1, 9), (1, 9), (1, 9)),
        2: ((10, 40), (1, 9), (10, 40), (1, 9)),
        3: ((30, 99), (2, 9), (30, 99), (2, 9)),
        4: ((11, 39), (1, 9), (11, 60), (11, 29)),
        5: ((21, 60), (2, 9), (21, 60), (11, 19)),
    },
    (
        "Find twice the area of the triangle with vertices (0,0), ({a},{b}) and ({c},{d}).",
        "A triangle has vertices (0,0), ({a},{b}), ({c},{d}). What is twice its area?",
    ),
)
def _triangle(source: random.Random, level: Any) -> Drawn:
    """|a·d − b·c|; a level is the ranges of a, b, c and d."""
    a = b = c = d = 0
    while a * d == c * b:  # the vertices must not lie on one line
        a, b, c, d = (source.randint(*bounds) for bounds in level)
    low, high = sorted((a * d, c * b))
    lines = [*multiply(a, d), *multiply(c, b), subtract(high, low)]
    return {"a": a, "b": b, "c": c, "d": d}, lines, high - low


@family(
    "roots",
    "sums of powers of the roots of a quadratic",
    {
        1: ((3, 9), (2, 30), 2),
        2: ((10, 19), (5, 60), 2),
        3: ((20, 34), (10, 99), 2),
        4: ((5, 12), (2, 30), 3),
        5: ((6, 17), (2, 99), 3),
    },
    (
        "The roots of x^2-{s}x+{p} are r and s. Find r^{n}+s^{n}.",
        "Let r and s be the roots of x^2-{s}x+{p}. What is r^{n}+s^{n}?",
    ),
)
def _roots(source: random.Random, level: Any) -> Drawn:
    """Vieta: r²+s² = S²−2P and r³+s³ = S(S²−3P); a level is the ranges of S and P, and the power."""
    sums, products, power = level
    total, product = source.randint(*sums), source.randint(*products)
    square, multiple = total * total, power * product
    answer = square - multiple
    lines = [*multiply(total, total), *multiply(product, power), subtract(square, multiple)]
    if power == 3:
        lines += multiply(answer, total)
        answer *= total
    return {"s": total, "p": product, "n": power}, lines, answer


@family(
    "multiples",
    "integers divisible by one of two numbers",
    {
        1: ((20, 70), (2, 3, 4, 5)),
        2: ((50, 200), (2, 3, 4, 5, 7)),
        3: ((200, 999), (2, 3, 4, 5, 7)),
        4: ((200, 999), (3, 5, 7, 8, 9, 11)),
        5: ((500, 999), (6, 7, 8, 9, 11, 13)),
    },
    (
        "How many integers from 1 to {n} are divisible by {a} or {b}?",
        "Count the integers from 1 to {n} that are divisible by {a} or {b}.",
    ),
)
def _multiples(source: random.Random, level: Any) -> Drawn:
    """⌊N/a⌋ + ⌊N/b⌋ − ⌊N/ab⌋ for coprime a < b; a level is the range of N, and the divisors to choose from."""
    bounds, divisors = level
    n = source.randint(*bounds)
    a, b = source.choice([(a, b) for a in divisors for b in divisors if a < b and gcd(a, b) == 1])
    by_a, by_b, by_both = n // a, n // b, n // (a * b)
    lines = [f"{n}/{a}:{by_a}", f"{n}/{b}:{by_b}", *multiply(a, b), f"{n}/{a * b}:{by_both}"]
    lines += [add(by_a, by_b), subtract(by_a + by_b, by_both)]
    return {"n": n, "a": a, "b": b}, lines, by_a + by_b - by_both


@family(
    "hailstone",
    "a function applied again and again",
    {1: (30, (2, 3)), 2: (60, (4, 5)), 3: (99, (6, 7)), 4: (99, (8, 10)), 5: (150, (9, 10))},
    (
        "Start with {a}. In each step an even number is halved and an odd x becomes 3x+{c}. "
        "Find the number after {n} steps.",
        "Begin at {a}. Even numbers are halved, an odd x becomes 3x+{c}. What is reached after {n} steps?",
    ),
)
def _hailstone(source: random.Random, level: Any) -> Drawn:
    """X → x/2 if even, 3x + c if odd; a level is the largest start and the range of the number of steps."""
    largest, bounds = level
    start, summand = source.randint(3, largest), source.choice((1, 3, 5, 7))
    steps, values = source.randint(*bounds), [start]
    for _ in range(steps):
        values.append(values[-1] // 2 if values[-1] % 2 == 0 else 3 * values[-1] + summand)
    return {"a": start, "c": summand, "n": steps}, in_a_row(values), values[-1]


@family(
    "recurrence",
    "each term the sum of the two before it",
    {1: (9, (4, 5)), 2: (15, (5, 7)), 3: (30, (7, 8)), 4: (20, (9, 10)), 5: (40, (9, 12))},
    (
        "A sequence begins {a}, {b} and each later term is the sum of the two before it. Find term {n}.",
        "Terms 1 and 2 are {a} and {b}. Each later term is the sum of the two before it. Find term {n}.",
    ),
)
def _recurrence(source: random.Random, level: Any) -> Drawn:
    """x_{i+1} = x_i + x_{i−1}; a level is the largest first terms and the range of n."""
    largest, bounds = level
    values = [source.randint(1, largest), source.randint(1, largest)]
    n = source.randint(*bounds)
    while len(values) < n:
        values.append(values[-1] + values[-2])
    return {"a": values[0], "b": values[1], "n": n}, in_a_row(values), values[-1]


@family(
    "divisor",
    "the greatest common divisor",
    {1: (50, 9, 3), 2: (99, 15, 4), 3: (300, 30, 4), 4: (999, 60, 5), 5: (999, 60, 7)},
    (
        "Find the greatest common divisor of {a} and {b}.",
        "What is the greatest common divisor of {a} and {b}?",
    ),
)
def _divisor(source: random.Random, level: Any) -> Drawn:
    """Euclid, one division a line; a level is the largest number and common factor, and the most divisions."""
    largest, factors, most = level
    while True:
        factor = source.randint(2, factors)
        b, a = sorted(source.sample(range(factor, largest + 1, factor), 2))
        lines, high, low = [], a, b
        while low:
            lines.append(divide(high, low))
            high, low = low, high % low
        if len(lines) <= most:
            return {"a": a, "b": b}, lines, high

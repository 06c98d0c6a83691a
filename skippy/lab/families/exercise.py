"""What a family is: a sentence, and a function that draws an exercise of a level."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

LARGEST_ANSWER = 999
TRAINED_LEVELS = (1, 2, 3, 4)
LEVELS = (*TRAINED_LEVELS, 5)  # the last is harder than anything trained on


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
    # an exercise of a level from a random source; may fall outside 0–999 and is then redrawn
    draw: Callable[[random.Random, int], Exercise]


def solve(lines: Sequence[str], answer: int) -> str:
    """Worked lines closed by the boxed answer."""
    return "\n".join([*lines, f"\\boxed{{{answer}}}"])


def word(random_source: random.Random, wordings: Sequence[str], **numbers: object) -> str:
    """One of several wordings of the same question, filled in."""
    return random_source.choice(wordings).format(**numbers)

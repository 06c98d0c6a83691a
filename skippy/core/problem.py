"""What a problem is, for whoever makes, reads, trains on, asks or reports one; and what kind of answer it has."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass

from skippy.errors import ConfigError

KINDS = ("auto", "integer", "number", "math")
RELATIVE_TOLERANCE = 1e-6
Gold = int | str
"""A reference answer: an integer, or the text of a number or of an expression."""


@dataclass(frozen=True)
class AnswerRule:
    """What counts as the right answer of a problem."""

    # `auto`: an integer 0–999, AIME's own rule; `integer`: any integer; `number`: within a relative tolerance;
    # `math`: an equivalent expression
    kind: str = "auto"
    tolerance: float = 0.0  # of numbers, relative to the reference answer

    def __str__(self) -> str:
        """As a person writes it: `auto`, `integer`, `number:0.01`, `math`."""
        is_own = self.kind == "number" and self.tolerance != RELATIVE_TOLERANCE
        return f"{self.kind}:{self.tolerance:g}" if is_own else self.kind


AIME_RULE = AnswerRule()


@dataclass(frozen=True)
class Problem:
    """One problem."""

    id: str  # what its source calls it
    question: str  # what is asked
    gold: Gold  # the reference answer
    family: str = ""  # kind of problem, empty where unknown
    level: int = 0  # difficulty, 0 where unknown
    solution: str = ""  # worked lines, empty where there are none
    rule: AnswerRule = AIME_RULE  # what counts as right
    is_case_sensitive: bool = False  # another problem of its set differs from it in case alone

    @property
    def hash(self) -> str:
        """Sixteen hexadecimal digits of the normalised question: the same problem from two sources is one."""
        text = self.words if self.is_case_sensitive else " ".join(self.question.lower().split())
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @property
    def words(self) -> str:
        """The question with every run of spaces made one."""
        return " ".join(self.question.split())


def parse_rule(text: str) -> AnswerRule:
    """`auto`, `integer`, `number`, `number:0.01` or `math`.

    Raises:
        ConfigError: none of these.
    """
    kind, colon, tolerance = text.strip().partition(":")
    try:
        if kind in KINDS and not colon:
            return AnswerRule(kind, RELATIVE_TOLERANCE if kind == "number" else 0.0)
        if kind == "number" and 0 <= float(tolerance) < 1 and math.isfinite(float(tolerance)):
            return AnswerRule(kind, float(tolerance))
    except ValueError:
        pass
    raise ConfigError(
        f"Parameter answers cannot be {text!r}.",
        where="answers",
        expected="auto (integers 0–999), integer, number, number:TOLERANCE with a tolerance below 1, or math",
        found=repr(text),
        next_step="pass -P answers=integer, or leave it out",
    )

"""Why what decides an answer has no value."""

from __future__ import annotations

from typing import Literal

Reason = Literal[
    "",  # there is a value
    "empty",  # nothing is there, or the mere form of an answer
    "no number",  # words or names alone
    "several values",  # two numbers, a list, a tuple, or two statements
    "relation",  # an inequality, an approximation, a membership, a congruence
    "expression",  # arithmetic left undone
    "unread words",  # a word beside the number that is on no list
    "number words",  # "thousand", "quarters", "percent": another number than its digits
    "negation",  # "not 42"
    "percentage",
    "other base",  # 113_5
    "cut off",  # 113...
    "factorial",  # 5! in mathematics: 5 shouted, or 120
    "list item",  # the number of the first item of a list
    "too long",
    "not whole",  # a number with decimals, or a fraction
    "out of range",
]


class Refused(Exception):
    """A statement has no value; never leaves the grammar."""

    def __init__(self, reason: Reason) -> None:
        self.reason: Reason = reason

"""Reference answers as people store them, by the kind of answer they are; and answers by the same kinds."""

from __future__ import annotations

import math
import numbers
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction

from skippy.core.inference.answer_grammar import read_number
from skippy.core.inference.answer_marks import LONGEST_CONTENT_CHARACTERS, find_boxes
from skippy.core.inference.answer_reading import LARGEST_ANSWER, extract_integer, read_marked
from skippy.core.inference.thought_tags import THOUGHT_TAGS, ThoughtTag
from skippy.core.problem import AIME_RULE, AnswerRule, Gold
from skippy.errors import ProblemError

_EXPECTED = {
    "auto": "an integer 0–999, as a number or as text such as 033",
    "integer": "an integer, as a number or as text",
    "number": "a finite number, as a number or as text such as 3.5, 7/2 or 1.2e3",
    "math": "an expression, as text",
}
_WHAT = {
    "auto": "A reference answer is not an integer 0–999.",
    "integer": "A reference answer is not an integer.",
    "number": "A reference answer is not a number.",
    "math": "A reference answer is empty.",
}
LARGEST_GOLD_DIGITS = 4000


@dataclass(frozen=True)
class Scored:
    """One answer beside its reference."""

    # what was read; the reference answer itself where it is right; None where nothing was read
    extracted: Gold | None
    status: str  # how it was found, or why not
    is_right: bool  # whether it counts


def parse_gold(value: object, rule: AnswerRule = AIME_RULE) -> Gold:
    """The reference answer of a problem: `"033"`, `42.0` and `["42"]` are what they say.

    Of a worked solution what follows `####` counts, or its last box.

    Raises:
        ProblemError: it is not of the kind that `rule` asks for.
    """
    gold: Gold | None = None
    content = _content(value)
    if content and rule.kind == "math":
        gold = content
    elif content:
        number = read_number(content, is_prose=False, is_numeric=rule.kind == "number").value
        if number is not None and number.denominator == 1:
            gold = int(number)
        elif number is not None and rule.kind == "number":
            gold = content
    if rule.kind == "auto" and not (isinstance(gold, int) and 0 <= gold <= LARGEST_ANSWER):
        gold = None
    if gold is None:
        raise ProblemError(
            _WHAT[rule.kind],
            where="answer",
            expected=_EXPECTED[rule.kind],
            found=f"{_shown(value)} ({type(value).__name__})",
            next_step="correct the row, or pass the kind of answers it holds: answers=integer, number or math",
        )
    return gold


def _content(value: object) -> str:
    """The answer as text; empty where there is none."""
    while isinstance(value, list | tuple) and len(value) == 1:
        value = value[0]
    if isinstance(value, bool) or value is None:
        return ""
    if isinstance(value, numbers.Real) and not isinstance(value, numbers.Rational):
        return repr(float(value)) if math.isfinite(value) else ""
    if isinstance(value, str):
        marked = value.rpartition("####")[2] if "####" in value else value
        boxes, _ = find_boxes(marked) if len(marked) > LONGEST_CONTENT_CHARACTERS else ([], False)
        text = (boxes[-1] if boxes else marked).strip()
        return text if len(text) <= LONGEST_CONTENT_CHARACTERS else ""
    if isinstance(value, numbers.Integral):
        return _shown(int(value))
    return str(value) if isinstance(value, Decimal | numbers.Rational) else ""


def _shown(value: object) -> str:
    """A value as text, however large the number."""
    if isinstance(value, int) and value.bit_length() > 3 * LARGEST_GOLD_DIGITS:
        return "a number of thousands of digits"
    return f"{value!r:.80}" if not isinstance(value, int) else str(value)


def score_number(
    text: str, gold: Gold | None, rule: AnswerRule, *, thought_tags: Sequence[ThoughtTag] = THOUGHT_TAGS
) -> Scored:
    """Score an answer whose reference is an integer or a number.

    Args:
        rule: `auto`, `integer` or `number`.
    """
    if rule.kind != "number":
        largest = LARGEST_ANSWER if rule.kind == "auto" else None
        found = extract_integer(text, thought_tags=thought_tags, largest=largest)
        return Scored(found.value, found.status, found.value is not None and found.value == gold)
    status, reading = read_marked(text, thought_tags, is_numeric=True)
    if reading is None:
        return Scored(None, status, False)
    if reading.value is None:
        return Scored(None, "not_a_number", False)
    wanted = None if gold is None else read_number(str(gold), is_prose=False, is_numeric=True).value
    is_right = wanted is not None and abs(reading.value - wanted) <= Fraction(rule.tolerance) * abs(wanted)
    return Scored(gold if is_right else _as_gold(reading.value), status, is_right)


def _as_gold(value: Fraction) -> Gold:
    if value.denominator == 1:
        return int(value)
    try:
        return f"{float(value):.12g}"
    except OverflowError:
        return "beyond floating point"

r"""One integer out of what a model wrote, or the reason why there is none.

The rule, in order:

1. Closed thoughts (`thought_tags`) are not part of the answer and are dropped. An unclosed one is no answer at all.
2. The last balanced `\boxed{…}` that holds more than dots or a placeholder decides, whatever stands around it.
3. Without one, the last `Answer:` decides: its line, the next line that is not blank, or the block opened there.
4. What decides is read by a grammar (`answer_grammar`): one number, with decoration, units, an equation or a
   sentence around it. Anything that could make another number of it, and any second candidate, chooses nothing.

Never "the last number": a persona that adds "took me 0.0003 seconds" has not changed its answer. A scorer
that punishes manners would report style as lost mathematics.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Literal

from skippy.core.inference.answer_grammar import Reading, read_number
from skippy.core.inference.answer_marks import LONGEST_CONTENT_CHARACTERS, find_boxes, find_mark
from skippy.core.inference.answer_reasons import Reason
from skippy.core.inference.thought_tags import THOUGHT_TAGS, ThoughtTag, drop_thoughts

LARGEST_ANSWER = 999

Status = Literal[
    "boxed",  # a balanced box holds the value
    "answer_line",  # no balanced box; the last `Answer:` holds the value
    "no_answer",  # neither a box nor an `Answer:`
    "unclosed_think",  # the text ends inside its thought: cut off before any answer
    "unbalanced_box",  # a box was opened, never closed, and no `Answer:` stands in for it
    "not_an_integer",  # what decides is not one integer; `reason` says what it is
    "out_of_range",  # what decides is an integer below 0 or above 999
    "lenient_box",  # sensitivity line only: an earlier box, or a number inside a box
    "lenient_answer",  # sensitivity line only: first number after the last "answer is" or "answer:"
    "lenient_number",  # sensitivity line only: the last number of the text
]
_LENIENT_MARK = re.compile(r"\banswer(?:\s+is)?[ \t*_]*[:：]?", re.IGNORECASE)
_LENIENT_INTEGER = re.compile(r"(?<![0-9.,])[0-9]{1,3}(?![0-9]|[.,][0-9])")


@dataclass(frozen=True)
class Extraction:
    """What was read out of a completion."""

    value: int | None  # the integer, or None where there is none that counts
    status: Status  # how it was found, or why not; "could not be read" is not the same as "wrong"
    # why what decides holds no integer; empty where it does, or where nothing decides
    reason: Reason = field(default="", compare=False)


def extract_integer(
    text: str, *, thought_tags: Sequence[ThoughtTag] = THOUGHT_TAGS, largest: int | None = LARGEST_ANSWER
) -> Extraction:
    r"""The integer answer that `text` commits to, by the rule at the head of this module.

    Where a chat template opened a thought in the prompt, a completion that never closes it is still inside it:
    pass the opening tag together with the text.

    Args:
        thought_tags: pairs that enclose thoughts.
        largest: integers above it, and those below 0, are out of range; None: any integer counts.

    Source: AIME answers are integers 000–999. Departure from the usual harnesses: `042`, `\boxed{\text{42}}`
    and talk after the box are read, and a guess inside a cut-off thought is not.
    """
    status, reading = read_marked(text, thought_tags)
    if reading is None:
        return Extraction(None, status)
    if reading.value is None:
        return Extraction(None, "not_an_integer", reading.reason)
    if reading.value.denominator != 1:
        return Extraction(None, "not_an_integer", "not whole")
    number = int(reading.value)
    if largest is not None and not 0 <= number <= largest:
        return Extraction(None, "out_of_range", "out of range")
    return Extraction(number, status)


def read_marked(
    text: str, thought_tags: Sequence[ThoughtTag] = THOUGHT_TAGS, *, is_numeric: bool = False
) -> tuple[Status, Reading | None]:
    """The number in what decides, and where that stands; no reading where nothing decides."""
    spoken = drop_thoughts(text, thought_tags)
    if spoken is None:
        return "unclosed_think", None
    marked = find_mark(spoken)
    if marked.place is None:
        return ("unbalanced_box" if marked.is_box_open else "no_answer"), None
    if marked.is_list:
        return marked.place, Reading(None, "list item")
    is_line = marked.place == "answer_line"
    if not is_line and len(marked.content) > LONGEST_CONTENT_CHARACTERS:
        return marked.place, Reading(None, "too long")
    return marked.place, read_content(marked.content, is_prose=is_line, is_numeric=is_numeric)


def read_content(content: str, *, is_prose: bool, is_numeric: bool = False) -> Reading:
    """`read_number`, with nothing to parse for the plainest answers."""
    plain = content.strip()
    if plain.isascii() and plain.isdecimal() and len(plain) <= LONGEST_CONTENT_CHARACTERS:
        return Reading(Fraction(int(plain)), "")
    return read_number(content, is_prose=is_prose, is_numeric=is_numeric)


def extract_integer_lenient(text: str) -> Extraction:
    """The most generous reading of `text`, for the sensitivity line of a report and nothing else.

    Takes the strict value where there is one. Otherwise, in order: the last box with an integer in it, the
    first integer after the last "answer is", the last integer 0–999 anywhere, thoughts included.
    """
    strict = extract_integer(text)
    if strict.value is not None:
        return strict
    spoken = drop_thoughts(text)
    spoken = text if spoken is None else spoken
    for box in reversed(find_boxes(spoken)[0]):
        numbers_inside = _LENIENT_INTEGER.findall(box[:LONGEST_CONTENT_CHARACTERS])
        if numbers_inside:
            return Extraction(int(numbers_inside[-1]), "lenient_box")
    marks = list(_LENIENT_MARK.finditer(spoken))
    if marks:
        after = _LENIENT_INTEGER.search(spoken, marks[-1].end(), marks[-1].end() + LONGEST_CONTENT_CHARACTERS)
        if after:
            return Extraction(int(after.group()), "lenient_answer")
    found = _LENIENT_INTEGER.findall(spoken)
    return Extraction(int(found[-1]), "lenient_number") if found else strict

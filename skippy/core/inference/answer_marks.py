r"""Where a completion marks its answer: the last box that says something, else the last `Answer:`.

Everything here is one pass over the text with a stack, so that a wall of braces costs linear time.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from skippy.core.inference.answer_grammar import is_placeholder

LONGEST_CONTENT_CHARACTERS = 256
"""A box longer than this holds no integer; the bound keeps reading linear in the text."""
LONGEST_LINE_CHARACTERS = 8 * LONGEST_CONTENT_CHARACTERS
LONGEST_LEAD_CHARACTERS = 80
MARKS_LOOKED_AT = 32
BOXES_LOOKED_AT = 8
"""How many boxes without content, from the last, are passed over."""

Place = Literal["boxed", "answer_line"]
_BOX = re.compile(r"\\(?:boxed|fbox|framebox)\s*\{")
_BRACE = re.compile(r"(?P<box>\\(?:boxed|fbox|framebox)\s*\{)|\\\\(?=[{}])|\\[{}]|(?P<open>\{)|(?P<close>\})")
_MARK = re.compile(r"answer(?:[ \t*_]*[:：]|[ \t]+is\b|>)", re.IGNORECASE)
_FINAL = re.compile(r"\bfinal[ \t]+\Z", re.IGNORECASE)
_TAG = re.compile(r"<(?:final_)?\Z", re.IGNORECASE)
_LINE_START = re.compile(
    r"[\s\W\d_]*(?:(?:the|my|our|so|thus|hence|therefore|and|your|final|correct)\b[\W_]*){0,4}\Z", re.I
)
_END_OF_TURN = re.compile(
    r"<\|(?:im_end|eot_id|endoftext|end|eom_id|im_start|start_header_id|end_of_text|return|eot)\|>|"
    r"<｜end▁of▁sentence｜>|</s>|<eos>|<end_of_turn>|</(?:final_)?answer>",
    re.IGNORECASE,
)
_BLOCKS = (("```", "```"), ("$$", "$$"), ("\\[", "\\]"), ("~~~", "~~~"))
_FENCE = re.compile(r"(?:```|~~~)\w*[ \t]*\Z")
_ENVIRONMENT = re.compile(r"\\begin\{([a-z]+\*?)\}")
_ITEM = re.compile(
    r"\s*(?:\(?([0-9]{1,2})[.)]\)?|[A-Za-z][.)]|[-*+](?=\s)|(?:step|part)\s*[0-9]+\s*[:.)])\s+\S",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Marked:
    """What decides an answer."""

    place: Place | None  # where it stands; None where nothing decides
    content: str = ""  # the inside of the box, or what follows the mark
    is_list: bool = False  # the answer line is the first item of a list
    is_box_open: bool = False  # a box was opened and never closed


def find_mark(text: str) -> Marked:
    """What decides in a text without thoughts."""
    boxes, is_box_open = find_boxes(text)
    chosen = next((box for box in reversed(boxes[-BOXES_LOOKED_AT:]) if not is_placeholder(box)), None)
    if chosen is not None:
        return Marked("boxed", chosen, is_box_open=is_box_open)
    line = _last_line(text)
    if line is not None and (not boxes or line.content):
        return line
    return Marked("boxed" if boxes else None, is_box_open=is_box_open)


def find_boxes(text: str) -> tuple[list[str], bool]:
    """Contents of all balanced boxes in the order in which they close, and whether one never closes.

    Contents too long to be a number are cut, so that nested boxes cost no more.
    """
    first = _BOX.search(text)
    if first is None:
        return [], False
    boxes: list[str] = []
    stack: list[int | None] = []
    for match in _BRACE.finditer(text, first.start()):
        if match.group("box"):
            stack.append(match.end())
        elif match.group("open"):
            stack.append(None)
        elif match.group("close") and stack:
            start = stack.pop()
            if start is not None:
                boxes.append(text[start : min(match.start(), start + LONGEST_CONTENT_CHARACTERS + 1)])
    return boxes, any(start is not None for start in stack)


def _last_line(text: str) -> Marked | None:
    """What follows the last mark; a mark in the middle of talk counts only if a digit follows it."""
    for match in reversed(list(_MARK.finditer(text))[-MARKS_LOOKED_AT:]):
        before = text[max(0, match.start() - LONGEST_LEAD_CHARACTERS) : match.start()].rpartition("\n")[2]
        ending, is_tag = match.group()[-1], bool(_TAG.search(before))
        if (ending == ">" and not is_tag) or (ending in "sS" and not _FINAL.search(before)):
            continue
        if before[-1:].isalnum():
            continue
        line = _behind(text, match.end())
        if is_tag and not line.content:
            continue
        if is_tag or _LINE_START.match(before) or any(digit in line.content for digit in "0123456789"):
            return line
    return None


def _behind(text: str, start: int) -> Marked:
    """The line behind a mark, the next one that is not blank, or the block that opens there."""
    rest = text[start : start + LONGEST_LINE_CHARACTERS]
    ending = _END_OF_TURN.search(rest)
    rest = rest[: ending.start()] if ending else rest
    lines = rest.splitlines()
    for number, line in enumerate(lines):
        shown = line.strip().strip("*_").strip()
        if not shown:
            continue
        block = _block("\n".join([shown, *lines[number + 1 :]]))
        if block is not None:
            return Marked("answer_line", block)
        return Marked("answer_line", shown, is_list=number > 0 and _starts_list(line, lines[number + 1 :]))
    return Marked("answer_line")


def _block(rest: str) -> str | None:
    """The inside of a fence, of display mathematics or of an environment that opens at the head of `rest`."""
    first, _, below = rest.partition("\n")
    for opening, closing in _BLOCKS:
        is_fence = opening in ("```", "~~~")
        if (is_fence and _FENCE.match(first)) or (not is_fence and rest.startswith(opening)):
            inside, closed, _ = (below if is_fence else rest[len(opening) :]).partition(closing)
            return inside.strip() if closed else None
    environment = _ENVIRONMENT.match(rest)
    if environment is None:
        return None
    end = rest.find(f"\\end{{{environment.group(1)}}}")
    return rest[:end] + f"\\end{{{environment.group(1)}}}" if end >= 0 else None


def _starts_list(line: str, following: list[str]) -> bool:
    """`1. Let x be the side` is the first step of a solution and no answer."""
    item = _ITEM.match(line)
    if item is None or line.strip().startswith("**"):
        return False
    number = item.group(1)
    if number is None:
        return not re.match(r"\s*[-*+]\s", line)
    after = next((each for each in following if each.strip()), "")
    return int(number) == 1 or bool(re.match(rf"\s*\(?{int(number) + 1}[.)]", after))

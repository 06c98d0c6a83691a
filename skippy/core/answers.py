r"""One integer, 0 to 999, out of what a model wrote; or the reason why there is none.

The rule, in order:

1. Closed `<think>…</think>` is not part of the answer and is dropped. An unclosed one is no answer at all.
2. The last balanced `\boxed{…}` anywhere decides, whatever stands before or after it.
3. Without any balanced box, the last line with `Answer:` decides.
4. What decides loses its talk (emoji, and what stands behind the number in parentheses, after a comma, a dash or
   the end of a sentence) and is peeled (`\text{}`, `$…$`, spaces, `x =`, a degree sign); it must then be an integer.

Talk holds no digit, no mathematics and no word that offers or makes another number ("or", "mod", "thousand"): with
one of these, nothing is chosen for the writer. Words that nothing sets apart ("42 thousand") are no talk either.

Never "the last number": a persona that adds "took me 0.0003 seconds" has not changed its answer. A scorer
that punishes manners would report style as lost mathematics.
"""

from __future__ import annotations

import numbers
import re
from dataclasses import dataclass
from typing import Literal

from skippy.errors import ProblemError

LARGEST_ANSWER = 999
LONGEST_CONTENT_CHARACTERS = 256
"""A box longer than this holds no integer 0–999; the bound keeps peeling linear in the text."""

Status = Literal[
    "boxed",  # a balanced box holds the value
    "answer_line",  # no balanced box; the last `Answer:` line holds the value
    "no_answer",  # neither a box nor an `Answer:` line
    "unclosed_think",  # the text ends inside its thought: cut off before any answer
    "unbalanced_box",  # a box was opened, never closed, and no `Answer:` line stands in for it
    "not_an_integer",  # what decides is not one integer
    "out_of_range",  # what decides is an integer below 0 or above 999
    "lenient_box",  # sensitivity line only: an earlier box, or a number inside a box
    "lenient_answer",  # sensitivity line only: first number after the last "answer is" or "answer:"
    "lenient_number",  # sensitivity line only: the last number of the text
]

_THINK_TAG = re.compile(r"<(/?)think>", re.IGNORECASE)
_BOX = re.compile(r"\\(?:boxed|fbox)\s*\{")
_BRACE = re.compile(r"(?P<box>\\(?:boxed|fbox)\s*\{)|\\\\(?=[{}])|\\[{}]|(?P<open>\{)|(?P<close>\})")
_ANSWER_MARK = re.compile(r"\banswer[ \t*_]*[:：]", re.IGNORECASE)
_SPACING = re.compile(r"\\(?:[,;:! ]|quad\b|qquad\b|displaystyle\b|left\b|right\b)|[~\u00a0\u2009\u202f]")
_FONT = re.compile(
    r"\\(?:text|textbf|textit|textrm|textnormal|mathrm|mathbf|mathit|mathsf|mathtt|mbox|hbox|fbox|boxed|"
    r"operatorname|bm|boldsymbol)\s*(?=\{)"
)
_UNIT = re.compile(
    r"(?:\\(?:text|textrm|mathrm|mbox)\s*\{(?P<words>[^{}0-9]*)\}|\^\s*\{?\s*\\circ\s*\}?|°|\\degree)$"
)
_PAIRS = (
    *(("$$", "$$"), ("$", "$"), ("\\(", "\\)"), ("\\[", "\\]"), ("{", "}"), ("(", ")")),
    *(("**", "**"), ("*", "*"), ("__", "__"), ("`", "`"), ('"', '"'), ("“", "”")),
)
_MARKUP = " \t*_`"
_FACE = re.compile(
    # Without the dingbats that are digits and signs: ❶, ➕, ➖, ➗.
    "[\U0001f300-\U0001f51e\U0001f520-\U0001faff\u2600-\u2767\u2798-\u27af\u2b50\u2b55\ufe0f\u200d]"
    r"|\\checkmark\b|(?<=\s)[:;]-?[)D](?!\w)"
)
_SIGNED = re.compile(r"([+-]?)\s*([0-9]+|[1-9][0-9]{0,2}(?:,[0-9]{3})+)")
_SEVERAL = re.compile(r"[,;]|\bor\b|\band\b")
_IN_PARENTHESES = re.compile(r"\([^()]*\)")
_ASIDE = re.compile(r"[.!?](?=\s|$)|[,;:](?=\s|$)|\s[-–—]+\s|\s?—|\s\((?=[^()]*\)\W*$)")
_MATHEMATICS = re.compile(r"[\d\\=^+/<>|$%×÷·√∞π]")
_OTHER_NUMBER = re.compile(
    r"\b(?:or|and|nor|mod|modulo|percent)\b|"
    r"^\W*(?:in\s+)?(?:dozen|hundred|thousand|million|billion|squared|cubed|factorial)",
    re.IGNORECASE,
)
_WORD = re.compile(r"[^\W\d_]{2}")
_NO_SENTENCE = re.compile(r"\s*[\d=+*/^<>\\-]")
_FACTORIAL = re.compile(r"(?<![0-9.,])[0-6]\s*!\W*$")
_LENIENT_MARK = re.compile(r"\banswer(?:\s+is)?[ \t*_]*[:：]?", re.IGNORECASE)
_LENIENT_INTEGER = re.compile(r"(?<![0-9.,])[0-9]{1,3}(?![0-9]|[.,][0-9])")


@dataclass(frozen=True)
class Extraction:
    """What was read out of a completion.

    Attributes:
        value: the integer, or None where there is none that counts.
        status: how it was found, or why not; "could not be read" is not the same as "wrong".
    """

    value: int | None
    status: Status


def extract_integer(text: str) -> Extraction:
    r"""The integer answer that `text` commits to, by the rule at the head of this module.

    Where a chat template opened `<think>` in the prompt, a completion without `</think>` is still inside its
    thought: pass the opening tag together with the text.

    Source: AIME answers are integers 000–999. Departure from the usual harnesses: `042`, `\boxed{\text{42}}`
    and talk after the box are read, and a guess inside a cut-off thought is not.
    """
    spoken = _drop_thoughts(text)
    if spoken is None:
        return Extraction(None, "unclosed_think")
    boxes, is_box_left_open = _find_boxes(spoken)
    if boxes:
        return _read(boxes[-1], "boxed")
    line = _last_answer_line(spoken)
    if line is not None:
        return _read(_drop_aside(_FACE.sub(" ", line), is_prose=True), "answer_line")
    return Extraction(None, "unbalanced_box" if is_box_left_open else "no_answer")


def extract_integer_lenient(text: str) -> Extraction:
    """The most generous reading of `text`, for the sensitivity line of a report and nothing else.

    Takes the strict value where there is one. Otherwise, in order: the last box with an integer in it, the
    first integer after the last "answer is", the last integer 0–999 anywhere, thoughts included.
    """
    strict = extract_integer(text)
    if strict.value is not None:
        return strict
    spoken = _drop_thoughts(text)
    spoken = text if spoken is None else spoken
    for box in reversed(_find_boxes(spoken)[0]):
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


def parse_gold(value: object) -> int:
    """The reference answer of a problem, strictly an integer 0–999; "033" is 33.

    Raises:
        ProblemError: anything else, floats included: 33.0 means a column was read as the wrong type.
    """
    if isinstance(value, numbers.Integral) and not isinstance(value, bool):
        number: int | None = int(value)
    elif isinstance(value, str) and len(value) <= LONGEST_CONTENT_CHARACTERS:
        number = _parse(_peel(value))
    else:
        number = None
    if number is None or not 0 <= number <= LARGEST_ANSWER:
        raise ProblemError(
            "A reference answer is not an integer 0–999.",
            where="answer",
            expected="an integer 0–999, as a number or as text such as 033",
            found=f"{value!r:.80} ({type(value).__name__})",
            next_step="correct the row, or name the column that holds the integer answers",
        )
    return number


def _drop_thoughts(text: str) -> str | None:
    """`text` without closed thoughts; None when the last one never closes.

    A closing tag with none open before it ends a thought that the chat template opened in the prompt.
    """
    kept: list[str] = []
    position, is_open, is_first = 0, False, True
    for tag in _THINK_TAG.finditer(text):
        is_closing = bool(tag.group(1))
        if is_closing:
            if not is_open and not is_first:
                kept.append(text[position : tag.start()])
            position, is_open = tag.end(), False
        elif not is_open:
            kept.append(text[position : tag.start()])
            position, is_open = tag.end(), True
        is_first = False
    if is_open:
        return None
    kept.append(text[position:])
    return " ".join(kept)


def _find_boxes(text: str) -> tuple[list[str], bool]:
    """Contents of all balanced boxes in the order in which they close, and whether one never closes.

    One pass with a stack, so a wall of braces costs linear time; contents too long to be an integer are
    cut, so that nested boxes cost no more.
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


def _last_answer_line(text: str) -> str | None:
    """What follows the last `Answer:` on its line, or on the next line that is not blank."""
    ends = [mark.end() for mark in _ANSWER_MARK.finditer(text)]
    if not ends:
        return None
    rest = text[ends[-1] : ends[-1] + 8 * LONGEST_CONTENT_CHARACTERS]
    lines = (line.strip().strip("*_").strip() for line in rest.splitlines())
    return next((line for line in lines if line), "")


def _drop_aside(content: str, *, is_prose: bool) -> str:
    """The head of what decides: "42. You are welcome, monkey." and "42 (obviously)" give "42".

    Args:
        content: a box, or an answer line.
        is_prose: an answer line: a sentence after it may hold numbers, and a hyphen is a dash and no minus.
    """
    cut = _ASIDE.search(content)
    if cut is None:
        return content
    mark, aside = cut.group().strip(), content[cut.end() :]
    is_next_sentence = is_prose and mark in ".!?" and not _NO_SENTENCE.match(aside)
    is_minus = mark == "-" and not is_prose
    return content[: cut.start()] if is_next_sentence or (_is_talk(aside) and not is_minus) else content


def _is_talk(aside: str) -> bool:
    """Whether it offers no number and no mathematics; punctuation with nothing behind it is talk too."""
    if _MATHEMATICS.search(aside) or _OTHER_NUMBER.search(aside):
        return False
    return bool(_WORD.search(aside)) or not re.search(r"\w", aside)


def _read(content: str, status: Status) -> Extraction:
    """Take the talk off what decides, peel it and parse it.

    A box with 5! in it may mean 5 or 120, so it means neither; 42! can only be a shout.
    """
    if len(content) > LONGEST_CONTENT_CHARACTERS or (status == "boxed" and _FACTORIAL.search(content)):
        return Extraction(None, "not_an_integer")
    peeled = _peel(_FACE.sub(" ", content).strip(_MARKUP))
    number = _parse(_after_equals(_peel(_drop_aside(peeled, is_prose=False).strip(_MARKUP))))
    if number is None:
        return Extraction(None, "not_an_integer")
    if not 0 <= number <= LARGEST_ANSWER:
        return Extraction(None, "out_of_range")
    return Extraction(number, status)


def _peel(content: str) -> str:
    """Take off spacing, fonts, delimiters, a unit and final punctuation until nothing more comes off."""
    previous = None
    while content != previous:
        previous = content
        content = _SPACING.sub(" ", content).replace("{,}", ",").replace("−", "-").strip()
        unit = _UNIT.search(content)
        if unit and unit.start() and not _OTHER_NUMBER.search(unit.group("words") or ""):
            content = content[: unit.start()]
        content = _FONT.sub("", content, count=1) if _FONT.match(content) else content
        content = content.rstrip(".!").strip()
        for left, right in _PAIRS:
            if _is_wrapped(content, left, right):
                content = content[len(left) : -len(right)].strip()
    return content


def _is_wrapped(content: str, left: str, right: str) -> bool:
    """Whether `left` at the start is closed by `right` at the very end: `(a)(b)` is not wrapped."""
    if len(content) < len(left) + len(right) or not (content.startswith(left) and content.endswith(right)):
        return False
    inner = content[len(left) : -len(right)]
    if left == right:
        return left not in inner
    depth = 0
    for piece in re.findall(f"{re.escape(left)}|{re.escape(right)}", inner):
        depth += 1 if piece == left else -1
        if depth < 0:
            return False
    return depth == 0


def _after_equals(content: str) -> str:
    """`m+n = 20+22 = 42` gives `42`; with several names on the left nothing is chosen for the writer."""
    left, equals, right = content.rpartition("=")
    if not equals or _SEVERAL.search(_IN_PARENTHESES.sub("", left)):
        return content
    return _peel(right)


def _parse(content: str) -> int | None:
    """The integer that the whole of `content` is, with its thousands separators; else None."""
    match = _SIGNED.fullmatch(content)
    if match is None:
        return None
    magnitude = int(match.group(2).replace(",", ""))
    return -magnitude if match.group(1) == "-" else magnitude

"""Regular expressions that cannot run away, told from their syntax.

Python's matcher backtracks: where a text can be divided among repeats in many ways, one that almost matches takes
time exponential in its length, and a policy in training writes many texts. Two rules exclude that. Inside a repeat
nothing varies in length and alternatives begin with different letters, so there is one way only to read a
text; and at most one repeat of a pattern is open-ended, so there are few places to begin and end. They refuse some
harmless patterns too; each has a spelling that passes.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Iterator, Sequence
from re import _constants as codes  # type: ignore[attr-defined]
from re import _parser as parser  # type: ignore[attr-defined]
from typing import Any

LONGEST_RUN = 50
"""A repeat of more than this is open-ended: *, +, {3,} and {0,99}."""
REPEATS = (codes.MAX_REPEAT, codes.MIN_REPEAT, codes.POSSESSIVE_REPEAT)

Part = tuple[Any, Any]
"""One element of a parsed pattern: what it is, and its arguments."""


@functools.lru_cache(maxsize=4096)
def find_hazard(pattern: str, most: int = 1) -> str | None:
    """What makes a (valid) pattern slow on some text, in words; None where nothing does.

    Args:
        most: open-ended repeats that it may have; each multiplies the time by the length of the text.
    """
    parsed = list(parser.parse(pattern, re.IGNORECASE))
    hazard = next(_hazards(parsed, is_repeated=False), None)
    if hazard is None and _open_ended(parsed) > most:
        allowed = "one" if most == 1 else most
        return f"more than {allowed} open-ended repeat; bound the others, such as .{{0,{LONGEST_RUN}}}"
    return hazard


def _hazards(parts: Iterable[Part], is_repeated: bool) -> Iterator[str]:
    for code, arguments in parts:
        if code in REPEATS:
            least, most, _ = arguments
            if is_repeated and least != most:
                yield "a repeat of no fixed number inside a repeat"
        elif code is codes.BRANCH and is_repeated and not _begin_differently(arguments[1]):
            yield "alternatives that can begin alike inside a repeat"
        is_loop = code in REPEATS and arguments[1] > 1
        for inner in _inside(code, arguments):
            yield from _hazards(inner, is_repeated or is_loop)


def _open_ended(parts: Iterable[Part]) -> int:
    """The most open-ended repeats that one match can pass; of alternatives it takes one."""
    total = 0
    for code, arguments in parts:
        counts = [_open_ended(inner) for inner in _inside(code, arguments)]
        total += max(counts, default=0) if code is codes.BRANCH else sum(counts)
        total += code in REPEATS and arguments[1] > LONGEST_RUN
    return total


def _inside(code: Any, arguments: Any) -> Sequence[Iterable[Part]]:
    """The patterns that a part is made of."""
    if code in REPEATS:
        return [arguments[2]]
    if code is codes.BRANCH:
        return arguments[1]
    if code is codes.SUBPATTERN:
        return [arguments[3]]
    if code in (codes.ASSERT, codes.ASSERT_NOT):
        return [arguments[1]]
    if code is codes.ATOMIC_GROUP:
        return [arguments]
    if code is codes.GROUPREF_EXISTS:
        return [part for part in arguments[1:] if part is not None]
    return []


def _begin_differently(alternatives: Sequence[Sequence[Part]]) -> bool:
    """Whether the first letter tells which alternative it is; only plain letters are looked at."""
    firsts = [chr(one[0][1]).lower() for one in alternatives if one and one[0][0] is codes.LITERAL]
    return len(set(firsts)) == len(alternatives)

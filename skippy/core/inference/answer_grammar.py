r"""One number out of what decides an answer, or the reason why there is none.

    statement := side (EQUALS side)* talk?
    side      := opener* CURRENCY? MINUS? NUMBER suffix*       a value
               | anything without a second statement            the left of an equation
    suffix    := SUB(ten) | DEGREE | ordinal | CURRENCY | unit (SCRIPT | "/" unit | "per" unit)*
               | qualifier* noun | closer

The value stands in the last side, or in the first where no other side has a number; several sides with values
agree. Every word that is read beside a number is on a list (`answer_words`); a word on none chooses nothing.

Talk is what punctuation sets apart behind the value. It holds no digit, no mathematics and no word that offers or
makes another number; with one of these it is part of the statement, and the statement has no value.
r
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from skippy.core.inference import answer_words as words
from skippy.core.inference.answer_number import fold_numbers
from skippy.core.inference.answer_reasons import Reason, Refused
from skippy.core.inference.answer_suffix import Suffix
from skippy.core.inference.answer_talk import cut_talk
from skippy.core.inference.answer_tokens import Token, tokenize

Tokens = Sequence[Token]
_LARGEST_FACTORIAL = 6  # 7! is above 999: whoever writes it shouts
_BARS = ("|", "\\|", "∣")
_ENDINGS = ("space", "break", "stop", "comma", "dash")
_DELIMITED = {"(": ")", "\\lparen": "\\rparen"}


@dataclass(frozen=True)
class Reading:
    """What was read: a value and no reason, or a reason and no value."""

    value: Fraction | None
    reason: Reason


def read_number(content: str, *, is_prose: bool, is_numeric: bool = False) -> Reading:
    r"""The number that `content` commits to.

    Args:
        content: the inside of a box, or what follows `Answer:`.
        is_prose: the latter: words without \\text{}, and a hyphen between spaces is a dash.
        is_numeric: fractions, powers of ten and percentages are numbers as well.
    """
    tokens = tokenize(content, is_prose=is_prose)
    try:
        return Reading(_statement(fold_numbers(tokens) if is_numeric else tokens, is_prose), "")
    except Refused as refused:
        return Reading(None, refused.reason)


def is_placeholder(content: str) -> bool:
    """Whether a box shows only the form of an answer: nothing, dots, or words such as "your answer"."""
    significant = [
        token for token in tokenize(content, is_prose=False) if token.kind not in ("space", "break")
    ]
    return all(
        token.kind in ("ellipsis", "stop") or (token.kind == "word" and token.text in words.PLACEHOLDERS)
        for token in significant
    )


def _statement(tokens: Tokens, is_prose: bool) -> Fraction:
    if not any(token.kind not in ("space", "break", "stop", "ellipsis") for token in tokens):
        raise Refused("empty")
    if _is_small_factorial(tokens):
        raise Refused("factorial")
    tokens = _unwrap(_after_implication(_trim(tokens)))
    tokens = _unwrap(_trim(cut_talk(tokens, is_prose=is_prose)))
    if any(token.kind == "word" and token.text in words.NEGATIONS for token in tokens):
        raise Refused("negation")
    return _chain(_sides(tokens))


def _is_small_factorial(tokens: Tokens) -> bool:
    ending = [token for token in tokens if token.kind not in ("space", "break", "unknown")]
    while ending and (ending[-1].kind == "close" or ending[-1].text in ".?"):
        ending.pop()
    if len(ending) < 2 or ending[-1].text != "!" or ending[-1].mode == "prose" or ending[-2].kind != "number":
        return False
    return (ending[-2].value or 0) <= _LARGEST_FACTORIAL


def _after_implication(tokens: Tokens) -> Tokens:
    """`x^2 = 9, x > 0 ⇒ x = 3` says the last."""
    depth = 0
    for index in range(len(tokens) - 1, -1, -1):
        depth += {"close": 1, "open": -1}.get(tokens[index].kind, 0)
        if tokens[index].kind == "implies" and depth == 0:
            return _trim(tokens[index + 1 :])
    return tokens


def _trim(tokens: Tokens, *, is_ending: bool = True) -> Tokens:
    """Without what says nothing at either end; `!` shouts at the end of a statement, elsewhere it computes."""
    start, end = 0, len(tokens)
    while start < end and (tokens[start].kind in ("space", "break", "dash") or tokens[start].text == ":"):
        start += 1
    while end > start and (tokens[end - 1].kind in _ENDINGS or _trails_off(tokens[end - 1])):
        if tokens[end - 1].text == "!" and not is_ending:
            break
        end -= 1
    return tokens[start:end]


def _trails_off(token: Token) -> bool:
    """`Answer: 42...` is a pause; in mathematics the same dots go on with decimals."""
    return token.kind == "ellipsis" and token.mode == "prose"


def _unwrap(tokens: Tokens) -> Tokens:
    """`(42)` is 42; `(a)(b)` is not wrapped."""
    while len(tokens) > 2 and tokens[0].text in _DELIMITED and tokens[-1].text == _DELIMITED[tokens[0].text]:
        depth = 0
        for token in tokens[:-1]:
            depth += {"open": 1, "close": -1}.get(token.kind, 0)
            if depth == 0:
                return tokens
        tokens = _trim(tokens[1:-1])
    return tokens


def _sides(tokens: Tokens) -> list[Tokens]:
    """The statement cut at its equality signs outside parentheses.

    Raises:
        Refused: another relation, or a mark that parts two statements.
    """
    sides: list[list[Token]] = [[]]
    depth, is_between_bars = 0, False
    for token in tokens:
        depth += {"open": 1, "close": -1}.get(token.kind, 0)
        is_between_bars ^= token.text in _BARS
        if is_between_bars:  # |A ∩ B| counts elements
            sides[-1].append(token)
            continue
        if depth <= 0 and token.kind == "relation":
            raise Refused("relation")
        if depth <= 0 and token.kind == "equals":
            sides.append([])
        else:
            sides[-1].append(token)
    return [_trim(side, is_ending=False) for side in sides]


def _chain(sides: list[Tokens]) -> Fraction:
    """The value of `a = b = 42`, or of `42 = a`."""
    if len(sides) == 1:
        return _value(sides[0])
    for place, side in enumerate(sides):
        _require_one_statement(side, is_first=place == 0, is_last=place == len(sides) - 1)
    try:
        last = _value(sides[-1])
    except Refused as refused:
        if any(token.kind == "number" for side in sides[1:] for token in side):
            raise
        try:
            return _value(sides[0])
        except Refused:
            raise refused from None
    first = _value_or_none(sides[0])
    if first is not None and first != last:
        raise Refused("several values")
    return last


def _value_or_none(side: Tokens) -> Fraction | None:
    try:
        return _value(side)
    except Refused:
        return None


def _require_one_statement(side: Tokens, *, is_first: bool, is_last: bool) -> None:
    r"""No second statement hides in a side: `m=100, n=13`, `m=100 \quad n=13`, `x=3 \text{ ou } x=5`."""
    depth, numbers, has_number = 0, 0, any(token.kind == "number" for token in side)
    for index, token in enumerate(side):
        depth += {"open": 1, "close": -1}.get(token.kind, 0)
        if depth > 0:
            continue
        if token.kind in ("comma", "break"):
            raise Refused("several values")
        if token.kind == "word":
            if token.text in words.CONNECTIVES and (not is_first or has_number or token.text != "and"):
                raise Refused("several values")
            if is_first and not is_last and words.changes_number(token.text) and token.mode != "math":
                raise Refused("number words")
        numbers += token.kind == "number"
        is_name = token.kind == "name" or (token.kind == "word" and token.text not in words.UNITS)
        if not is_first and not is_last and numbers and is_name and side[index - 1].kind == "space":
            raise Refused("several values")


def _value(side: Tokens) -> Fraction:
    """The number of one side, with what may stand before and behind it."""
    side = _unwrap(_trim(side, is_ending=False))
    if [token.kind for token in side[:4]] == ["open", "number", "close", "script"]:
        side = [side[1], *side[3:]]  # (113)_{10}
    places = [index for index, token in enumerate(side) if token.kind == "number"]
    if not places:
        raise Refused("no number")
    if len(places) > 1:
        raise Refused("several values" if _are_apart(side) else "expression")
    place = places[0]
    is_negative = _read_lead(side[:place])
    Suffix(side[place], side[place + 1 :]).read()
    value = side[place].value or Fraction(0)
    return -value if is_negative else value


def _are_apart(side: Tokens) -> bool:
    return not any(token.kind in ("operator", "minus", "name", "script") for token in side)


def _read_lead(lead: Tokens) -> bool:
    """What leads to a number: openers, or a subject with its verb, then money and a sign. Whether it is negative.

    Raises:
        Refused: it may change the number.
    """
    spoken = [token for token in lead if token.kind not in ("space", "currency")]
    is_negative = False
    if spoken and (spoken[-1].kind == "minus" or spoken[-1].text == "+"):
        is_negative = spoken.pop().kind == "minus"
    start = _end_of_subject(spoken)
    for token in spoken[start:]:
        if token.kind == "comma":
            continue
        if token.kind != "word":
            raise Refused("several values" if token.kind == "break" else "expression")
        if token.text not in words.OPENERS:
            raise Refused("number words" if words.changes_number(token.text) else "unread words")
    return is_negative


def _end_of_subject(spoken: Tokens) -> int:
    """Where the subject of "the area of ABC is" ends: behind the verb, or a colon.

    Raises:
        Refused: the subject computes ("half of the answer is"), or offers a choice.
    """
    start = 0
    for index, token in enumerate(spoken):
        if (token.kind == "word" and token.text in words.COPULAS) or token.text == ":":
            start = index + 1
    for token in spoken[:start]:
        if token.kind in ("relation", "stop", "break", "ellipsis"):
            raise Refused("several values")
        if token.kind == "word" and (token.text in words.CONNECTIVES - {"and"} or token.text == "if"):
            raise Refused("several values")
        if token.kind == "word" and words.changes_number(token.text):
            raise Refused("number words")
    return start

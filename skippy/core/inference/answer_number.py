r"""Numbers beyond integers: fractions, decimals and powers of ten folded into one token each, exactly."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction

from skippy.core.inference.answer_tokens import Token

_FRACTIONS = ("\\frac", "\\dfrac", "\\tfrac", "\\cfrac")
_TIMES = ("\\times", "×", "\\cdot", "·", "⋅")
LARGEST_EXPONENT = 400


def fold_numbers(tokens: Sequence[Token]) -> tuple[Token, ...]:
    r"""`\frac{a}{b}`, `a/b`, `1\frac{1}{2}`, `a \times 10^{n}` and `aen` as one number; a percent sign is left out."""
    folded: list[Token] = []
    rest = [token for token in tokens if token.kind != "percent"]
    index = 0
    while index < len(rest):
        token, length = _fold(rest, index)
        is_mixed = length > 1 and rest[index].text in _FRACTIONS and folded and folded[-1].kind == "number"
        if is_mixed:
            whole = folded.pop()
            token = replace(token, value=(whole.value or Fraction(0)) + (token.value or Fraction(0)))
        folded.append(token)
        index += length
    return tuple(folded)


def _fold(tokens: Sequence[Token], start: int) -> tuple[Token, int]:
    """The number that starts here and how many tokens it takes; else the token itself."""
    first = tokens[start]
    seen = [index for index in range(start, min(start + 12, len(tokens))) if tokens[index].kind != "space"]
    part = [tokens[index] for index in seen]
    kinds = [token.kind for token in part]
    if first.text in _FRACTIONS and kinds[1:3] == ["number", "number"] and part[2].value:
        return _number(first, (part[1].value or Fraction(0)) / part[2].value), seen[2] - start + 1
    if (
        first.text in _FRACTIONS
        and kinds[1:2] == ["number"]
        and part[1].text.isdecimal()
        and len(part[1].text) == 2
    ):
        above, below = part[1].text[0], part[1].text[1]  # \frac12 takes one digit each
        return (
            (_number(first, Fraction(int(above), int(below))), seen[1] - start + 1)
            if below != "0"
            else (first, 1)
        )
    if first.kind != "number" or first.value is None:
        return first, 1
    if (
        kinds[1:3] == ["operator", "number"]
        and part[1].text == "/"
        and part[2].value
        and all(token.text != "/" for token in part[3:4])
    ):
        return _number(first, first.value / part[2].value), seen[2] - start + 1
    if kinds[1:4] == ["operator", "number", "script"] and part[1].text in _TIMES and part[2].value == 10:
        exponent = _exponent(part[3].inner)
        if exponent is not None:
            return _number(first, first.value * Fraction(10) ** exponent), seen[3] - start + 1
    is_scientific = len(part) > 2 and part[1].text in ("e", "E") and seen[1] == start + 1
    if is_scientific:
        place = 3 if kinds[2] == "minus" else 2
        exponent = _exponent(part[2 : place + 1])
        if exponent is not None:
            return _number(first, first.value * Fraction(10) ** exponent), seen[place] - start + 1
    return first, 1


def _number(token: Token, value: Fraction) -> Token:
    return replace(token, kind="number", value=value)


def _exponent(tokens: Sequence[Token]) -> int | None:
    """A small whole exponent, with its sign."""
    spoken = [token for token in tokens if token.kind != "space"]
    sign = -1 if spoken and spoken[0].kind == "minus" else 1
    digits = spoken[1:] if spoken and (spoken[0].kind == "minus" or spoken[0].text == "+") else spoken
    if len(digits) != 1 or digits[0].value is None or digits[0].value.denominator != 1:
        return None
    exponent = sign * int(digits[0].value)
    return exponent if abs(exponent) <= LARGEST_EXPONENT else None

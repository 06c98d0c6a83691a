"""What may stand behind a number without changing it: units, ordinals, the noun that it counts, closers."""

from __future__ import annotations

from collections.abc import Sequence

from skippy.core.inference import answer_words as words
from skippy.core.inference.answer_reasons import Refused
from skippy.core.inference.answer_tokens import Token

Tokens = Sequence[Token]
_TEN = ("10", "ten", "dec", "decimal")


class Suffix:
    """Reads units, ordinals, counted nouns and closers behind one number."""

    def __init__(self, number: Token, tail: Tokens) -> None:
        self._number, self._tail = number, tail
        self._index = 0
        self._has_unit = self._has_noun = False

    def read(self) -> None:
        """Read all of it.

        Raises:
            Refused: something changes the number, or is on no list.
        """
        while self._index < len(self._tail):
            token = self._tail[self._index]
            reader = getattr(self, f"_read_{token.kind}", None)
            if reader is None:
                raise Refused("expression" if token.kind != "unknown" else "unread words")
            self._index += 1
            reader(token)

    def _read_space(self, token: Token) -> None:
        """Space says nothing."""

    _read_degree = _read_currency = _read_space

    def _read_open(self, token: Token) -> None:
        """`113 ordered pairs (a, b)`: names of what was counted."""
        while self._has_noun and self._index < len(self._tail):
            inside = self._tail[self._index]
            self._index += 1
            if inside.kind == "close":
                return
            if inside.kind not in ("name", "comma", "space") and len(inside.text) > 1:
                break
        raise Refused("expression")

    def _read_break(self, token: Token) -> None:
        if self._tail[self._index :]:
            raise Refused("several values")

    def _read_comma(self, token: Token) -> None:
        raise Refused("several values")

    def _read_percent(self, token: Token) -> None:
        raise Refused("percentage")

    def _read_ellipsis(self, token: Token) -> None:
        raise Refused("cut off")

    def _read_script(self, token: Token) -> None:
        inner = "".join(each.text for each in token.inner if each.kind != "space").lower()
        inner = inner.removeprefix("(").removesuffix(")")
        if self._index == 1 and token.text == "_":
            if inner not in _TEN:
                raise Refused("other base")
        elif self._index == 1:
            kinds = {each.kind for each in token.inner if each.kind != "space"}
            is_degree = inner in ("\\circ", "o", "∘") or kinds == {"degree"}
            if not is_degree and inner not in _ordinals(self._number):
                raise Refused("expression")
        elif not self._has_unit or inner not in ("1", "2", "3", "-1", "-2", "-3"):
            raise Refused("expression")

    def _read_operator(self, token: Token) -> None:
        if not self._has_unit or token.text not in ("/", "·", "\\cdot", "⋅"):
            raise Refused("expression")
        self._has_unit = False
        following = next((each for each in self._tail[self._index :] if each.kind != "space"), None)
        if following is None or not _is_unit(following, is_after_space=True):
            raise Refused("expression")

    def _read_minus(self, token: Token) -> None:
        following = self._tail[self._index] if self._index < len(self._tail) else None
        if self._index != 1 or following is None or following.text not in _ordinals(self._number):
            raise Refused("expression")
        self._index += 1

    def _read_name(self, token: Token) -> None:
        before = self._tail[self._index - 2] if self._index > 1 else self._number
        is_apart = before.kind in ("space", "degree", "operator", "word") or token.mode == "roman"
        spoken = [each.kind for each in self._tail[: self._index - 1] if each.kind != "space"]
        if spoken and spoken[-1] in ("degree", "script") and token.text in ("C", "F", "K"):
            return
        if (
            token.text == "\\frac"
            and all(
                each.kind == "space" or _is_unit(each, is_after_space=True)
                for each in self._tail[self._index :]
            )
        ) or _is_unit(token, is_after_space=is_apart):
            self._has_unit = True
        else:
            raise Refused("expression")

    def _read_word(self, token: Token) -> None:
        text = token.text
        if self._index == 1 and text in _ordinals(self._number):
            return
        if self._has_noun and token.mode in ("text", "prose"):
            self._read_clause(token)
        elif text == "per":
            self._read_per()
        elif self._has_unit and text in ("squared", "cubed"):
            return
        elif text in words.UNITS:
            self._has_unit = True
        elif text in words.COUNTED:
            self._has_noun = self._has_unit = True
        elif text in words.CONNECTIVES:
            raise Refused("several values")
        elif text in words.QUALIFIERS or text in words.CLOSERS:
            return
        elif words.changes_number(text):
            raise Refused("number words")
        elif not self._leads_to_plural(token):
            raise Refused("unread words")

    def _read_per(self) -> None:
        following = next((each for each in self._tail[self._index :] if each.kind != "space"), None)
        if not self._has_unit or following is None or following.text == "cent":
            raise Refused("number words")

    def _leads_to_plural(self, token: Token) -> bool:
        r"""`42\text{ red apples}`: in words that TeX sets apart, a plural is what the number counts."""
        if token.mode != "text":
            return False
        if words.is_plural(token.text):
            self._has_noun = self._has_unit = True
            return True
        rest = [each for each in self._tail[self._index :] if each.kind == "word"]
        return any(words.is_plural(each.text) or each.text in words.COUNTED for each in rest)

    def _read_clause(self, token: Token) -> None:
        """Behind the noun: "that satisfy the condition"."""
        if token.text in words.CONNECTIVES:
            raise Refused("several values")
        if words.changes_number(token.text):
            raise Refused("number words")


def _is_unit(token: Token, *, is_after_space: bool) -> bool:
    if token.kind == "name":
        return token.text in words.SINGLE_LETTER_UNITS and token.mode != "math" and is_after_space
    return token.kind == "word" and token.text in words.UNITS


def _ordinals(number: Token) -> tuple[str, ...]:
    """The letters that make an ordinal of it: 113th, 1st."""
    last_two = int(number.value or 0) % 100
    letters = {1: "st", 2: "nd", 3: "rd"}.get(last_two % 10, "th") if last_two not in (11, 12, 13) else "th"
    return (letters, f"\\text{letters}")

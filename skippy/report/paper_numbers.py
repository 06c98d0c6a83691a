r"""Every number of the paper as a macro, looked up in the study's JSON and never typed.

A macro's name is the path of its value, with its unit: `kept/3/loss/mean` in points is
`\AKeptThreeLossMeanSignedPoints`. `numbers.tex` names the path behind each, so that any figure can be traced.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from skippy.core.variants import label_of
from skippy.errors import ReportError
from skippy.report.latex import escape_tex
from skippy.report.numerals import MISSING, digest, plain, signed

DIGITS = ("Zero", "One", "Two", "Three", "Four", "Five", "Six", "Seven", "Eight", "Nine")
STYLES: Mapping[str, Callable[[Any], str]] = {
    "points": lambda value: plain(100 * value),
    "whole_points": lambda value: f"{100 * value:g}",
    "signed_points": lambda value: signed(100 * value),
    "percent": lambda value: plain(100 * value, 0),
    "share": lambda value: plain(value, 2),
    "signed": lambda value: signed(value, 2),
    "fine": lambda value: signed(value, 3),
    "number": lambda value: f"{value:g}".replace("-", "−"),
    "list": lambda value: ", ".join(f"{one:g}" for one in value),
    "length": lambda value: str(len(value)),
    "digest": digest,
    "text": str,
}
"""Unit → how a value of it is printed."""


def letters(text: str | int) -> str:
    """Text as part of a macro's name, letters only: `v4-random` as `VFourRandom`."""
    words = re.findall(r"[A-Za-z]+|\d|\+", str(text))
    return "".join(
        DIGITS[int(word)] if word.isdigit() else "Plus" if word == "+" else word[0].upper() + word[1:]
        for word in words
    )


def printable(text: str) -> str:
    """Text that any pdfTeX sets: specials escaped, letters that it has not as `[U+4E2D]`."""
    return "".join(c if c.isascii() else f"[U+{ord(c):04X}]" for c in escape_tex(" ".join(text.split())))


class Numbers:
    r"""The macros of a paper, in the order in which they were asked for.

    >>> numbers = Numbers()
    >>> numbers.derive("Confidence", "95", "level of every bound")
    '\\Confidence{}'
    """

    def __init__(self) -> None:
        self._defined: dict[str, tuple[str, str]] = {}

    def derive(self, name: str, text: str, source: str) -> str:
        """A macro for what is counted or named rather than read; `source` says from what.

        Raises:
            ReportError: two values ask for one name.
        """
        entry = (printable(text), source)
        known = self._defined.setdefault(name, entry)
        if known != entry:
            raise ReportError(
                "Two numbers of the paper ask for one macro.",
                where=f"\\{name}",
                expected=f"{known[0]} of {known[1]}",
                found=f"{entry[0]} of {entry[1]}",
                next_step="this is a fault of skippy: report it with the study's JSON",
            )
        return f"\\{name}{{}}"

    def arm(self, name: str) -> str:
        """An arm as people call it."""
        return self.derive(f"Arm{letters(name)}", label_of(name), f"name of the arm {name}")

    def file(self) -> str:
        """`numbers.tex`: one macro a line, and where it comes from."""
        lines = [
            f"\\newcommand{{\\{name}}}{{{text}}}% {printable(source)}"
            for name, (text, source) in self._defined.items()
        ]
        return "\n".join(["% Generated from the JSON of the studies; change nothing here.", *lines]) + "\n"


class Study:
    """One study's JSON, and the macros that quote it.

    Args:
        letter: A, B, …: how macros, labels and figures call it.
        data: content of `study.json`.
        numbers: that it adds to.
    """

    def __init__(self, letter: str, data: Mapping[str, Any], numbers: Numbers) -> None:
        self.letter, self.data, self.numbers = letter, data, numbers

    def get(self, *path: str | int) -> Any:
        """What stands at a path."""
        found: Any = self.data
        for part in path:
            found = found[part]
        return found

    def cite(self, style: str, *path: str | int) -> str:
        """The macro of the value at `path`, printed as `style` says; a dash where the study has none."""
        value = self.get(*path)
        text = MISSING if value is None else STYLES[style](value)
        name = self.letter + "".join(letters(part) for part in (*path, *style.split("_")))
        return self.numbers.derive(name, text, f"{self.get('study', 'name')}: {'/'.join(map(str, path))}")

    def count(self, name: str, value: int, source: str) -> str:
        """The macro of a count over the study."""
        return self.numbers.derive(
            f"{self.letter}Count{letters(name)}", str(value), f"{self.get('study', 'name')}: {source}"
        )

    def interval(self, style: str, *path: str | int, ends: tuple[str, str] = ("lower", "upper")) -> str:
        """`−1.2 to +3.4`, of the two ends beneath `path`."""
        low, high = (self.cite(style, *path, end) for end in ends)
        return f"{low} to {high}"

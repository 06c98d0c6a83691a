"""Text as LaTeX prints it in its default OT1 encoding, where a bare `<` comes out as `¡`."""

from __future__ import annotations

import unicodedata

SYMBOLS = {
    **{character: "\\" + character for character in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "\u00a0": "~",
    "<": "$<$",
    ">": "$>$",
    "|": "$|$",
    "≤": r"$\leq$",
    "≥": r"$\geq$",
    "×": r"$\times$",
    "±": r"$\pm$",
    "−": "$-$",
    "–": "--",
    "—": "---",
    "α": r"$\alpha$",
    "β": r"$\beta$",
    "δ": r"$\delta$",
    "ρ": r"$\rho$",
    "Δ": r"$\Delta$",
    "‖": r"$\|$",
    "′": "$'$",
    "ᵀ": r"$^{\top}$",
    "²": r"$^{2}$",
    "√": r"$\surd$",
    **{"ß": r"\ss{}", "æ": r"\ae{}", "Æ": r"\AE{}", "œ": r"\oe{}", "Œ": r"\OE{}"},
    **{"ø": r"\o{}", "Ø": r"\O{}", "ł": r"\l{}", "Ł": r"\L{}", "ı": r"\i{}"},
}
ACCENTS = {
    "\u0300": "`", "\u0301": "'", "\u0302": "^", "\u0303": "~", "\u0304": "=", "\u0306": "u", "\u0307": ".",
    "\u0308": '"', "\u030a": "r", "\u030b": "H", "\u030c": "v", "\u0323": "d", "\u0327": "c",
}  # fmt: skip
"""Combining mark → the command that puts it on a letter."""


def escape_tex(text: str) -> str:
    """`text` with every special, symbol and accented letter as a command; unknown characters stay."""
    return "".join(_escape(character) for character in unicodedata.normalize("NFC", text))


def _escape(character: str) -> str:
    if character in SYMBOLS:
        return SYMBOLS[character]
    letter, *marks = list(unicodedata.normalize("NFD", character))
    if not marks or not set(marks) <= ACCENTS.keys():
        return character
    printed = {"i": r"\i", "j": r"\j"}.get(letter, letter)
    for mark in marks:
        printed = f"\\{ACCENTS[mark]}{{{printed}}}"
    return printed

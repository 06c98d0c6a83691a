r"""What decides an answer, as a flat list of tokens: TeX, Markdown and prose read by one scanner.

Decoration (fonts, colours, sizes, delimiters of mathematics, ornaments) is an allow-list and leaves no token;
a command that is not on it is a `name`, and a name beside a number makes an expression of it.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from fractions import Fraction

from skippy.core.inference.answer_symbols import (
    COMMANDS,
    DECORATIONS,
    ENVIRONMENTS,
    MARKUP,
    MODES,
    SKIPPED_ARGUMENTS,
    SUPERSCRIPTS,
    SYMBOLS,
    Kind,
    Mode,
)

DEEPEST_SCRIPT = 3


@dataclass(frozen=True, slots=True)
class Token:
    r"""One piece of what decides."""

    kind: Kind  # what it is
    text: str  # as written; words in lower case
    # `math`, `prose` (an answer line), `text` (\text{}) or `roman` (\mathrm{}, in which units are set)
    mode: Mode = "math"
    value: Fraction | None = None  # of a number
    inner: tuple[Token, ...] = ()  # tokens of a script


_LETTER = r"[^\W\d_⁰¹²³⁴⁵⁶⁷⁸⁹]"
_WORD = rf"{_LETTER}+(?:['’]{_LETTER}+)*"
_THIN = r"(?:,|\{,\}|\\[,;:!]|,\\!|\{,\\!\}|[\u2009\u202f])"
_SCANNER = re.compile(
    rf"""
    (?P<number>[1-9][0-9]{{0,2}}(?:{_THIN}[0-9]{{3}})+(?![0-9])(?:\.[0-9]+)?|[0-9]+(?:\.[0-9]+)?|(?<![0-9.])\.[0-9]+)
    |(?P<face>[\U0001f300-\U0001f51e\U0001f520-\U0001faff\u2600-\u2767\u2798-\u27af\u2b50\u2b55\ufe0f\u200d]
        |(?<=\s)[:;]-?[)D](?!\w))
    |(?P<space>[\s\u00a0\u2009\u202f\u3000]+|\\[,;:!\ >]|(?<!~)~(?![=~])|~~(?!=)|&nbsp;)
    |(?P<wide>\\\\(?:\[[^\[\]]*\])?|\\newline\b|\\par\b|\\q?quad\b|\\hfill\b)
    |(?P<command>\\[A-Za-z]+\*?)
    |(?P<special><\|[^|<>]*\|>|<｜[^｜<>]*｜>|</?(?:s|eos|bos|pad|end_of_turn|answer|final_answer|final|b|i|u|em|strong
        |p|br|div|span|center|big|code|pre|mark|h[1-6]|li|ul|ol)\s*/?>)
    |(?P<shift>\$+|\\[()\[\]])
    |(?P<ellipsis>\.{{3,}}|…)
    |(?P<escaped>\\.)
    |(?P<superscript>[⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺]+)
    |(?P<word>{_WORD})
    |(?P<brace>[{{}}])
    |(?P<symbol>==>|=/=|<=|>=|!=|/=|<>|~=|=~|=>|->|<-|=<|:=|==|~+|.)
    """,
    re.VERBOSE | re.DOTALL,
)
_JOINED = re.compile(_WORD)
_LOWERED = re.compile(r"\s*[\w{\\]")
_OPEN_GROUP = re.compile(r"\s*\{")
_GROUPING = re.compile(r"\\.|[{}]", re.DOTALL)
_ARGUMENT = re.compile(r"\s*(?:\[[^\[\]{}]*\]\s*)?\{([^{}]*)\}")
_SCRIPT_TARGET = re.compile(r"\s*(?:\{|\\[A-Za-z]+|\\.|[0-9]+|.)", re.DOTALL)
_INVISIBLE = dict.fromkeys(
    (0x200B, 0x200C, 0x200E, 0x200F, 0x2060, 0xFEFF, 0x00AD, 0x2066, 0x2067, 0x2068, 0x2069)
)


def tokenize(content: str, *, is_prose: bool) -> tuple[Token, ...]:
    r"""The tokens of what decides; linear in its length, never raises.

    Args:
        content: what stands in a box, or behind `Answer:`.
        is_prose: an answer line: words until a dollar sign; else mathematics until \text{}.
    """
    return tuple(_Scanner(content.translate(_INVISIBLE), is_prose=is_prose).scan())


class _Scanner:
    """One pass over a text; a stack of modes follows its braces."""

    def __init__(self, text: str, *, is_prose: bool, depth: int = 0) -> None:
        self._text, self._is_prose, self._depth = text, is_prose, depth
        self._position = 0
        self._modes: list[Mode] = ["prose" if is_prose else "math"]
        self._pending: Mode | None = None
        self._tokens: list[Token] = []
        # An odd dollar sign delimits nothing: it is a stray one, or money.
        self._has_paired_dollars = text.replace("\\$", "").count("$") % 2 == 0

    def scan(self) -> list[Token]:
        while self._position < len(self._text):
            match = _SCANNER.match(self._text, self._position)
            if match is None:  # the last alternative takes any character
                break
            self._position = match.end()
            getattr(self, f"_{match.lastgroup}")(match.group())
        return self._tokens

    @property
    def _mode(self) -> Mode:
        return self._modes[-1]

    def _add(
        self, kind: Kind, text: str, value: Fraction | None = None, inner: tuple[Token, ...] = ()
    ) -> None:
        self._tokens.append(Token(kind, text, self._mode, value, inner))

    def _number(self, text: str) -> None:
        self._add("number", text, Fraction(re.sub(r"[^0-9.]", "", text)))

    def _space(self, text: str) -> None:
        self._add("space", text)

    _face = _space

    def _wide(self, text: str) -> None:
        self._add("break", text)

    def _special(self, text: str) -> None:
        self._add("space", text)

    def _shift(self, text: str) -> None:
        if self._is_prose and len(self._modes) == 1 and (self._has_paired_dollars or text[0] == "\\"):
            self._modes[0] = "math" if self._modes[0] == "prose" else "prose"
        self._add("space", text)

    def _ellipsis(self, text: str) -> None:
        self._add("ellipsis", text)

    def _escaped(self, text: str) -> None:
        kinds: dict[str, Kind] = {"%": "percent", "$": "currency", "{": "open", "}": "close", "|": "operator"}
        self._add(kinds.get(text[1], "space" if text[1] in "_*`#" else "name"), text)

    def _superscript(self, text: str) -> None:
        inner = tokenize(text.translate(SUPERSCRIPTS), is_prose=False)
        self._add("script", "^", inner=inner)

    def _word(self, text: str) -> None:
        lower = text.lower()
        is_article = self._mode in ("text", "prose") and lower in ("a", "i")
        if len(text) > 1 or is_article or unicodedata.category(text) == "Lo":
            self._add("word", lower.replace("’", "'"))
        else:
            self._add("name", text)

    def _brace(self, text: str) -> None:
        if text == "{":
            self._modes.append(self._pending or self._mode)
        elif len(self._modes) > 1:
            self._modes.pop()
        self._pending = None

    def _command(self, text: str) -> None:
        name = text[1:].rstrip("*")
        if name in ("begin", "end"):
            argument = _ARGUMENT.match(self._text, self._position)
            if argument is None or argument.group(1).strip() not in ENVIRONMENTS:
                self._add("name", text)
            self._skip_arguments(1)
            return
        self._skip_arguments(SKIPPED_ARGUMENTS.get(name, 0))
        if name in MODES:
            self._pending = MODES[name]
            self._begin_group_without_braces(self._pending)
        elif name not in DECORATIONS and name not in SKIPPED_ARGUMENTS:
            self._add(COMMANDS.get(name, "name"), text)

    def _begin_group_without_braces(self, mode: Mode) -> None:
        r"""`\rm 113` switches the font to the end of its group; with braces behind, only the braces count."""
        if not _OPEN_GROUP.match(self._text, self._position):
            self._modes[-1], self._pending = mode, None

    def _skip_arguments(self, count: int) -> None:
        for _ in range(count):
            argument = _ARGUMENT.match(self._text, self._position)
            self._position = argument.end() if argument else self._position

    def _symbol(self, text: str) -> None:
        if text == "^" or (text == "_" and self._is_subscript()):
            self._script(text)
        elif text == ":":
            self._add("comma", text)
        elif text in "-–—" or text == "--":
            self._add_dash(text)
        elif text == "'":
            self._add("space" if not self._tokens or self._mode in ("text", "prose") else "name", text)
        elif text in MARKUP:
            self._add("space", text)
        elif text == "~~":
            self._add("unknown" if self._is_prose else "space", text)
        elif set(text) == {"~"}:
            self._add("relation", text)
        else:
            self._add(SYMBOLS.get(text, "unknown"), text)

    def _is_subscript(self) -> bool:
        """Whether an underscore lowers what follows; elsewhere it is Markdown."""
        if not self._tokens or not _LOWERED.match(self._text, self._position):
            return False
        return self._mode in ("math", "roman") or self._tokens[-1].kind == "number"

    def _add_dash(self, text: str) -> None:
        before = self._text[self._position - 2 : self._position - 1]
        after = self._text[self._position : self._position + 1]
        # At the head of an answer a hyphen is a sign, spaces or not.
        is_spaced = before.isspace() and bool(self._tokens) and (not after or after.isspace())
        if text == "—" or (is_spaced and (text == "–" or self._mode in ("text", "prose"))):
            self._add("dash", text)
        elif self._mode in ("text", "prose") and before.isalpha() and after.isalpha():
            self._join_words()
        else:
            self._add("minus", text)

    def _join_words(self) -> None:
        """`forty-two` is one word."""
        match = _JOINED.match(self._text, self._position)
        previous = self._tokens.pop()
        self._position = match.end() if match else self._position
        joined = f"{previous.text}-{match.group() if match else ''}".lower()
        self._tokens.append(Token("word", joined, self._mode))

    def _script(self, mark: str) -> None:
        target = _SCRIPT_TARGET.match(self._text, self._position)
        if target is None or self._depth >= DEEPEST_SCRIPT:
            self._add("unknown", mark)
            return
        start, self._position = self._position, target.end()
        inner = target.group().strip()
        if inner == "{":
            self._position = _end_of_group(self._text, self._position)
            inner = self._text[start : self._position].strip()
        elif inner in ("\\text", "\\mathrm", "\\textrm", "\\mathbf", "\\rm"):
            argument = _ARGUMENT.match(self._text, self._position)
            self._position = argument.end() if argument else self._position
            inner = self._text[start : self._position]
        scanner = _Scanner(inner, is_prose=False, depth=self._depth + 1)
        self._add("script", mark, inner=tuple(scanner.scan()))


def _end_of_group(text: str, position: int) -> int:
    """Behind the brace that closes the group whose inside starts at `position`."""
    depth = 1
    for match in _GROUPING.finditer(text, position):
        depth += {"{": 1, "}": -1}.get(match.group(), 0)
        if depth == 0:
            return match.end()
    return len(text)

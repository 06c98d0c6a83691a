"""YAML with a memory of lines, for what people write: characters, presets, plans. Values know file, line and field."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import yaml
from yaml.reader import Reader

from skippy.errors import CharacterError, ConfigError, PlanError, SkippyError
from skippy.patterns import find_hazard

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
MAX_DEPTH = 50
ERRORS: dict[str, type[SkippyError]] = {
    "character": CharacterError,
    "plan": PlanError,
    "preset": ConfigError,
    "prompts": CharacterError,
}
EXAMPLES = {
    "character": "skippy/characters/skippy.yaml",
    "plan": "studies/lab.yaml",
    "preset": "skippy/presets/recipe.yaml",
    "prompts": "skippy/characters/prompts/train.yaml",
}


@dataclass(frozen=True)
class Node:
    """One value of a file that a person wrote."""

    file: Path  # the file as it was named
    field: str  # dotted path of the value, for messages
    raw: yaml.Node  # the YAML node
    line: int = 1  # where it is, from 1: of a field the line of its name
    subject: str = "character"  # what the file describes, a key of `ERRORS`

    def fail(self, what: str, *, expected: str, found: str, next_step: str = "") -> SkippyError:
        """The error that this value deserves; the caller raises it."""
        where = f"{self.file}, line {self.line}, field {self.field or 'top level'}"
        step = next_step or f"correct line {self.line} of {self.file}"
        return ERRORS[self.subject](what, where=where, expected=expected, found=found, next_step=step)

    def mapping(self, required: Collection[str], optional: Collection[str] = ()) -> dict[str, Node]:
        """The fields of a mapping; none unknown, none missing, none twice."""
        known = (*required, *optional)
        fields = self.entries()
        for name, value in fields.items():
            if name not in known:
                near = difflib.get_close_matches(name, known, n=1)
                hint = f"rename {name} to {near[0]}" if near else f"remove {name}"
                raise value.fail(
                    f"Unknown field in a {self.subject} file",
                    expected=f"one of {', '.join(known)}" if known else "no field here",
                    found=name,
                    next_step=hint,
                )
        for name in required:
            if name not in fields:
                raise self.fail(
                    f"A field is missing from a {self.subject} file",
                    expected=f"field {name}",
                    found=f"only {', '.join(fields) or 'nothing'}",
                    next_step=f"add {name}",
                )
        return fields

    def entries(self) -> dict[str, Node]:
        """The values of a mapping of any keys, in order; no key twice."""
        if not isinstance(self.raw, yaml.MappingNode):
            raise self.fail("Expected fields here", expected="a mapping", found=self._kind())
        fields: dict[str, Node] = {}
        for key, value in self.raw.value:
            name = str(key.value)
            path = f"{self.field}.{name}" if self.field else name
            child = Node(self.file, path, value, key.start_mark.line + 1, self.subject)
            if name in fields:
                raise child.fail("A field is given twice", expected=f"{name} once", found=f"{name} again")
            fields[name] = child
        return fields

    def items(self, least: int = 0) -> list[Node]:
        """The members of a list of at least `least`."""
        if not isinstance(self.raw, yaml.SequenceNode):
            raise self.fail("Expected a list here", expected="a list", found=self._kind())
        if len(self.raw.value) < least:
            raise self.fail(
                "A list is too short", expected=f"at least {least}", found=f"{len(self.raw.value)}"
            )
        return [
            Node(self.file, f"{self.field}[{i}]", value, value.start_mark.line + 1, self.subject)
            for i, value in enumerate(self.raw.value)
        ]

    def text(self) -> str:
        """A string that is not blank."""
        if not isinstance(self.raw, yaml.ScalarNode) or self.raw.tag != "tag:yaml.org,2002:str":
            raise self.fail("Expected text here", expected="a string", found=self._kind())
        if not self.raw.value.strip():
            raise self.fail("Text is empty", expected="at least one word", found=repr(self.raw.value))
        return self.raw.value.strip()

    def texts(self, least: int = 0) -> tuple[str, ...]:
        """A list of strings, none blank, none twice."""
        values: list[str] = []
        for node in self.items(least):
            if node.text() in values:
                raise node.fail("An entry is given twice", expected="each entry once", found=node.text())
            values.append(node.text())
        return tuple(values)

    def number(self, low: float, high: float) -> float:
        """A number of [low, high]."""
        expected = f"a number from {low:g} to {high:g}"
        try:
            value = float(self.raw.value) if isinstance(self.raw, yaml.ScalarNode) else None
        except ValueError:
            value = None
        if value is None or not low <= value <= high:
            raise self.fail("Not a usable number", expected=expected, found=self._kind())
        return value

    def integer(self, low: int, high: int) -> int:
        """A whole number of [low, high]."""
        value = self.number(low, high)
        if value != int(value):
            raise self.fail("Not a whole number", expected=f"a whole number {low}–{high}", found=f"{value:g}")
        return int(value)

    def flag(self) -> bool:
        """True or false."""
        words = {"true": True, "false": False}
        text = self.raw.value.lower() if isinstance(self.raw, yaml.ScalarNode) else ""
        if text not in words:
            raise self.fail("Neither true nor false", expected="true or false", found=self._kind())
        return words[text]

    def pattern(self) -> re.Pattern[str]:
        """A regular expression, compiled without regard to case; it must not match nothing, nor run away."""
        try:
            compiled = re.compile(self.text(), re.IGNORECASE)
        except re.error as error:
            raise self.fail(
                "Not a regular expression", expected="Python re syntax", found=f"{self.raw.value!r}: {error}"
            ) from error
        if compiled.search(""):
            raise self.fail(
                "A pattern matches the empty text",
                expected="at least one character to match",
                found=repr(self.raw.value),
            )
        hazard = find_hazard(compiled.pattern)
        if hazard:
            raise self.fail(
                "A pattern can take for ever on some text",
                expected="one way only to read a text (skippy/patterns.py)",
                found=f"{self.raw.value!r}: {hazard}",
            )
        return compiled

    def _kind(self) -> str:
        if isinstance(self.raw, yaml.ScalarNode):
            return repr(self.raw.value) if self.raw.value else "nothing"
        return "a list" if isinstance(self.raw, yaml.SequenceNode) else "a mapping"


def read_nodes(path: Path, subject: str = "character") -> Node:
    """The root value of a YAML file.

    Args:
        subject: what it describes, for messages; a key of `ERRORS`.

    Raises:
        CharacterError, ConfigError, PlanError: no such file, not UTF-8 text, not YAML, or empty.
    """
    try:
        if path.exists() and not (path.is_file() or path.is_dir()):
            raise OSError("no regular file")  # a device might be read for ever
        text = path.read_text(encoding="utf-8")
        _require_printable(path, text, subject)
        _require_shallow(path, text, subject)
        root = yaml.compose(text, Loader=_LOADER)
    except (OSError, UnicodeDecodeError) as error:
        raise ERRORS[subject](
            f"A {subject} file cannot be read",
            where=str(path),
            expected="a UTF-8 YAML file",
            found=str(error),
            next_step="check the path and the encoding",
        ) from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        raise ERRORS[subject](
            f"A {subject} file is not YAML",
            where=f"{path}{line}",
            expected="YAML",
            found=str(getattr(error, "problem", error)),
            next_step="correct the line; quote text that holds : or #",
        ) from error
    if root is None:
        raise ERRORS[subject](
            f"A {subject} file is empty",
            where=str(path),
            expected=f"a {subject}",
            found="nothing",
            next_step=f"start from a copy of {EXAMPLES[subject]}",
        )
    return Node(path, "", root, root.start_mark.line + 1, subject)


def _require_shallow(path: Path, text: str, subject: str) -> None:
    """Refuse nesting that would end the process: the reader of values calls itself, that of events does not."""
    depth = 0
    for event in yaml.parse(text, Loader=_LOADER):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if depth > MAX_DEPTH:
            line = event.start_mark.line + 1 if event.start_mark else 0
            raise ERRORS[subject](
                f"A {subject} file is nested too deeply",
                where=f"{path}, line {line}",
                expected=f"at most {MAX_DEPTH} levels",
                found="more",
                next_step=f"start from a copy of {EXAMPLES[subject]}",
            )


def _require_printable(path: Path, text: str, subject: str) -> None:
    """What YAML forbids is named here, since its own message knows no line."""
    forbidden = Reader.NON_PRINTABLE.search(text)
    if forbidden:
        raise ERRORS[subject](
            f"A {subject} file holds a character that YAML does not allow",
            where=f"{path}, line {text.count(chr(10), 0, forbidden.start()) + 1}",
            expected="printable text",
            found=repr(forbidden.group()),
            next_step="remove it; a file saved in another encoding than UTF-8 has many",
        )

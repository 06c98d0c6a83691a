"""What makes a dataclass a set of parameters: fields with help and limits, and typed values out of text.

The parameters themselves are in `config`.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import MISSING, Field, field, fields
from typing import Any, TypeVar, get_type_hints

from skippy.errors import ConfigError

Config = TypeVar("Config")


def option(
    default: Any,
    text: str,
    *,
    choices: Collection[str] = (),
    minimum: float | None = None,
    above: float | None = None,
    below: float | None = None,
    names: str = "",
) -> Any:
    """A config field: default, line of help, the values that make sense, and what kind of thing its text names."""
    limits = {"choices": choices, "minimum": minimum, "above": above, "below": below, "names": names}
    return field(default=default, metadata={"help": text, **limits})


def default_text(item: Field[Any]) -> str:
    """A field's default as MLproject and the command line write it."""
    assert item.default is not MISSING
    return str(item.default).lower() if isinstance(item.default, bool) else str(item.default)


def parse_config(config_class: type[Config], values: Mapping[str, str]) -> Config:
    """Typed config out of strings.

    Args:
        config_class: one of the dataclasses of `config`.
        values: field name → text, as MLflow hands it over; missing fields take their default.

    Raises:
        ConfigError: an unknown name, a value of the wrong type, or one outside what makes sense.
    """
    known = {item.name: item for item in fields(config_class)}  # type: ignore[arg-type]
    unknown = sorted(set(values) - set(known))
    if unknown:
        raise ConfigError(
            "There is no such parameter.",
            where=", ".join(unknown),
            expected="one of " + ", ".join(known),
            found=", ".join(unknown),
            next_step=suggest(unknown[0], known) or "correct the name",
        )
    hints = get_type_hints(config_class)
    typed = {name: _parse(known[name], hints[name], text) for name, text in values.items()}
    return config_class(**typed)


def kind_text(config_class: type, item: Field[Any]) -> str:
    """What may be written for a field, as help shows it: choices, or the name of its type."""
    choices, kind = item.metadata["choices"], get_type_hints(config_class)[item.name]
    return "[" + "|".join(choices) + "]" if choices else _KINDS[kind]


def limits_text(item: Field[Any]) -> str:
    """The limits of a number in words; empty where there are none, or only that it is not negative."""
    words = {"minimum": "at least", "above": "more than", "below": "less than"}
    given = [(word, item.metadata[name]) for name, word in words.items()]
    limits = [f"{word} {value:g}" for word, value in given if value is not None]
    return "" if limits == ["at least 0"] else " and ".join(limits)


def nearest(text: str, known: Iterable[str]) -> str:
    """The known word most like `text`, whatever its case; empty where none is near."""
    by_lower = {word.lower(): word for word in known}
    near = difflib.get_close_matches(text.strip().lower(), by_lower, n=1)
    return by_lower[near[0]] if near else ""


def suggest(text: str, known: Iterable[str]) -> str:
    """The sentence that proposes the nearest known word; empty where none is near."""
    near = nearest(text, known)
    return f"did you mean {near}?" if near else ""


def _parse(item: Field[Any], kind: type, text: str) -> Any:
    text = text.strip()
    try:
        value = _PARSERS[kind](text)
    except ValueError as error:
        raise _refuse(item, text, f"a value of type {kind.__name__}") from error
    choices, minimum = item.metadata["choices"], item.metadata["minimum"]
    above, below = item.metadata["above"], item.metadata["below"]
    if choices and value not in choices:
        raise _refuse(item, text, "one of " + ", ".join(choices))
    if minimum is not None and value < minimum:
        raise _refuse(item, text, f"at least {minimum:g}")
    if above is not None and not value > above:
        raise _refuse(item, text, f"more than {above:g}")
    if below is not None and not value < below:
        raise _refuse(item, text, f"less than {below:g}")
    return value


def _refuse(item: Field[Any], text: str, expected: str) -> ConfigError:
    value = nearest(text, item.metadata["choices"]) or default_text(item) or "…"
    return ConfigError(
        f"Parameter {item.name} cannot be {text!r}.",
        where=f"{item.name} ({item.metadata['help']})",
        expected=expected,
        found=repr(text),
        next_step=f"pass {item.name}={value}, or leave it out",
    )


def _parse_bool(text: str) -> bool:
    words = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
    if text.lower() not in words:
        raise ValueError(text)
    return words[text.lower()]


def _parse_float(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(text)
    return value


_PARSERS: dict[type, Callable[[str], Any]] = {str: str, int: int, float: _parse_float, bool: _parse_bool}
_KINDS: dict[type, str] = {str: "TEXT", int: "INTEGER", float: "NUMBER", bool: "[true|false]"}

"""What makes a dataclass a set of parameters: fields with help and limits, and typed values out of text.

The parameters themselves are in `config`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import MISSING, Field, field, fields
from typing import Any, TypeVar, get_args, get_type_hints

from skippy.errors import ConfigError, nearest

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
    excludes: tuple[str, ...] = (),
    needs: str = "",
) -> Any:
    """A config field: default, line of help, and the values that make sense.

    Args:
        default: of the right type.
        text: line of help.
        choices: the words it may be.
        minimum: smallest number.
        above: what a number must be above.
        below: what a number must be below.
        names: what kind of thing the text names, for checks and completion.
        excludes: parameters that cannot be given beside this one: obeying both is impossible.
        needs: parameter without which this one means nothing.
    """
    limits = {
        **{"choices": choices, "minimum": minimum, "above": above, "below": below},
        **{"names": names, "excludes": excludes, "needs": needs},
    }
    return field(default=default, metadata={"help": text, **limits})


def default_text(item: Field[Any]) -> str:
    """A field's default as MLproject and the command line write it."""
    assert item.default is not MISSING
    return value_text(item.default)


def value_text(value: Any) -> str:
    """A value as it is written in a parameter; None, a value left to something else, is empty."""
    if value is None:
        return ""
    return str(value).lower() if isinstance(value, bool) else str(value)


def parse_config(config_class: type[Config], values: Mapping[str, str]) -> Config:
    """Typed config out of strings.

    Args:
        config_class: one of the dataclasses of `config`.
        values: field name → text, as MLflow hands it over; missing fields take their default.

    Raises:
        ConfigError: an unknown name, a value of the wrong type, one outside what makes sense, or two that exclude
            each other.
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
    config = config_class(**{name: _parse(known[name], hints[name], text) for name, text in values.items()})
    given = {
        name: getattr(config, name) for name, item in known.items() if getattr(config, name) != item.default
    }
    for name in given:
        needed = known[name].metadata["needs"]
        if needed and needed not in given:
            raise ConfigError(
                f"Parameter {name} means nothing without {needed}.",
                where=name,
                expected=f"{name} and {needed}, or neither",
                found=f"{name}={given[name]}",
                next_step=f"pass {needed} as well, or leave {name} out",
            )
        clashing = [other for other in known[name].metadata["excludes"] if other in given]
        if clashing:
            raise ConfigError(
                "Parameters contradict one another.",
                where=", ".join([name, *clashing]),
                expected=f"{name} without {', '.join(known[name].metadata['excludes'])}",
                found=", ".join(f"{each}={given[each]}" for each in (name, *clashing)),
                next_step=f"leave out {name}, or {' and '.join(clashing)}",
            )
    return config


def kind_text(config_class: type, item: Field[Any]) -> str:
    """What may be written for a field, as help shows it: choices, or the name of its type."""
    choices, kind = item.metadata["choices"], get_type_hints(config_class)[item.name]
    return "[" + "|".join(filter(None, choices)) + "]" if choices else _KINDS[kind]


def limits_text(item: Field[Any]) -> str:
    """The limits of a number in words; empty where there are none, or only that it is not negative."""
    words = {"minimum": "at least", "above": "more than", "below": "less than"}
    given = [(word, item.metadata[name]) for name, word in words.items()]
    limits = [f"{word} {value:.10g}" for word, value in given if value is not None]
    return "" if limits == ["at least 0"] else " and ".join(limits)


def suggest(text: str, known: Iterable[str]) -> str:
    """The sentence that proposes the nearest known word; empty where none is near."""
    near = nearest(text, known)
    return f"did you mean {near}?" if near else ""


def _parse(item: Field[Any], kind: Any, text: str) -> Any:
    text = text.strip()
    try:
        value = _PARSERS[kind](text)
    except ValueError as error:
        wanted = get_args(kind)[0] if get_args(kind) else kind
        raise _refuse(item, text, f"a value of type {wanted.__name__}") from error
    fault = limits_fault(item, value)
    if fault:
        raise _refuse(item, text, fault)
    return value


def limits_fault(item: Field[Any], value: Any) -> str:
    """What a field's limits expect in place of `value`; empty where it keeps them, or is left to something else."""
    choices, minimum = item.metadata["choices"], item.metadata["minimum"]
    above, below = item.metadata["above"], item.metadata["below"]
    if value is None:
        return ""
    if choices and value not in choices:
        return "one of " + ", ".join(choice or "nothing" for choice in choices)
    if minimum is not None and value < minimum:
        return f"at least {minimum:.10g}"
    if above is not None and not value > above:
        return f"more than {above:.10g}"
    if below is not None and not value < below:
        return f"less than {below:.10g}"
    return ""


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


def _or_none(parse: Callable[[str], Any]) -> Callable[[str], Any]:
    return lambda text: parse(text) if text else None


_PLAIN: dict[type, Callable[[str], Any]] = {str: str, int: int, float: _parse_float, bool: _parse_bool}
# A type or None: empty text leaves the value to something else.
_PARSERS = {**_PLAIN, **{kind | None: _or_none(parse) for kind, parse in _PLAIN.items()}}
_NAMES: dict[type, str] = {str: "TEXT", int: "INTEGER", float: "NUMBER", bool: "[true|false]"}
_KINDS = {**_NAMES, **{kind | None: name for kind, name in _NAMES.items()}}

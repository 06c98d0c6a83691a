"""From a preset's name or path to checked settings; a person's own file is refused by line and field."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import Field, fields
from functools import cache
from pathlib import Path
from typing import Any, get_type_hints

from skippy.errors import ConfigError
from skippy.options import limits_fault, suggest
from skippy.presets.settings import GrpoSettings
from skippy.yaml_nodes import Node, read_nodes

FOLDER = Path(__file__).parent
OWN_PARAMETERS = ("seed",)
"""Parameters of the stage, which no preset sets."""
LARGEST = 10**9
SECTIONS = ("mask", "steer")
"""Sections of a preset for the methods of `presets/methods.py`, whose settings they hold."""


def shipped_presets() -> tuple[str, ...]:
    """Names of the presets that come with skippy."""
    return tuple(sorted(path.stem for path in FOLDER.glob("*.yaml")))


@cache
def read_preset(name_or_path: str) -> GrpoSettings:
    """The settings of a shipped preset, or of a YAML file of the same fields; one left out is the recipe's.

    Raises:
        ConfigError: no such preset, or a file that breaks the schema; the message names file, line and field.
    """
    known = {item.name: item for item in fields(GrpoSettings) if item.name not in OWN_PARAMETERS}
    nodes = _open(name_or_path).mapping((), (*known, *SECTIONS))
    return GrpoSettings(**_values(nodes, GrpoSettings))


@cache
def read_section(name_or_path: str, section: str, kind: type) -> Any:
    """The settings that a preset has for a method; one left out is the method's default.

    Raises:
        ConfigError: as `read_preset`.
    """
    nodes = _open(name_or_path).entries()
    if section not in nodes:
        return kind()
    known = [item.name for item in fields(kind) if item.name not in OWN_PARAMETERS]
    return kind(**_values(nodes[section].mapping((), known), kind))


def _open(name_or_path: str) -> Node:
    is_shipped = name_or_path in shipped_presets()
    path = FOLDER / f"{name_or_path}.yaml" if is_shipped else Path(name_or_path)
    if not is_shipped and not path.is_file():
        raise ConfigError(
            "There is no such preset.",
            where="preset",
            expected="auto, " + ", ".join(shipped_presets()) + ", or the path of a YAML file",
            found=repr(name_or_path),
            next_step=suggest(name_or_path, ("auto", *shipped_presets()))
            or "copy skippy/presets/recipe.yaml, change it, and pass its path",
        )
    return read_nodes(path, "preset")


def _values(nodes: Mapping[str, Node], kind: type) -> dict[str, Any]:
    """Typed values of those of a dataclass's fields that are there."""
    known, hints = {item.name: item for item in fields(kind)}, get_type_hints(kind)
    return {name: _value(node, known[name], hints[name]) for name, node in nodes.items() if name in known}


class _Shipped(Mapping[str, GrpoSettings]):
    """The shipped presets by name, each read when it is first asked for."""

    def __getitem__(self, name: str) -> GrpoSettings:
        if name not in shipped_presets():
            raise KeyError(name)
        return read_preset(name)

    def __iter__(self) -> Iterator[str]:
        return iter(shipped_presets())

    def __len__(self) -> int:
        return len(shipped_presets())


PRESETS: Mapping[str, GrpoSettings] = _Shipped()


def _value(node: Node, item: Field[Any], kind: type) -> Any:
    value: Any
    if kind is bool:
        value = node.flag()
    elif kind is int:
        value = node.integer(-LARGEST, LARGEST)
    elif kind is float:
        value = node.number(-LARGEST, LARGEST)
    else:
        value = node.text()
    fault = limits_fault(item, value)
    if fault:
        raise node.fail(f"{item.name} cannot have this value", expected=fault, found=repr(value))
    return value

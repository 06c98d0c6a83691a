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


def shipped_presets() -> tuple[str, ...]:
    """Names of the presets that come with skippy."""
    return tuple(sorted(path.stem for path in FOLDER.glob("*.yaml")))


@cache
def read_preset(name_or_path: str) -> GrpoSettings:
    """The settings of a shipped preset, or of a YAML file of the same fields; one left out is the recipe's.

    Raises:
        ConfigError: no such preset, or a file that breaks the schema; the message names file, line and field.
    """
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
    known = {item.name: item for item in fields(GrpoSettings) if item.name not in OWN_PARAMETERS}
    hints = get_type_hints(GrpoSettings)
    nodes = read_nodes(path, "preset").mapping((), tuple(known))
    return GrpoSettings(**{name: _value(node, known[name], hints[name]) for name, node in nodes.items()})


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

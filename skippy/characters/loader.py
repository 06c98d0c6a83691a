"""From a name or a path to a checked character."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import fields as dataclass_fields
from dataclasses import is_dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from skippy.characters.schema import (
    FIELDS,
    OPTIONAL_FIELDS,
    SHARED_FIELDS,
    Character,
    Prompt,
    parse_floors,
    parse_markers,
    parse_personas,
    parse_prompts,
    parse_rules,
    parse_traits,
    told_before,
)
from skippy.errors import CharacterError
from skippy.yaml_nodes import Node, read_nodes

BUNDLED = Path(str(resources.files("skippy.characters")))
"""Folder of the characters that come with skippy; references in a file are sought beside it, then here."""

SHOWN = 80
"""Characters of a wrong name that a message repeats."""

NOT_FORMATS = frozenset({"plain", "neutral", "break", "trait"})
"""Names that metrics of the first format have."""

_NOT_CHARACTERS = frozenset({"assistant", "personas"})


def bundled_characters() -> tuple[str, ...]:
    """Names of the characters that come with skippy."""
    return tuple(sorted(path.stem for path in BUNDLED.glob("*.yaml") if path.stem not in _NOT_CHARACTERS))


def load_character(name_or_path: str | Path) -> Character:
    """Read, check and freeze a character.

    Returns:
        The character; its digest depends on the content alone, referenced files included.

    Raises:
        CharacterError: unknown name, or a file that breaks the schema; the message names file, line, field.
    """
    path = _find(str(name_or_path))
    fields = read_nodes(path).mapping(FIELDS, OPTIONAL_FIELDS)
    shared = _resolve(fields["extends"]).mapping((), SHARED_FIELDS) if "extends" in fields else {}
    markers = parse_markers(fields["markers"])
    traits, floors = parse_traits(fields["traits"], markers), parse_floors(fields.get("floors"))
    prompts = fields["prompts"].mapping(("train", "banal"), ("validation", "formats"))
    train, banal = (parse_prompts(_resolve(prompts[name])) for name in ("train", "banal"))
    _require_new(train, banal, prompts["banal"], "A held-out prompt is also a training prompt")
    validation: tuple[Prompt, ...] = ()
    if "validation" in prompts:
        validation = parse_prompts(_resolve(prompts["validation"]))
        _require_new(
            (*train, *banal),
            validation,
            prompts["validation"],
            "A validation prompt is also trained on or tested",
        )
    formats: tuple[Prompt, ...] = ()
    if "formats" in prompts:
        formats = parse_prompts(_resolve(prompts["formats"]))
        what = "A prompt of another format is also trained on, tested or validated on"
        _require_new((*train, *banal, *validation), formats, prompts["formats"], what)
        _require_formats(formats, prompts["formats"])
    personas = _resolve(fields["personas"])
    parts: dict[str, Any] = {
        "name": fields["name"].text(),
        "system_prompt": fields["system_prompt"].text(),
        "rules": parse_rules(fields, shared, markers, traits, floors),
        "traits": traits,
        "personas": parse_personas(_unwrap(personas, "personas")),
        "train_prompts": train,
        "banal_prompts": banal,
        "floors": floors,
    }
    if "smallest_effect" in fields:
        # Left out it is left out of the digest as well: files of before it keep theirs.
        parts["smallest_effect"] = fields["smallest_effect"].number(0.01, 0.9)
    # What doses are searched on decides no training and no evaluation, and other formats are figures of their own: the
    # digest is that of before there were any.
    return Character(digest=_digest(parts), **parts, validation_prompts=validation, format_prompts=formats)


def _require_formats(prompts: Sequence[Prompt], node: Node) -> None:
    """Refuse a format that is none: its name is part of metric names, and some names are modes of the first one."""
    for kind in dict.fromkeys(prompt.kind for prompt in prompts):
        if not re.fullmatch(r"[a-z][a-z0-9-]*", kind) or kind in NOT_FORMATS:
            raise node.fail(
                "A format's name cannot be used",
                expected=f"lower-case letters, digits and -, and none of {', '.join(sorted(NOT_FORMATS))}",
                found=kind,
            )


def _require_new(known: Sequence[Prompt], prompts: Sequence[Prompt], node: Node, what: str) -> None:
    for text in told_before(known, prompts):
        next_step = "remove it from one of the two"
        raise node.fail(what, expected="disjoint prompt files", found=text, next_step=next_step)


def _find(name_or_path: str) -> Path:
    bundled = BUNDLED / f"{name_or_path}.yaml"
    if name_or_path in bundled_characters():
        return bundled
    path = Path(name_or_path)
    if _is_file(path):
        return path
    raise CharacterError(
        "No such character",
        where="parameter character",
        expected=f"one of {', '.join(bundled_characters())}, or the path of a YAML file",
        found=repr(name_or_path[:SHOWN]) if len(name_or_path) > SHOWN else name_or_path,
        next_step="copy skippy/characters/skippy.yaml, change it, and pass its path",
    )


def _is_file(path: Path) -> bool:
    """False too where the system takes no such name: text in place of a path may be long, or hold any character."""
    try:
        return path.is_file()
    except OSError:
        return False


def _resolve(node: Node) -> Node:
    """The node itself, or the root of the file that it names: beside the character, else bundled."""
    if not isinstance(node.raw, yaml.ScalarNode):
        return node
    for folder in (node.file.parent, BUNDLED):
        if _is_file(folder / node.text()):
            return read_nodes(folder / node.text())
    raise node.fail(
        "A referenced file does not exist",
        expected=f"a file beside {node.file.name} or bundled with skippy, or the content in place",
        found=repr(node.text()[:SHOWN]),
    )


def _unwrap(node: Node, name: str) -> Node:
    """A referenced file holds its list under its name; in place, the list stands by itself."""
    return node.mapping((name,))[name] if isinstance(node.raw, yaml.MappingNode) else node


def _digest(parts: Mapping[str, Any]) -> str:
    content = _plain(parts)
    # Of the rules' traits only what rewards read, as ever: evaluations of earlier versions carry this digest.
    content["rules"]["traits"] = [
        {"name": trait["name"], "markers": trait["markers"]} for trait in content["rules"]["traits"]
    ]
    canonical = json.dumps(content, sort_keys=True, ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode("ascii")).hexdigest()


def _plain(value: Any) -> Any:
    """Dataclasses, patterns and sets as JSON values with one spelling."""
    if is_dataclass(value):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclass_fields(value)}
    if isinstance(value, re.Pattern):
        return value.pattern
    if isinstance(value, Mapping):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, frozenset):
        return sorted(value)
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(entry) for entry in value]
    return value

"""What a stage's parameters name, as far as it can be checked without torch and MLflow.

A wrong path or name is refused here, before a run is opened. What needs the store, a data
set by id or the weights themselves is found or refused later, by the stage.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from skippy.characters.loader import load_character
from skippy.characters.own_prompts import read_own_prompts
from skippy.core.problem import parse_rule
from skippy.core.spectral.rank import parse_rank
from skippy.core.variants import VARIANTS, parse_arms
from skippy.errors import CheckpointError, ConfigError, nearest
from skippy.lab.paths import LAB
from skippy.models.hub import HUB_ID, adapter_names, find_local, find_local_adapter, require_reachable
from skippy.models.profiles import AUTO
from skippy.presets.methods import parse_settings
from skippy.presets.reading import read_preset
from skippy.stores.presence import ADAPTER_CONFIG_FILE, require_adapter, require_checkpoint
from skippy.stores.problems import READERS, is_there, read_problems, split_sources
from skippy.words import split_list

BASE = "base"
CHECKPOINTS = "checkpoints"
ALIASES = {alias: f"models:/skippy@{alias}" for alias in ("champion", "previous")}
"""Names of the registered model's aliases → what they stand for."""
ADDRESS = re.compile(r"https?://(\S+@)?(\[[0-9a-f:.]+\]|[\w.\-]+)(:\d{1,5})?(/\S*)?")
RUN_ID = re.compile(r"[0-9a-f]{4,32}")
"""A run id, or the first digits of one."""


def check_files(config: Any) -> None:
    """Look at every parameter of a config that names a file or something shipped.

    Raises:
        SkippyError: one names nothing, or something of the wrong kind.
    """
    for item in fields(config):
        value, kind = getattr(config, item.name), item.metadata["names"]
        is_asked = kind != "problems" or getattr(config, "suite", "") != "banal"
        if kind == "urls":
            require_urls(value, item.name)
        elif kind == "problems" and is_asked:
            check_problems(value, getattr(config, "answers", "auto"))
        elif value and kind and is_asked:
            CHECKS[kind](value)


def require_urls(text: str, where: str) -> None:
    """Every entry is the address of a server, as far as an address alone tells.

    Raises:
        ConfigError: one is none.
    """
    for url in split_list(text, where):
        if not ADDRESS.fullmatch(url):
            raise ConfigError(
                "This is no address of a server.",
                where=where,
                expected="http://HOST:PORT/v1, or the same with https",
                found=repr(url),
                next_step=f"pass {where}=http://127.0.0.1:8000/v1, or where the server is",
            )


def check_base(name: str) -> None:
    """`lab`, a models:/ URI, the id of a hub, or a directory that holds a checkpoint."""
    if name == LAB or name.startswith("models:/"):
        return
    path = find_local(name)
    if path is None:
        require_reachable(name)
    else:
        require_checkpoint(path)


def check_model(name: str) -> None:
    """The base, a variant, an alias, `checkpoints`, a run id, or what a base may be."""
    words = (BASE, CHECKPOINTS, *ALIASES, *VARIANTS)
    if name in words or RUN_ID.fullmatch(name):
        return
    try:
        check_base(name)
    except CheckpointError as error:
        near = nearest(name, words)
        is_place = Path(name).exists() or any(mark in name for mark in "/\\.~")
        if is_place and not near:
            raise
        raise CheckpointError(
            "There is no such model.",
            where="model",
            expected=", ".join(words) + ", a models:/ URI, a merge run id, or an existing directory",
            found=repr(name),
            next_step=f"pass model={near}" if near else "take one of these; skippy models lists the versions",
        ) from error


def check_problems(sources: str, answers: str = "auto") -> None:
    """Every local source is read, with answers of the kind asked for; ids of data sets are left to the stage."""
    for name in [] if sources == LAB else split_sources(sources):
        is_id = HUB_ID.fullmatch(name) and Path(name).suffix.lower() not in READERS
        if is_there(Path(name)) or not is_id:
            read_problems(name, rule=parse_rule(answers))


def check_adapter(text: str) -> None:
    """Each of them `lab`, a directory that PEFT wrote, or the id of a hub."""
    for name in adapter_names(text):
        path = find_local_adapter(name)
        if path is None:
            require_reachable(name, ADAPTER_CONFIG_FILE)
        elif name != LAB:
            require_adapter(path)


def check_preset(name: str) -> None:
    """`auto`, a shipped name, or a YAML file, which is read."""
    if name != AUTO:
        read_preset(name)


CHECKS: Mapping[str, Callable[[str], object]] = {
    "adapter": check_adapter,
    "arms": parse_arms,
    "base": check_base,
    "character": load_character,
    "model": check_model,
    "preset": check_preset,
    "prompts": read_own_prompts,
    "rank": parse_rank,
    "settings": parse_settings,
}
"""What a config field's `names` says of its text → the check."""

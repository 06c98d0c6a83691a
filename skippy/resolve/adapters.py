"""Adapters that people bring: found by path or id, weighted, and what they say of their base."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path

from skippy.errors import ConfigError
from skippy.lab.paths import LAB, LAB_ADAPTER
from skippy.models.hub import adapter_names, fetch_adapter
from skippy.resolve.bases import Base
from skippy.stores.adapter_fit import name_foreign_base
from skippy.stores.adapters import Adapter
from skippy.stores.changes import Change
from skippy.words import split_list


def find_adapters(text: str, weights: str) -> tuple[tuple[Path, float], ...]:
    """Directories and weights of the adapters that `text` names: `lab`, directories or ids, with commas between.

    Raises:
        CheckpointError: an id is not to be had from the hub.
        ConfigError: the weights are no numbers, or not as many.
    """
    folders = [LAB_ADAPTER if name == LAB else fetch_adapter(name) for name in adapter_names(text)]
    return tuple(zip(folders, _read_weights(weights, len(folders)), strict=True))


def foreign_bases(changes: Iterable[Change], base: Base) -> tuple[str, ...]:
    """What adapters say of another base; one whose card proves the base by its digest says nothing."""
    adapters = [change for change in changes if isinstance(change, Adapter)]
    names = (base.name, base.path.name, base.digest, str(base.checkpoint.config.get("_name_or_path") or ""))
    unproven = [adapter for adapter in adapters if not adapter.card.get("base_digest")]
    return tuple(note for adapter in unproven if (note := name_foreign_base(adapter, names)))


def _read_weights(text: str, count: int) -> list[float]:
    try:
        weights = list(split_list(text, "adapter_weights", float, key=None)) or [1.0] * count
    except ValueError:
        weights = []
    if len(weights) != count or not all(map(math.isfinite, weights)):
        raise ConfigError(
            "The weights are not those of the adapters.",
            where="adapter_weights",
            expected=f"{count} numbers, comma-separated, one an adapter",
            found=repr(text),
            next_step="pass as many weights as adapters, or leave them out",
        )
    return weights

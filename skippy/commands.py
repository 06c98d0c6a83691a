"""Command lines as a person types them, built from the parameters in force and quoted for a shell."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping
from dataclasses import fields
from typing import Any

from skippy.config import CONFIGS

HANDED_ON = ("base_model", "character", "k", "registered_model", "device", "threads", "margin")
"""Parameters that mean the same to every stage: the next command repeats them."""


def command(
    stage: str, values: Mapping[str, Any], *, manager: str | None = "local", shown: Iterable[str] = ()
) -> str:
    """The command line of a stage, with every parameter whose value is not the default.

    Args:
        stage: a key of `CONFIGS`.
        values: parameters by name; those that the stage does not have are left out.
        manager: environment manager of `mlflow run`; None: the console script.
        shown: parameters to write down although they have their default.
    """
    given = [
        (
            item.name,
            str(values[item.name]).lower() if isinstance(item.default, bool) else str(values[item.name]),
        )
        for item in fields(CONFIGS[stage])
        if item.name in values and (values[item.name] != item.default or item.name in shown)
    ]
    if manager is None:
        words = [word for name, value in given for word in (f"--{name.replace('_', '-')}", value)]
        return shlex.join(["skippy", stage, *words])
    words = [word for name, value in given for word in ("-P", f"{name}={value}")]
    entry = () if stage == "main" else ("-e", stage)
    return shlex.join(["mlflow", "run", ".", *entry, "--env-manager", manager, *words])


def next_command(stage: str, config: Any, manager: str | None, **changes: Any) -> str:
    """What comes after the stage of `config`, on the same base, character and k, by the same door.

    Args:
        stage: the next one.
        config: parameters in force.
        manager: as for `command`; `StageRun.manager` knows it.
        changes: parameters of the next stage that this one decided.
    """
    handed = {name: getattr(config, name) for name in HANDED_ON if hasattr(config, name)}
    return command(stage, handed | changes, manager=manager, shown=changes)

"""Command lines as a person types them, built from the parameters in force."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from skippy.config import CONFIGS


def command(stage: str, values: Mapping[str, Any]) -> str:
    """The command line of a stage, with every parameter whose value is not the default, quoted for a shell."""
    words = ["mlflow", "run", ".", *(() if stage == "main" else ("-e", stage)), "--env-manager", "local"]
    for item in fields(CONFIGS[stage]):
        value = values.get(item.name, item.default)
        if value != item.default:
            words += ["-P", f"{item.name}={str(value).lower() if isinstance(value, bool) else value}"]
    return shlex.join(words)

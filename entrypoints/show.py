"""One run: what it was given, built on, measured and kept: `skippy show 1f2e3d4c`.

RUN is a run id, its first digits, or the models:/ URI of a version, whose merge is shown.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

from entrypoints.listing import json_option, tell
from skippy.terminal.table import to_json


@click.command("show", help=__doc__)
@click.argument("run")
@json_option
def command(run: str, as_json: bool) -> None:
    """Show it."""

    def look(tracker, listing) -> str:  # type: ignore[no-untyped-def]
        facts = listing.describe_run(tracker, run)
        return to_json(facts) if as_json else _lines(facts)

    tell(look)


def _lines(facts: Mapping[str, Any]) -> str:
    """Every fact that is there, tables and lists indented under their name."""
    lines = []
    for name, value in facts.items():
        if isinstance(value, Mapping):
            lines += [f"{name}:", *(f"  {key}: {each}" for key, each in value.items())] if value else []
        elif isinstance(value, list):
            lines += [f"{name}:", *(f"  {each}" for each in value)] if value else []
        elif value not in ("", None):
            lines.append(f"{name}: {value}")
    return "\n".join(lines)


if __name__ == "__main__":
    command()

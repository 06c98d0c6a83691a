"""What can go, how much it is, and what protects the rest; deletes only with `--yes`.

Looks at registered versions, orphaned weights, workspaces and cached copies. Never goes: what an alias points at, what
a report rests on, what other runs were built on. Runs stay: delete one in MLflow's UI, then run `mlflow gc`.
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import Any

import click

from entrypoints.listing import json_option, store_line, tell
from skippy.terminal.table import to_json, to_size, to_table
from skippy.words import counted


@click.command("gc", help=__doc__)
@click.option("--yes", is_flag=True, help="delete what can go, for good")
@click.option(
    "--days",
    default=7.0,
    show_default=True,
    type=click.FloatRange(min=0),
    help="keep what is younger than so many days",
)
@json_option
def command(yes: bool, days: float, as_json: bool) -> None:
    """List it, or delete it."""
    failures: list[str] = []

    def look(tracker, listing) -> str:  # type: ignore[no-untyped-def]
        items = import_module("skippy.upkeep.garbage").find_garbage(tracker, days=days)
        gone, refused = import_module("skippy.upkeep.findings").carry_out(items) if yes else ([], [])
        failures.extend(f"{item.where}: {error}" for item, error in refused)
        if as_json:
            return to_json([item.facts() | {"is_gone": item in gone} for item in items])
        rows = [
            {
                "kind": item.kind,
                "size": "on the server" if item.nbytes is None else to_size(item.nbytes),
                "state": "gone" if item in gone else "can go" if item.can_go else "kept",
                "what": item.what,
                "where": item.where,
                "kept by": list(item.kept_by),
            }
            for item in items
        ]
        table = [to_table(rows, ("state", "size", "kind", "what", "where", "kept by")), ""] if rows else []
        left = [item for item in items if item.can_go and item not in gone]
        kept = [item for item in items if not item.can_go]
        said = [f"deleted: {_sum(gone)}"] if yes else []
        said += [f"can go: {_sum(left)}" + ("; skippy gc --yes deletes it for good" if left else "")]
        said += [f"kept: {_sum(kept)}" + ("; the last column says why" if kept else "")]
        return "\n".join([store_line(tracker), *table, *said])

    tell(look)
    for text in failures:
        click.echo(f"refused: {text}", err=True)
    if failures:
        sys.exit(1)


def _sum(items: list[Any]) -> str:
    """How many they are, and what they hold of this machine's disk."""
    size = sum(item.nbytes or 0 for item in items)
    return f"{counted(len(items), 'thing')}, {to_size(size)}" if items else "nothing"


if __name__ == "__main__":
    command()

"""What the store could do without, how much it is, and what protects the rest; deletes only with `--yes`.

Never goes: what an alias points at, what a report rests on, what other runs were built on.
"""

from __future__ import annotations

import sys
from importlib import import_module

import click

from entrypoints.listing import json_option, tell
from skippy.terminal.table import to_json, to_size, to_table


@click.command("gc", help=__doc__)
@click.option("--yes", is_flag=True, help="delete what can go, for good")
@click.option(
    "--days",
    default=7.0,
    show_default=True,
    type=click.FloatRange(min=0),
    help="keep what is younger than this",
)
@json_option
def command(yes: bool, days: float, as_json: bool) -> None:
    """List it, or delete it."""
    failures: list[str] = []

    def look(tracker, listing) -> str:  # type: ignore[no-untyped-def]
        garbage = import_module("skippy.upkeep.garbage")
        items = garbage.find_garbage(tracker, days=days)
        gone, refused = garbage.remove(items) if yes else ([], [])
        failures.extend(f"{item.where}: {error}" for item, error in refused)
        if as_json:
            return to_json([item.facts() | {"is_gone": item in gone} for item in items])
        size = sum(item.nbytes or 0 for item in (gone if yes else items) if item.can_go)
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
        table = to_table(rows, ("state", "size", "kind", "what", "where", "kept by")) if rows else ""
        return f"{table}\n{to_size(size)} " + (
            "deleted" if yes else "can go; skippy gc --yes deletes it for good"
        )

    tell(look)
    for text in failures:
        click.echo(f"refused: {text}", err=True)
    if failures:
        sys.exit(1)


if __name__ == "__main__":
    command()

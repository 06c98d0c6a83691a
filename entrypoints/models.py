"""Registered versions, their aliases, figures and verdicts: `skippy models`."""

from __future__ import annotations

import click

from entrypoints.listing import json_option, store_line, tell
from skippy.terminal.table import to_json, to_table


@click.command("models", help=__doc__)
@click.option("--name", default="skippy", show_default=True, help="registered model to look at")
@json_option
def command(name: str, as_json: bool) -> None:
    """List them."""

    def look(tracker, listing) -> str:  # type: ignore[no-untyped-def]
        rows = listing.list_models(tracker, name)
        return to_json(rows) if as_json else f"{store_line(tracker)}\n{to_table(rows, listing.MODEL_COLUMNS)}"

    tell(look)


if __name__ == "__main__":
    command()

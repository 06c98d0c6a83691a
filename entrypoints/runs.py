"""Runs of every stage, newest first: `skippy runs train`."""

from __future__ import annotations

import click

from entrypoints.listing import json_option, tell
from skippy.config import CONFIGS
from skippy.terminal.table import SHORT_ID_DIGITS, to_json, to_table


@click.command("runs", help=__doc__)
@click.argument("stage", default="", type=click.Choice(["", *CONFIGS]))
@click.option("--limit", default=20, show_default=True, type=click.IntRange(min=1), help="how many")
@json_option
def command(stage: str, limit: int, as_json: bool) -> None:
    """List them."""

    def look(tracker, listing) -> str:  # type: ignore[no-untyped-def]
        rows = listing.list_runs(tracker, stage, limit)
        if as_json:
            return to_json(rows)
        if not rows:
            return "no runs yet: make demo, or skippy main"
        return to_table(
            [
                row | {"run": row["run"][:SHORT_ID_DIGITS], "figures": _figures(row["figures"])}
                for row in rows
            ],
            listing.RUN_COLUMNS,
        )

    tell(look)


def _figures(figures: object) -> str:
    if isinstance(figures, dict):
        return ", ".join(f"{name} {value:.3g}" for name, value in figures.items())
    return str(figures)


if __name__ == "__main__":
    command()

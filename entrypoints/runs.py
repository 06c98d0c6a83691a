"""Runs of every stage, or of one, newest first and whatever their status: `skippy runs train`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

from entrypoints.listing import json_option, store_line, tell
from skippy.config import CONFIGS
from skippy.terminal.table import to_json, to_table
from skippy.words import shortened


@click.command("runs", help=__doc__)
@click.argument("stage", default=None, type=click.Choice([*CONFIGS]), metavar="[STAGE]")
@click.option(
    "--limit", default=20, show_default=True, type=click.IntRange(min=1), help="how many of the newest"
)
@json_option
def command(stage: str | None, limit: int, as_json: bool) -> None:
    """List them."""

    def look(tracker, listing) -> str:  # type: ignore[no-untyped-def]
        found = listing.list_runs(tracker, stage or "", limit + 1)
        rows = found[:limit]
        if as_json:
            return to_json(rows)
        if not rows:
            made = f"skippy {stage} makes one" if stage else "make demo, or skippy main"
            return f"{store_line(tracker)}\nno {stage or 'run'}{' run' if stage else ''} yet: {made}"
        shown = [row | {"run": shortened(row["run"]), "figures": _figures(row)} for row in rows]
        more = [f"there are older ones: --limit {2 * limit} shows more"] if found[limit:] else []
        return "\n".join([store_line(tracker), to_table(shown, listing.RUN_COLUMNS), *more])

    tell(look)


def _figures(row: Mapping[str, Any]) -> str:
    if row["as"]:
        return f"as run {shortened(row['as'])}"
    if isinstance(row["figures"], dict):
        return ", ".join(f"{name} {value:.3g}" for name, value in row["figures"].items())
    return str(row["figures"])


if __name__ == "__main__":
    command()

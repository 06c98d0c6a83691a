"""Where the gigabytes are: by model, run, workspace and cache; a file of several names counts once."""

from __future__ import annotations

from importlib import import_module

import click

from entrypoints.listing import json_option, store_line, tell
from skippy.terminal.table import to_json, to_size, to_table

GC = "skippy gc says which of these can go, and what protects the rest"


@click.command("disk", help=__doc__)
@click.option(
    "--limit", default=20, show_default=True, type=click.IntRange(min=1), help="how many of the largest"
)
@json_option
def command(limit: int, as_json: bool) -> None:
    """List them."""

    def look(tracker, listing) -> str:  # type: ignore[no-untyped-def]
        usage = import_module("skippy.upkeep.usage")
        rows = usage.measure(tracker)
        sums = usage.totals(rows)
        if as_json:
            return to_json({"total": sum(sums.values()), "by_kind": sums, "places": rows})
        shown = [row | {"size": to_size(row["nbytes"])} for row in rows[:limit]]
        whole = [
            f"{to_size(nbytes):>10}  {kind}"
            for kind, nbytes in (*sums.items(), ("in all", sum(sums.values())))
        ]
        more = [f"and {len(rows) - limit:,} smaller; --limit {len(rows)} shows all"] if rows[limit:] else []
        table = to_table(shown, ("size", "kind", "what", "where"))
        return "\n".join([store_line(tracker), *whole, "", table, *more, GC])

    tell(look)


if __name__ == "__main__":
    command()

"""Work on a study that another machine runs, until none of its cells is free: `skippy join studies/lab.yaml`."""

from __future__ import annotations

from importlib import import_module

import click

from entrypoints.listing import tell
from skippy.parameters import DEVICES


@click.command("join", help=__doc__)
@click.argument("plan", type=click.Path())
@click.option("--parallel", default=1, show_default=True, type=click.IntRange(1), help="cells at a time")
@click.option(
    "--device",
    default="auto",
    show_default=True,
    type=click.Choice(DEVICES),
    help="where it works; auto: cpu for the lab, else a GPU where there is one",
)
def command(plan: str, parallel: int, device: str) -> None:
    """Take cells."""

    def work(tracker, listing) -> str:  # type: ignore[no-untyped-def]
        import_module("skippy.tracking.signals").watch_parents()
        import_module("skippy.studies.join").join(plan, tracker, parallel, device)
        return f"no cell of {plan} is free"

    tell(work)


if __name__ == "__main__":
    command()

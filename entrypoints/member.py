"""A new account on a team's server, made by its administrator; prints the password, which is kept nowhere."""

from __future__ import annotations

from importlib import import_module

import click

from entrypoints.listing import tell


@click.command("member", help=__doc__)
@click.argument("name")
@click.option("--read-only", is_flag=True, help="may look at everything; neither trains nor promotes")
def command(name: str, read_only: bool) -> None:
    """Make it."""

    def make(tracker, listing) -> str:  # type: ignore[no-untyped-def]
        add_member = import_module("skippy.tracking.members").add_member
        return str(add_member(tracker.store, name, may_write=not read_only))

    tell(make)


if __name__ == "__main__":
    command()

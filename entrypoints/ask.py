"""One question, every arm's answer side by side: `skippy ask "Who are you?" --arms base,v3,v4`."""

from __future__ import annotations

from importlib import import_module

import click

from entrypoints.listing import refusing
from entrypoints.talking import backend_option, base_option, device_option, room_for, url_option


@click.command("ask", help=__doc__)
@click.argument("question")
@click.option("--arms", default="base,v3,v4", show_default=True, help="who is asked, comma-separated")
@click.option("--system", default="", help="system prompt before the question; left out: none")
@click.option(
    "--samples",
    default=1,
    show_default=True,
    type=click.IntRange(1, 64),
    help="answers of each, as an evaluation draws them",
)
@url_option
@base_option
@backend_option
@device_option
def command(
    question: str,
    arms: str,
    system: str,
    samples: int,
    url: str,
    base_model: str,
    backend: str,
    device: str,
) -> None:
    """Ask them."""
    with refusing(is_talk=True):
        wanted = import_module("skippy.serving.served").check_arms(arms)
        terminal = import_module("skippy.terminal.chat")
        if not wanted:
            raise click.UsageError("nobody is asked: name an arm, as in --arms base,v4")
        with room_for(wanted, url, base_model, backend, device) as room:
            terminal.show_side_by_side(room, room.offers(wanted), question, system, samples)


if __name__ == "__main__":
    command()

"""A speech endpoint of our own for `chat` and `serve`, until Ctrl-C: `skippy voice`."""

from __future__ import annotations

import os
from importlib import import_module

import click

from entrypoints.listing import refusing
from entrypoints.talking import KEY_VARIABLE


@click.command("voice", help=__doc__)
@click.option(
    "--host",
    default="127.0.0.1",
    show_default=True,
    help=f"address to listen on; other than loopback needs {KEY_VARIABLE}",
)
@click.option(
    "--port", default=8081, show_default=True, type=click.IntRange(1, 65535), help="port to listen on"
)
@click.option(
    "--engine",
    default="auto",
    show_default=True,
    type=click.Choice(["auto", "piper", "espeak"]),
    help="piper needs the extra `voice`; auto takes it where it is installed",
)
def command(host: str, port: int, engine: str) -> None:
    """Speak until Ctrl-C."""
    with refusing():
        key = os.environ.get(KEY_VARIABLE, "")
        import_module("skippy.serving.router").require_key(host, key)
        voice = import_module("skippy.serving.speech").choose_voice(engine)
        import_module("skippy.serving.speech_server").run_speech(voice, host, port, key)


if __name__ == "__main__":
    command()

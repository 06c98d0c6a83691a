"""Talk to the champion, or to any arm, in the terminal: `skippy chat`."""

from __future__ import annotations

import os
from importlib import import_module
from pathlib import Path

import click

from entrypoints.listing import refusing
from entrypoints.talking import (
    CHAMPION,
    KEY_VARIABLE,
    backend_option,
    base_option,
    device_option,
    room_for,
    url_option,
)


@click.command("chat", help=__doc__)
@click.option(
    "--model",
    default="",
    help=f"base, v3, v4, … or a models:/ URI; left out: what the server has, else {CHAMPION}",
)
@click.option("--system", default="", help="system prompt of the talk; left out: none")
@click.option(
    "--voice-url", default="", help="speech endpoint that says the answers: http://127.0.0.1:8081/v1"
)
@click.option(
    "--voice-folder", default="", help="keep the spoken answers here as WAV instead of playing them"
)
@url_option
@base_option
@backend_option
@device_option
def command(
    model: str,
    system: str,
    voice_url: str,
    voice_folder: str,
    url: str,
    base_model: str,
    backend: str,
    device: str,
) -> None:
    """Find or load a model, then talk."""
    with refusing(is_talk=True):
        terminal = import_module("skippy.terminal.chat")
        conversations = import_module("skippy.serving.conversation")
        speaker = None
        if voice_url:
            folder = Path(voice_folder) if voice_folder else None
            key = os.environ.get(KEY_VARIABLE, "")
            speaker = import_module("skippy.serving.voice").Speaker(voice_url, folder=folder, api_key=key)
        wanted = [model] if model else []
        with room_for(wanted, url, base_model, backend, device) as room:
            first = model or next(iter(room.names), CHAMPION)
            offer = room.offers([first])[0]
            terminal.talk(conversations.Conversation(room, offer, system), speaker)


if __name__ == "__main__":
    command()

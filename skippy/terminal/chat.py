"""A talk in the terminal: lines in, pieces out as they come."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator, Sequence
from contextlib import nullcontext, suppress

from rich.columns import Columns
from rich.console import Console
from rich.panel import Panel

from skippy.core.variants import label_of
from skippy.errors import SkippyError
from skippy.serving.conversation import Conversation, Ended
from skippy.serving.room import Offer, Room
from skippy.serving.voice import Speaker

NARROW = 24
"""Least width of a column of answers; where there is less room they stand below one another."""


def talk(conversation: Conversation, speaker: Speaker | None = None) -> None:
    """Talk until the person ends it."""
    console = Console(highlight=False, soft_wrap=True)
    with suppress(ImportError):
        importlib.import_module("readline")  # history and editing of what is typed
    console.print(f"[bold]{conversation.offer.name}[/] answers. /help lists the commands.", style="dim")
    for line in _lines(console):
        if not line.strip():
            continue
        if line.startswith("/"):
            try:
                console.print(conversation.command(line.strip()), style="dim", markup=False)
            except Ended:
                return
            continue
        console.print(f"[bold cyan]{conversation.offer.name}[/] ", end="")
        try:
            said = conversation.ask(line, lambda piece: console.print(piece, end="", markup=False))
        except SkippyError as error:
            console.print()
            console.print(str(error), style="red", markup=False)
            continue
        console.print()
        where = speaker.say(said) if speaker else None
        if where is not None:
            console.print(f"spoken: {where}", style="dim", markup=False)


def _lines(console: Console) -> Iterator[str]:
    """What the person types, until the end of it; Ctrl-C at the prompt ends the talk too."""
    is_person = sys.stdin.isatty()
    while True:
        try:
            yield input("\001\033[1;32m\002you\001\033[0m\002 ") if is_person else input()
        except (EOFError, KeyboardInterrupt):
            if is_person:
                console.print()
            return


def show_side_by_side(room: Room, offers: Sequence[Offer], question: str, system: str, samples: int) -> None:
    """Every model's answers to one question, in columns where the terminal is wide enough."""
    console = Console(highlight=False)
    width = console.width // len(offers) - 1
    width = width if width >= NARROW else console.width
    for index in range(samples):
        panels = []
        with console.status("asking …") if console.is_terminal else nullcontext():
            for offer in offers:
                messages = [{"role": "system", "content": system}] if system else []
                messages.append({"role": "user", "content": question})
                said = "".join(room.stream(offer, messages, index))
                panels.append(
                    Panel(_plain(said), title=label_of(offer.name), width=width, title_align="left")
                )
        console.print(Columns(panels))


def _plain(text: str) -> str:
    return text.strip().replace("[", "\\[") or "(nothing)"

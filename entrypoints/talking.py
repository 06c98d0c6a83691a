"""What `chat` and `ask` share: a server that runs, or engines of their own."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from typing import Any

import click

from skippy.parameters import DEVICES, ENGINES

HOME = "http://127.0.0.1:8000/v1"
CHAMPION = "models:/skippy@champion"
KEY_VARIABLE = "SKIPPY_API_KEY"

url_option = click.option(
    "--url", default="", help=f"server to ask; left out: {HOME} where one runs, else models are loaded here"
)
base_option = click.option(
    "--base-model", default="lab", show_default=True, help="base checkpoint that base, v3, v4, … are of"
)
backend_option = click.option(
    "--backend",
    default="auto",
    show_default=True,
    type=click.Choice(ENGINES),
    help="engine, where models are loaded here; auto: vllm where it is installed and there is a GPU",
)
device_option = click.option(
    "--device",
    default="auto",
    show_default=True,
    type=click.Choice(DEVICES),
    help="where models are loaded; auto: a GPU where there is one, but for the lab",
)


@contextmanager
def room_for(wanted: Sequence[str], url: str, base_model: str, backend: str, device: str) -> Iterator[Any]:
    """The room where `wanted` can be asked: that of a server if it serves all of them, else our own.

    Args:
        wanted: names as a person gives them; none: whatever a server serves.
        url: of the server; empty: the usual one, if it runs.
        base_model: base of what is loaded here.
        backend: engine of what is loaded here.
        device: where it is loaded.
    """
    rooms = import_module("skippy.serving.room")
    key = os.environ.get(KEY_VARIABLE, "")
    place = (url or HOME).rstrip("/")
    offered = rooms.offers_at(place, key)
    if offered is None and url:
        raise import_module("skippy.errors").BackendError(
            "Nobody answers there.",
            where=place,
            expected="a server",
            found="a closed port",
            next_step="skippy serve starts one; without --url the models are loaded here",
        )
    named, names = ", ".join(wanted) or CHAMPION, [offer.name for offer in offered or ()]
    lacking = [name for name in wanted if name not in names]
    if offered is not None and (url or not lacking):
        click.echo(f"the server at {place} is asked", err=True)
        yield rooms.Room(offered, api_key=key)
        return
    if offered is not None:
        click.echo(
            f"the server at {place} serves {', '.join(names) or 'nothing'}, and not {', '.join(lacking)}; "
            f"skippy serve --arms {','.join(dict.fromkeys([*names, *lacking]))} would keep them loaded",
            err=True,
        )
    click.echo(f"loading {named} here …", err=True)
    tracker = import_module("skippy.tracking.store").open_tracker()
    finder = import_module("skippy.serving.served").Finder(base_model, "auto", "auto", tracker)
    with rooms.own_room(finder, backend, device) as room:
        yield room

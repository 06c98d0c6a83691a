"""What `chat` and `ask` share: a server that runs, or engines of their own; one voice for refusals."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from typing import Any

import click

from skippy.errors import SkippyError
from skippy.stages.runner import logger, speak

HOME = "http://127.0.0.1:8000/v1"
CHAMPION = "models:/skippy@champion"
KEY_VARIABLE = "SKIPPY_API_KEY"

url_option = click.option(
    "--url", default="", help=f"server to ask; left out: {HOME} where one runs, else models are loaded here"
)
base_option = click.option(
    "--base-model", default="lab", show_default=True, help="what base, v3, v4, … are of"
)
backend_option = click.option(
    "--backend",
    default="auto",
    show_default=True,
    type=click.Choice(["auto", "vllm", "transformers"]),
    help="engine, where models are loaded here",
)
device_option = click.option("--device", default="auto", show_default=True, help="where they are loaded")


def refusing(work: Callable[[], None]) -> None:
    """Do the work; a refusal is one message and exit code 1."""
    speak()
    logger.setLevel(logging.WARNING)  # a talk is no place for milestones
    try:
        work()
    except KeyboardInterrupt:
        sys.exit(130)
    except SkippyError as error:
        logger.error("%s", error)
        sys.exit(1)


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
    if offered is not None:
        names = {offer.name for offer in offered}
        if url or names.issuperset(wanted):
            yield rooms.Room(offered, api_key=key)
            return
    click.echo(f"loading {', '.join(wanted) or CHAMPION} …", err=True)
    tracker = import_module("skippy.tracking.store").open_tracker()
    finder = import_module("skippy.serving.served").Finder(base_model, "auto", "auto", tracker)
    with rooms.own_room(finder, backend, device) as room:
        yield room

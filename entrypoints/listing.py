"""Options and output that `runs`, `models` and `show` share."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

import click

from skippy.errors import SkippyError
from skippy.redaction import redact
from skippy.stages.runner import logger, speak, translate, uncollected

json_option = click.option("--json", "as_json", is_flag=True, help="print JSON instead of a table")


@contextmanager
def refusing(*, is_talk: bool = False) -> Iterator[None]:
    """What is refused inside is one message and exit code 1; Ctrl-C ends with 130.

    Args:
        is_talk: leave milestones out, but for the progress of loading.
    """
    speak()
    if is_talk:
        logger.setLevel(logging.WARNING)
        logging.getLogger("skippy.progress").setLevel(logging.INFO)
    try:
        yield
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        ours = error if isinstance(error, SkippyError) else translate(error)
        if ours is None:
            raise
        logger.error("%s", ours)
        sys.exit(1)


def store_line(tracker: Any) -> str:
    """Which store a table is of."""
    return f"store {redact(tracker.store.uri)}"


def tell(look: Callable[[Any, Any], str], before: Callable[[], str] = str) -> None:
    """Print what `look(tracker, listing)` finds; MLflow is imported only here.

    Args:
        look: looks at the opened store.
        before: asked before the store is opened; text instead of nothing is printed, and nothing is opened.
    """
    with refusing():
        if text := before():
            click.echo(text)
            return
        with uncollected():
            tracker = import_module("skippy.tracking.store").open_tracker()
            listing = import_module("skippy.terminal.listing")
        click.echo(look(tracker, listing))

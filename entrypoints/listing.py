"""Options and output that `runs`, `models` and `show` share."""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib import import_module
from typing import Any

import click

from skippy.errors import SkippyError
from skippy.stages.runner import logger, speak, translate, uncollected

json_option = click.option("--json", "as_json", is_flag=True, help="print JSON instead of a table")


def tell(look: Callable[[Any, Any], str], before: Callable[[], str] = str) -> None:
    """Print what `look(tracker, listing)` finds; MLflow is imported only here.

    Args:
        look: looks at the opened store.
        before: asked before the store is opened; text instead of nothing is printed, and nothing is opened.
    """
    speak()
    try:
        if text := before():
            click.echo(text)
            return
        with uncollected():
            tracker = import_module("skippy.tracking.store").open_tracker()
            listing = import_module("skippy.terminal.listing")
        click.echo(look(tracker, listing))
    except Exception as error:
        ours = error if isinstance(error, SkippyError) else translate(error)
        if ours is None:
            raise
        logger.error("%s", ours)
        sys.exit(1)

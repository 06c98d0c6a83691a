"""Progress that a person can watch: bars with time left on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress

logger = logging.getLogger(__name__)
Item = TypeVar("Item")

QUIET_INTERVAL_SECONDS = 10.0
BAR_INTERVAL_SECONDS = 0.1
LINES_VARIABLE = "SKIPPY_PROGRESS_LINES"
"""Set to 1 in processes that share a terminal: lines instead of bars."""


class Progress:
    """One bar: `with Progress("svd", total=28) as bar: bar.advance(1, worst="3e-7")`.

    Work that goes on starts at what is `done` already; the time left follows from the pace since then.

    Fields given to `advance` stand behind the bar until replaced. Without a terminal the same text is
    logged at most every `QUIET_INTERVAL_SECONDS`, so that CI logs stay readable.
    """

    def __init__(self, label: str, total: int, done: int = 0) -> None:
        self.label = label
        self.total = total
        self.done = self._done_before = done
        self._told: int | None = None  # how much was done when it last spoke
        self._fields: dict[str, object] = {}
        self._console = Console(stderr=True)
        self._bar: RichProgress | None = None
        self._started = self._spoke = time.monotonic()

    def __enter__(self) -> Progress:
        """Show the empty bar."""
        if self._console.is_terminal and not os.environ.get(LINES_VARIABLE):
            self._bar = RichProgress(
                TextColumn("[bold]{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.fields[note]}"),
                console=self._console,
            )
            self._bar.start()
            self._task = self._bar.add_task(self.label, total=self.total, completed=self.done, note="")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave the bar as it stands."""
        if self._bar is not None:
            self._bar.stop()
        elif kind is None and self._told != self.done:
            self._speak()

    def advance(self, count: int = 1, **fields: object) -> None:
        """Count `count` items as done and replace the fields shown behind the bar.

        A field may be a function of nothing, which is called when it is shown and not for every item.
        """
        self.done += count
        self._fields.update(fields)
        if self._bar is not None:
            if time.monotonic() - self._spoke > BAR_INTERVAL_SECONDS or self.done == self.total:
                self._bar.update(self._task, completed=self.done, note=self._note())
                self._spoke = time.monotonic()
        elif time.monotonic() - self._spoke > QUIET_INTERVAL_SECONDS:
            self._speak()

    def _note(self) -> str:
        shown = {name: value() if callable(value) else value for name, value in self._fields.items()}
        return "  ".join(f"{name.replace('_', ' ')} {value}" for name, value in shown.items())

    def _speak(self) -> None:
        now = time.monotonic()
        elapsed = now - self._started
        advanced = self.done - self._done_before
        left = f"{elapsed / advanced * (self.total - self.done):.0f}" if advanced else "?"
        logger.info(
            "%s: %d/%d, %.0f s, %s s left  %s", self.label, self.done, self.total, elapsed, left, self._note()
        )
        self._spoke, self._told = now, self.done


def track(items: Iterable[Item], label: str, total: int) -> Iterator[Item]:
    """Yield `items`, advancing a bar after each."""
    with Progress(label, total) as bar:
        for item in items:
            yield item
            bar.advance()

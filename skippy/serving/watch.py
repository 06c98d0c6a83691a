"""What was served from when to when, and whether an alias still means it."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

from skippy.errors import SkippyError
from skippy.serving.served import Finder, Served, followed_alias, public_source
from skippy.tracking.tracker import Tracker
from skippy.words import counted

logger = logging.getLogger(__name__)

WATCH_SECONDS = 5.0


@dataclass
class Period:
    """One model under one name for a while; `until` is empty while it lasts."""

    name: str
    source: str
    variant: str
    digest: str
    since: str
    until: str = ""


@dataclass
class Ledger:
    """Every period of one serve, in the order in which they began."""

    _periods: list[Period] = field(default_factory=list)
    _requests: dict[str, int] = field(default_factory=dict)

    def begin(self, served: Iterable[Served]) -> None:
        """These are served from now on; what was served under their names ends."""
        now = _now()
        for one in served:
            for period in self._periods:
                if period.name == one.name and not period.until:
                    period.until = now
            subject = one.subject
            self._periods.append(
                Period(one.name, public_source(subject), subject.variant, subject.digest, now)
            )

    def end(self, requests: Mapping[str, int]) -> None:
        """Nothing is served any more."""
        self._requests = dict(requests)
        for period in self._periods:
            period.until = period.until or _now()

    def periods(self) -> dict[str, Any]:
        """As plain data, for the run."""
        return {"served": [asdict(period) for period in self._periods], "requests": self._requests}

    def sentence(self, requests: int) -> str:
        """What was served, in a sentence; models that began and ended together are named together."""
        if not self._periods:
            return "nothing was served"
        together: dict[tuple[str, str], list[str]] = {}
        for one in self._periods:
            together.setdefault((one.since, one.until), []).append(f"{one.name} ({one.source})")
        parts = [f"{', '.join(names)} from {since} to {until}" for (since, until), names in together.items()]
        return f"served {', then '.join(parts)}; {counted(requests, 'request')}"


class Watch:
    """Looks now and then what the aliases mean that are served."""

    def __init__(self, finder: Finder, tracker: Tracker, *, is_following: bool) -> None:
        self._finder, self._tracker, self._is_following = finder, tracker, is_following
        self._looked = time.monotonic()
        self._last: dict[str, str] = {}

    def changes(self, serving: Sequence[Served]) -> list[Served]:
        """What is to be served in the place of what is; each move of an alias is told of once."""
        if time.monotonic() - self._looked < WATCH_SECONDS:
            return []
        self._looked = time.monotonic()
        found = []
        for one in serving:
            alias = followed_alias(one.asked)
            if alias:
                found += self._change(one, alias)
        return found

    def _change(self, one: Served, alias: Mapping[str, str]) -> list[Served]:
        try:
            version = self._tracker.registry.alias(**alias)
            meant = version.uri if version else "nothing"
            if meant == self._last.get(one.name, one.subject.uri):
                return []
            self._last[one.name] = meant
            if meant == one.subject.uri:
                return []
            if version is None or not self._is_following:
                logger.warning(
                    "serve: %s means %s now; %s goes on answering with %s. Serve again to follow it, and with "
                    "watch=true it is followed by itself",
                    *(one.asked, meant, one.name, one.subject.uri),
                )
                return []
            logger.info("serve: %s means %s now; it is loaded beside %s", one.asked, meant, one.subject.uri)
            return [self._finder.find(one.asked, one.name)]
        except SkippyError as error:
            fault = str(error)
            if self._last.get(f"{one.name}!") != fault:
                self._last[f"{one.name}!"] = fault
                logger.warning(
                    "serve: %s cannot be followed; %s stays. %s", one.asked, one.subject.uri, fault
                )
            return []


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")

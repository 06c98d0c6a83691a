"""Which engine answers under which name, and how one is put in the place of another without losing a request."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

from skippy.errors import BackendError


class Running(Protocol):
    """What the table needs of an engine."""

    @property
    def url(self) -> str:
        """Its endpoint, up to and including `/v1`."""

    @property
    def is_running(self) -> bool:
        """Whether its process is alive."""

    def stop(self) -> None:
        """End it."""

    def fault(self, how: str) -> BackendError:
        """What to raise when it failed."""


SYSTEM_PROMPT = "system_prompt"
"""The fact of a model that is its base under a prompt: the text that the router puts before every request to it."""


@dataclass
class Upstream:
    """A running engine, and how many requests it is answering."""

    engine: Running
    in_flight: int = 0


@dataclass
class Route:
    """One name that is served."""

    upstream: Upstream  # who answers
    # what the list of models says of it besides its name
    facts: Mapping[str, Any] = field(default_factory=dict)
    requests: int = 0  # answered under this name so far


class Routes:
    """Names and engines; the router reads it, the stage changes it, each from its own thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._routes: dict[str, Route] = {}
        self._upstreams: list[Upstream] = []

    def put(self, engine: Running, served: Mapping[str, Mapping[str, Any]]) -> None:
        """Let `engine` answer under these names from the next request on."""
        upstream = Upstream(engine)
        with self._lock:
            self._upstreams.append(upstream)
            for name, facts in served.items():
                before = self._routes.get(name)
                self._routes[name] = Route(upstream, facts, before.requests if before else 0)

    @contextmanager
    def answering(self, name: str) -> Iterator[Route | None]:
        """The route of a name while one request uses it, so that its engine outlives the request."""
        with self._lock:
            route = self._routes.get(name)
            if route is not None:
                route.upstream.in_flight += 1
                route.requests += 1
        try:
            yield route
        finally:
            if route is not None:
                with self._lock:
                    route.upstream.in_flight -= 1

    def url(self, name: str) -> str:
        """Endpoint of the engine that answers under a name."""
        with self._lock:
            return self._routes[name].upstream.engine.url

    def names(self) -> list[str]:
        """Every name that is served."""
        with self._lock:
            return list(self._routes)

    def facts(self) -> dict[str, Mapping[str, Any]]:
        """Name → what is served under it."""
        with self._lock:
            return {name: route.facts for name, route in self._routes.items()}

    def requests(self) -> dict[str, int]:
        """Name → requests so far."""
        with self._lock:
            return {name: route.requests for name, route in self._routes.items()}

    def retire(self) -> int:
        """Stop the engines that no name uses and no request waits for; how many still finish an answer."""
        with self._lock:
            used = {id(route.upstream) for route in self._routes.values()}
            unused = [one for one in self._upstreams if id(one) not in used]
            idle = [one for one in unused if not one.in_flight]
            self._upstreams = [one for one in self._upstreams if one not in idle]
        for upstream in idle:
            upstream.engine.stop()
        return len(unused) - len(idle)

    def dead(self) -> Running | None:
        """An engine that is needed and no longer runs; None where all is well."""
        with self._lock:
            used = [route.upstream.engine for route in self._routes.values()]
        return next((engine for engine in used if not engine.is_running), None)

    def in_flight(self) -> int:
        """Requests that are being answered."""
        with self._lock:
            return sum(one.in_flight for one in self._upstreams)

    def close(self) -> None:
        """Stop every engine."""
        with self._lock:
            upstreams, self._upstreams, self._routes = self._upstreams, [], {}
        for upstream in upstreams:
            upstream.engine.stop()

"""Who there is to talk to: the models of a running server, or engines of our own for as long as the talk lasts."""

from __future__ import annotations

import json
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import openai

from skippy.core.sampling import Sampling, everyday_hash, seed_of_sample
from skippy.errors import BackendError, ConfigError, nearest
from skippy.models.dialects import Dialect, find_dialect
from skippy.models.prompts import under_system
from skippy.progress import Progress
from skippy.resolve.files import require_urls
from skippy.resolve.threads import choose_threads
from skippy.serving import engines
from skippy.serving.routes import Routes
from skippy.serving.served import Finder

LOOK_SECONDS = 3.0
CONNECT_SECONDS = 10.0
ANSWER_SECONDS = 3600.0
PLAIN_MODE = "plain"
"""Mode of an evaluation's everyday questions that nothing is added to."""


@dataclass(frozen=True)
class Offer:
    """One model that can be asked."""

    name: str  # under which it answers
    url: str  # endpoint, up to and including `/v1`
    # how an evaluation draws its answers; None where the server does not say
    sampling: Sampling | None = None
    source: str = ""  # where it is from; empty where unknown
    system: str = ""  # system text of a model that is its base under one, where no server puts it there


class Room:
    """The models that can be asked here.

    Args:
        offers: those of a server, or none yet.
        load: finds and starts a model by the name a person gives; None at a server, which has what it has.
        loadable: names that `load` knows.
    """

    def __init__(
        self,
        offers: Sequence[Offer],
        load: Callable[[Sequence[str]], list[Offer]] | None = None,
        *,
        api_key: str = "",
        loadable: Sequence[str] = (),
    ) -> None:
        self._loadable = loadable
        self._offers = {offer.name: offer for offer in offers}
        self._load = load
        self._key = api_key or "unused"
        self._dialects: dict[str, Dialect] = {}

    @property
    def names(self) -> list[str]:
        """Every model that is loaded or served."""
        return list(dict.fromkeys(offer.name for offer in self._offers.values()))

    @property
    def choice(self) -> list[str]:
        """Every model that can be asked, loaded or not."""
        return list(dict.fromkeys([*self.names, *self._loadable]))

    def offers(self, names: Sequence[str]) -> list[Offer]:
        """The models of these names; those that are not there are loaded together, where that can be done.

        Raises:
            BackendError: the server does not serve one.
            SkippyError: one cannot be found or started.
        """
        missing = [name for name in names if name not in self._offers]
        if missing and self._load is None:
            near = nearest(missing[0], self.names)
            arms = ",".join(dict.fromkeys([*self.names, *missing]))
            raise BackendError(
                f"The server does not serve {missing[0]!r}.",
                expected=", ".join(self.names),
                found=", ".join(missing),
                next_step=(f"did you mean {near}? Else " if near else "")
                + f"serve it beside the others: skippy serve --arms {arms}",
            )
        if missing and self._load is not None:
            self._offers |= dict(zip(missing, self._load(missing), strict=True))
        return [self._offers[name] for name in names]

    def stream(self, offer: Offer, messages: Sequence[dict[str, str]], index: int = 0) -> Iterator[str]:
        """One answer, piece by piece, drawn as an evaluation draws its sample `index` of this question.

        Raises:
            BackendError: the server refuses, breaks off, or cannot be reached.
        """
        asked: dict[str, Any] = {}
        if offer.sampling is not None:
            if offer.url not in self._dialects:
                self._dialects[offer.url] = find_dialect(offer.url, self._key)
            asked = self._dialects[offer.url].write(offer.sampling)
            question = everyday_hash(PLAIN_MODE, messages[-1]["content"])
            seed = seed_of_sample(question, index, offer.sampling.name)
            asked["seed"] = self._dialects[offer.url].seed(seed)
        timeout = openai.Timeout(ANSWER_SECONDS, connect=CONNECT_SECONDS)
        try:
            with openai.OpenAI(base_url=offer.url, api_key=self._key, timeout=timeout) as client:
                answer: Any = client.chat.completions.create(
                    model=offer.name,
                    messages=under_system(messages, offer.system),  # type: ignore[arg-type]
                    stream=True,
                    extra_body=asked,
                )
                with answer:
                    for chunk in answer:
                        if chunk.choices and chunk.choices[0].delta.content:
                            yield chunk.choices[0].delta.content
        except openai.APIError as error:
            raise BackendError(
                f"{offer.name} gave no whole answer.",
                where=offer.url,
                expected="an answer in pieces",
                found=_said(error),
                next_step="see what the server says; a new conversation is shorter",
            ) from error


def offers_at(url: str, api_key: str = "") -> list[Offer] | None:
    """The models of the server at `url`; None where nobody listens.

    Raises:
        ConfigError: it is no address.
        BackendError: somebody listens who is no server of models, or refuses the key.
    """
    require_urls(url, "url")
    asked = urllib.request.Request(
        f"{url}/models", headers={"Authorization": f"Bearer {api_key or 'unused'}"}
    )
    try:
        with urllib.request.urlopen(asked, timeout=LOOK_SECONDS) as answer:
            listed = json.load(answer)["data"]
        return [_offer(url, entry) for entry in listed]
    except urllib.error.HTTPError as error:
        found, step = f"HTTP {error.code}", "pass another --url, or stop what listens there"
        if error.code in (401, 403):
            step = "export SKIPPY_API_KEY=… as where the server was started"
        raise _no_server(url, found, step) from error
    except (urllib.error.URLError, TimeoutError, ConnectionError):
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        step = "pass another --url, or stop what listens there"
        raise _no_server(url, f"{type(error).__name__}: {error}", step) from error


@contextmanager
def own_room(finder: Finder, backend: str, device: str) -> Iterator[Room]:
    """A room without a server: a model is started when it is first asked for, and all stop at the end."""
    kind = engines.choose_engine(backend)
    choose_threads("chat", SimpleNamespace(threads=0, base_model=finder.base_model))
    routes = Routes()
    with tempfile.TemporaryDirectory(prefix="skippy-") as scratch:

        def load(names: Sequence[str]) -> list[Offer]:
            served = []
            with Progress(f"loading {', '.join(names)}", len(names) + 1) as bar:
                for name in names:
                    served.append(finder.find(name))
                    bar.advance(1, found=served[-1].subject.uri)
                bar.advance(0, starting=kind)
                engines.start(kind, served, routes, Path(scratch), device)
                bar.advance(1)
            return [
                Offer(one.name, routes.url(one.name), one.sampling, one.subject.uri, one.subject.system)
                for one in served
            ]

        try:
            yield Room([], load, loadable=finder.known())
        finally:
            routes.close()


def _offer(url: str, entry: dict[str, Any]) -> Offer:
    given = entry.get("sampling")
    try:
        sampling = Sampling(**given) if given else None
    except (TypeError, ConfigError):
        sampling = None  # of another version
    return Offer(str(entry["id"]), url, sampling, str(entry.get("source", "")))


def _no_server(url: str, found: str, next_step: str) -> BackendError:
    return BackendError(
        "What listens there serves no models to us.",
        where=url,
        expected="a list of models",
        found=found,
        next_step=next_step,
    )


def _said(error: openai.APIError) -> str:
    body = error.body
    said = body.get("message") if isinstance(body, dict) else None
    return f"{type(error).__name__}: {str(said or error).strip()[:300]}"

"""Chat completions of one OpenAI-compatible endpoint, hundreds a second from one core.

The client of OpenAI's library builds and checks an object for every field of every answer, and keeps a tenth of the
connections that vLLM can answer on. A sample needs a dozen fields and a thousand connections, so this one posts JSON
and hands JSON back; `server_answers` reads it.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Mapping
from http import HTTPStatus
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit

import aiohttp

LOCAL_HOSTS = ("127.0.0.1", "localhost", "::1")
CONNECT_SECONDS = 10.0
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.5, 8.0
PASSING = (HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.CONFLICT, HTTPStatus.TOO_MANY_REQUESTS)
"""Refusals that may pass, besides every error of the server's own (500 and above)."""
SHOWN_CHARACTERS = 300


class Refused(Exception):
    """The endpoint answered with an error; `status` is HTTP's."""

    def __init__(self, status: int, said: str) -> None:
        super().__init__(f"HTTP {status}: {said}")
        self.status = status


class Unreachable(Exception):
    """Nobody answered, or not in time; the words say what happened last."""


class ChatClient:
    """Asks one endpoint over connections that are kept; use it as an asynchronous context."""

    def __init__(self, base_url: str, api_key: str, timeout_seconds: float, retries: int) -> None:
        self._url = f"{base_url}/chat/completions"
        self._headers = {"Authorization": f"Bearer {api_key}", "Content-Type": "application/json"}
        self._timeout = aiohttp.ClientTimeout(timeout_seconds, sock_connect=CONNECT_SECONDS)
        self._retries = retries
        # Proxies are looked up for every request, and never meant for this machine.
        self._is_local = urlsplit(base_url).hostname in LOCAL_HOSTS
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> ChatClient:
        """Open it; connections follow with the requests."""
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0),  # the caller bounds what is in flight
            headers=self._headers,
            timeout=self._timeout,
            trust_env=not self._is_local,
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close its connections."""
        assert self._session is not None
        await self._session.close()

    async def ask(self, body: Mapping[str, Any]) -> Any:
        """The answer to one request, as JSON that nobody checked.

        Raises:
            Refused: the endpoint says no, or fails each time.
            Unreachable: it does not answer, or not in time.
            ValueError: what it answers is no JSON.
        """
        content, failure = json.dumps(body).encode(), Exception()
        for attempt in range(self._retries + 1):
            if attempt:
                pause = min(FIRST_PAUSE_SECONDS * 2 ** (attempt - 1), LONGEST_PAUSE_SECONDS)
                await asyncio.sleep(pause * random.uniform(0.75, 1.0))
            try:
                return await self._post(content)
            except Refused as refusal:
                if refusal.status < HTTPStatus.INTERNAL_SERVER_ERROR and refusal.status not in PASSING:
                    raise
                failure = refusal
            except (aiohttp.ClientError, TimeoutError, OSError) as error:
                failure = Unreachable(f"{type(error).__name__}: {str(error) or 'no answer in time'}")
                failure.__cause__ = error
        raise failure

    async def _post(self, content: bytes) -> Any:
        assert self._session is not None
        async with self._session.post(self._url, data=content) as answer:
            raw = await answer.read()
        if answer.status >= HTTPStatus.BAD_REQUEST:
            raise Refused(answer.status, _said(raw))
        try:
            return json.loads(raw)
        except ValueError as error:
            raise ValueError(f"no JSON but {raw[:SHOWN_CHARACTERS].decode(errors='replace')!r}") from error


def _said(raw: bytes) -> str:
    """What an error says, in the protocol's place for it or as it is."""
    text = raw.decode(errors="replace").strip()
    try:
        error = json.loads(text)["error"]
        text = str(error["message"] if isinstance(error, Mapping) else error)
    except (ValueError, KeyError, TypeError):
        pass
    return text[:SHOWN_CHARACTERS]

"""One door in front of the engines: our names, an API key, honest refusals; streams pass through as they come.

The engines listen on loopback alone and know nothing of keys. The router changes no answer.
"""

from __future__ import annotations

import errno
import json
import logging
import secrets
import socket
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import ExitStack, asynccontextmanager
from typing import Any

import httpx2
import psutil
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route as Page
from starlette.types import Receive, Scope, Send

from skippy.errors import BackendError, ConfigError
from skippy.models.engine import LOOPBACK
from skippy.models.prompts import under_system
from skippy.serving.protocol import error_body, event, read_messages, refusal
from skippy.serving.routes import SYSTEM_PROMPT, Routes

logger = logging.getLogger(__name__)

ANSWER_SECONDS = 3600.0
CONNECT_SECONDS = 5.0
DRAIN_SECONDS = 30
READY_SECONDS = 15.0
PASSED_HEADERS = ("content-type", "x-request-id")
SPEECH, CHAT = "audio/speech", "chat/completions"
KEY_VARIABLE = "SKIPPY_API_KEY"


def build_router(routes: Routes, *, api_key: str = "", voice_url: str = "") -> Starlette:
    """The pages: health, list of models, and everything that names a model.

    Args:
        api_key: bearer token that every page but health asks for; empty: none does.
        voice_url: speech endpoint that `/v1/audio/speech` is handed on to, up to `/v1`; empty: there is none.
    """
    timeout = httpx2.Timeout(ANSWER_SECONDS, connect=CONNECT_SECONDS)
    client = httpx2.AsyncClient(timeout=timeout, limits=httpx2.Limits(max_connections=None), trust_env=False)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        yield
        await client.aclose()

    async def health(_: Request) -> Response:
        is_well = routes.dead() is None and bool(routes.names())
        body = {"status": "ok" if is_well else "an engine has died", "models": routes.names()}
        return JSONResponse(body | {"voice": bool(voice_url)}, 200 if is_well else 503)

    async def models(_: Request) -> Response:
        listed = [
            {"id": name, "object": "model", "created": 0, **facts} for name, facts in routes.facts().items()
        ]
        return JSONResponse({"object": "list", "data": listed})

    async def speech(request: Request) -> Response:
        if not voice_url:
            text = (
                "This server has no voice: start it with voice_url=http://127.0.0.1:8081/v1 (skippy voice)."
            )
            return JSONResponse(error_body(text, "not_found_error"), 404)
        return await _pass_on(client, f"{voice_url}/{SPEECH}", await request.body(), ExitStack(), "the voice")

    async def answer(request: Request) -> Response:
        try:
            body = await request.json()
        except ValueError:
            body = None
        if not isinstance(body, dict):
            return JSONResponse(error_body("The body is no JSON object.", "invalid_request_error"), 400)
        names = routes.names()
        name = body.get("model") or (names[0] if len(names) == 1 else "")
        using = ExitStack()
        route = using.enter_context(routes.answering(str(name)))
        if route is None:
            using.close()
            text = f"There is no model {name!r} here. Served: {', '.join(names)}."
            return JSONResponse(error_body(text, "invalid_request_error", "model_not_found"), 404)
        system = str(route.facts.get(SYSTEM_PROMPT, ""))
        try:
            body = _under_prompt(body, system, request.path_params["path"]) | {"model": name}
        except BackendError as error:
            using.close()
            status, content = refusal(error)
            return JSONResponse(content, status)
        url = f"{route.upstream.engine.url}/{request.path_params['path']}"
        return await _pass_on(client, url, json.dumps(body).encode(), using, str(name))

    def guarded(page: Callable[[Request], Awaitable[Response]]) -> Callable[[Request], Awaitable[Response]]:
        async def page_with_key(request: Request) -> Response:
            given = request.headers.get("authorization", "").removeprefix("Bearer ").strip()
            if api_key and not secrets.compare_digest(given.encode(), api_key.encode()):
                text = "The API key is missing or wrong: send it as Authorization: Bearer KEY."
                return JSONResponse(error_body(text, "authentication_error", "invalid_api_key"), 401)
            return await page(request)

        return page_with_key

    pages = [
        Page("/health", health),
        Page("/v1/models", guarded(models)),
        Page(f"/v1/{SPEECH}", guarded(speech), methods=["POST"]),
        Page("/v1/{path:path}", guarded(answer), methods=["POST"]),
    ]
    return Starlette(routes=pages, lifespan=lifespan)


def _under_prompt(body: dict[str, Any], system: str, page: str) -> dict[str, Any]:
    """The request under the system prompt of a model that is its base under one.

    Raises:
        BackendError: it is no conversation that a prompt could stand before.
    """
    if not system:
        return body
    if page != CHAT:
        raise BackendError(
            "This model is its base under a system prompt, which stands before a conversation alone.",
            where=f"/v1/{page}",
            expected=f"a request to /v1/{CHAT}",
            found="text without roles",
            next_step="ask it there, or ask the base",
        )
    return body | {"messages": under_system(read_messages(body.get("messages")), system)}


async def _pass_on(
    client: httpx2.AsyncClient, url: str, content: bytes, using: ExitStack, name: str
) -> Response:
    """Hand a request on and its answer back, piece by piece; `using` is closed when the last piece has gone."""
    asked = client.build_request("POST", url, content=content, headers={"content-type": "application/json"})
    try:
        answer = await client.send(asked, stream=True)
    except httpx2.HTTPError as error:
        using.close()
        logger.warning("serve: %s does not answer: %s", name, type(error).__name__)
        text = f"{name} does not answer ({type(error).__name__}): see the log of the server."
        return JSONResponse(error_body(text, "server_error"), 503)
    except BaseException:
        using.close()
        raise

    headers = {key: answer.headers[key] for key in PASSED_HEADERS if key in answer.headers}
    return _Passing(_pieces(answer, name), answer.status_code, headers, answer=answer, using=using)


async def _pieces(answer: httpx2.Response, name: str) -> AsyncIterator[bytes]:
    try:
        async for piece in answer.aiter_raw():
            yield piece
    except httpx2.HTTPError as error:
        logger.warning("serve: %s broke off: %s", name, type(error).__name__)
        text = f"{name} broke off in the middle of its answer: see the log of the server."
        yield event(error_body(text, "server_error"))


class _Passing(StreamingResponse):
    """An answer on its way through; however it ends, the engine is told and the request is counted as done."""

    def __init__(self, *args: Any, answer: httpx2.Response, using: ExitStack) -> None:
        super().__init__(*args)
        self._answer, self._using = answer, using

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._using.close()
            await self._answer.aclose()


class Door:
    """The router on its port, in a thread of its own: `open`, then `close`, which lets answers finish first."""

    def __init__(self, app: Any, listener: socket.socket) -> None:
        settings = uvicorn.Config(
            app, log_level="warning", timeout_graceful_shutdown=DRAIN_SECONDS, access_log=False
        )
        self._server = uvicorn.Server(settings)
        self._listener = listener
        self._thread = threading.Thread(
            target=self._server.run, args=([listener],), name="router", daemon=True
        )

    def open(self) -> None:
        """Listen.

        Raises:
            BackendError: the server does not come up.
        """
        self._thread.start()
        self._thread.join(0)
        waited = threading.Event()
        for _ in range(int(READY_SECONDS / 0.05)):
            if self._server.started:
                return
            waited.wait(0.05)
        raise BackendError("The router does not come up.", where=str(self._listener.getsockname()))

    def close(self) -> None:
        """Take no more requests, finish those in flight, and end."""
        self._server.should_exit = True
        if self._thread.is_alive():
            self._thread.join(DRAIN_SECONDS + 5)


def claim_port(host: str, port: int) -> socket.socket:
    """A listening socket, so that the port is ours before anything is loaded.

    Raises:
        BackendError: another process listens there; says which, and which port is free.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(128)
    except OSError as error:
        listener.close()
        raise BackendError(
            f"Nothing can listen on port {port}.",
            where=f"{host}:{port}",
            expected="a port that nobody uses, on an address of this machine",
            found=_listening_on(port) or error.strerror or str(error),
            next_step="pass host=127.0.0.1, or another address of this machine"
            if error.errno == errno.EADDRNOTAVAIL
            else f"pass port={_next_free(host, port)}, or stop what listens there",
        ) from error
    return listener


def _listening_on(port: int) -> str:
    """The process that listens on a port, where the system tells."""
    try:
        connections = psutil.net_connections("tcp")
    except (psutil.Error, OSError):
        return ""
    for one in connections:
        if one.laddr and one.laddr.port == port and one.status == psutil.CONN_LISTEN:
            try:
                line = " ".join(psutil.Process(one.pid).cmdline()) if one.pid else ""
            except psutil.Error:
                line = ""
            return f"process {one.pid or 'of another user'} listens there: {line[:120]}".rstrip(": ")
    return ""


def _next_free(host: str, port: int) -> int:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    for candidate in (*range(port + 1, min(port + 50, 65536)), 0):
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, candidate))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    return port + 1


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach what listens there."""
    return host in ("localhost", LOOPBACK, "::1") or host.startswith("127.")


def require_key(host: str, api_key: str) -> None:
    """Refuse to listen where nobody can, or where others reach it without a key.

    Raises:
        ConfigError: the host has no address, or is not loopback and there is no key.
    """
    try:
        socket.getaddrinfo(host, None)
    except (OSError, UnicodeError) as error:
        raise ConfigError(
            "The host has no address.",
            where="host",
            expected="127.0.0.1, or another address of this machine",
            found=f"host={host}: {error}",
            next_step="leave host out, or correct it",
        ) from error
    if not api_key and not is_loopback(host):
        raise ConfigError(
            "Without an API key only this machine may be served.",
            where="host",
            expected=f"127.0.0.1, or the variable {KEY_VARIABLE} with a key that requests must bring",
            found=f"host={host} and no {KEY_VARIABLE}",
            next_step=f"export {KEY_VARIABLE}=$(openssl rand -hex 24), or leave host out",
        )

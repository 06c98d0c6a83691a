"""Our own engine as a program: models of this machine behind the OpenAI chat protocol, on loopback.

`python -m skippy.serving.worker --port 8101 --model v4=DIRECTORY --sampling lab`; the router starts it where vLLM is
not installed. It answers from the evaluation's own backend: a served answer is the sample that an evaluation draws
with the same seed.
"""

from __future__ import annotations

import argparse
import asyncio
import secrets
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from skippy.core.sampling import PRESETS, Sampling
from skippy.errors import SkippyError
from skippy.models.loading import load_model, load_tokenizer
from skippy.models.prompts import prepare_messages, template_arguments
from skippy.serving.protocol import (
    END,
    OWNER,
    Answering,
    ChatRequest,
    error_body,
    event,
    read_request,
    refusal,
)
from skippy.serving.talker import Piece, Talker, Ticket

LOOPBACK = "127.0.0.1"
DRAIN_SECONDS = 20


@dataclass(frozen=True)
class Voice:
    """One model that talks: itself, its tokenizer, and how it is sampled where a request does not say."""

    talker: Talker
    tokenizer: Any
    sampling: Sampling


def load_voice(path: Path, preset: str, device: str) -> Voice:
    """A model that talks; names of the same weights share them."""
    return Voice(*_load_talker(path, device), PRESETS[preset])


@cache
def _load_talker(path: Path, device: str) -> tuple[Talker, Any]:
    """A model in memory, and its tokenizer."""
    tokenizer = load_tokenizer(path)
    return Talker(load_model(path, device=device), tokenizer), tokenizer


def build_app(voices: Mapping[str, Voice]) -> Starlette:
    """The engine's pages: health, list of models, chat."""

    async def health(_: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def models(_: Request) -> Response:
        listed = [{"id": name, "object": "model", "created": 0, "owned_by": OWNER} for name in voices]
        return JSONResponse({"object": "list", "data": listed})

    async def chat(request: Request) -> Response:
        try:
            body = await request.json()
        except ValueError:
            return JSONResponse(error_body("The body is no JSON.", "invalid_request_error"), 400)
        name = body.get("model") if isinstance(body, dict) else None
        voice = voices.get(str(name))
        if voice is None:
            return JSONResponse(error_body(f"There is no model {name!r}.", "not_found_error"), 404)
        try:
            asked = read_request(body, voice.sampling, template_arguments(voice.tokenizer))
            return await _answer(request, asked, voice)
        except SkippyError as error:
            status, content = refusal(error)
            return JSONResponse(content, status)

    routes = [
        Route("/health", health),
        Route("/v1/models", models),
        Route("/v1/chat/completions", chat, methods=["POST"]),
    ]
    return Starlette(routes=routes)


async def _answer(request: Request, asked: ChatRequest, voice: Voice) -> Response:
    messages = prepare_messages(voice.tokenizer, asked.messages)
    sampling = asked.sampling
    if not asked.has_length:
        room = voice.talker.room_after(messages)
        sampling = replace(sampling, max_tokens=max(1, min(sampling.max_tokens, room)))
    pieces: asyncio.Queue[Piece] = asyncio.Queue()
    loop = asyncio.get_running_loop()

    def put(piece: Piece) -> None:
        with suppress(RuntimeError):  # the loop is closed: the server is going down
            loop.call_soon_threadsafe(pieces.put_nowait, piece)

    ticket = voice.talker.ask(messages, sampling, asked.seed, put)
    answering = Answering(f"chatcmpl-{secrets.token_hex(12)}", asked.model, ticket.prompt_tokens)
    if asked.is_streaming:
        events = _stream(pieces, ticket, answering, wants_usage=asked.wants_usage)
        return StreamingResponse(events, media_type="text/event-stream")
    return await _whole(request, pieces, ticket, answering)


async def _stream(
    pieces: asyncio.Queue[Piece], ticket: Ticket, answering: Answering, *, wants_usage: bool
) -> AsyncIterator[bytes]:
    """The answer as events; a client that goes away cancels it."""
    try:
        yield answering.chunk("", is_first=True)
        while True:
            piece = await pieces.get()
            if piece.finish_reason == "error":
                yield event(error_body("The model failed; see the log of the server.", "server_error"))
                return
            if piece.text or piece.finish_reason:
                yield answering.chunk(piece.text, piece.finish_reason)
            if piece.finish_reason:
                if wants_usage:
                    yield answering.usage_chunk(piece.tokens)
                yield END
                return
    finally:
        ticket.cancel()


async def _whole(
    request: Request, pieces: asyncio.Queue[Piece], ticket: Ticket, answering: Answering
) -> Response:
    texts: list[str] = []
    gone = asyncio.ensure_future(_until_gone(request))
    try:
        while True:
            waiting = asyncio.ensure_future(pieces.get())
            await asyncio.wait({waiting, gone}, return_when=asyncio.FIRST_COMPLETED)
            if not waiting.done():
                waiting.cancel()
                return Response(status_code=499)
            piece = waiting.result()
            texts.append(piece.text)
            if piece.finish_reason == "error":
                return JSONResponse(error_body("The model failed.", "server_error"), 500)
            if piece.finish_reason:
                return JSONResponse(answering.completion("".join(texts), piece.tokens, piece.finish_reason))
    finally:
        gone.cancel()
        ticket.cancel()


async def _until_gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def main() -> None:
    """Load, then listen until told to stop; answers in the making are finished first."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--model", action="append", required=True, help="NAME=DIRECTORY, once a model")
    parser.add_argument("--sampling", action="append", required=True, help="preset, once a model")
    parser.add_argument("--device", default="cpu")
    given = parser.parse_args()
    named = [text.partition("=")[::2] for text in given.model]
    voices = {
        name: load_voice(Path(path), preset, given.device)
        for (name, path), preset in zip(named, given.sampling, strict=True)
    }
    app = build_app(voices)
    uvicorn.run(
        app, host=LOOPBACK, port=given.port, log_level="warning", timeout_graceful_shutdown=DRAIN_SECONDS
    )


if __name__ == "__main__":
    main()

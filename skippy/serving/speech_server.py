"""A speech endpoint of our own: `POST /v1/audio/speech` as OpenAI's, on this machine."""

from __future__ import annotations

import logging
import secrets
import subprocess
from collections.abc import Mapping

import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from skippy.serving.protocol import error_body
from skippy.serving.router import claim_port
from skippy.serving.speech import HEADER_BYTES, MOST_CHARACTERS, Voice

logger = logging.getLogger(__name__)

FORMATS = {"wav": "audio/wav", "pcm": "audio/pcm"}
SLOWEST, FASTEST = 0.25, 4.0


def build_speech(voice: Voice, api_key: str = "") -> Starlette:
    """The pages: health and speech."""

    async def health(_: Request) -> Response:
        return JSONResponse({"status": "ok", "voice": voice.name})

    async def speech(request: Request) -> Response:
        given = request.headers.get("authorization", "").removeprefix("Bearer ").strip()
        if api_key and not secrets.compare_digest(given.encode(), api_key.encode()):
            return JSONResponse(error_body("The API key is missing or wrong.", "authentication_error"), 401)
        try:
            body = await request.json()
        except ValueError:
            body = None
        fault = _fault(body)
        if fault:
            return JSONResponse(error_body(fault, "invalid_request_error"), 400)
        try:
            sound = await run_in_threadpool(voice.speak, body["input"], float(body.get("speed") or 1.0))
        except (OSError, subprocess.SubprocessError) as error:
            logger.warning("voice: %s failed: %s", voice.name, error)
            return JSONResponse(error_body(f"{voice.name} failed: {error}", "server_error"), 500)
        kind = body.get("response_format") or "wav"
        return Response(sound[HEADER_BYTES:] if kind == "pcm" else sound, media_type=FORMATS[kind])

    return Starlette(routes=[Route("/health", health), Route("/v1/audio/speech", speech, methods=["POST"])])


def _fault(body: object) -> str:
    """What is wrong with a request; empty where nothing is."""
    if not isinstance(body, Mapping) or not isinstance(body.get("input"), str) or not body["input"].strip():
        return "input: the text to speak is missing."
    if len(body["input"]) > MOST_CHARACTERS:
        return f"input: at most {MOST_CHARACTERS} characters, found {len(body['input'])}."
    kind = body.get("response_format") or "wav"
    if kind not in FORMATS:
        return f"response_format: {' or '.join(FORMATS)}, found {kind!r}."
    speed = body.get("speed") or 1.0
    if isinstance(speed, bool) or not isinstance(speed, int | float) or not SLOWEST <= speed <= FASTEST:
        return f"speed: a number from {SLOWEST} to {FASTEST}, found {speed!r}."
    return ""


def run_speech(voice: Voice, host: str, port: int, api_key: str = "") -> None:
    """Speak for others until Ctrl-C.

    Raises:
        BackendError: the port is taken.
    """
    listener = claim_port(host, port)
    logger.warning(
        "voice: %s speaks at http://%s:%d/v1; in another terminal: skippy chat --voice-url http://%s:%d/v1",
        *(voice.name, host, port, host, port),
    )
    settings = uvicorn.Config(build_speech(voice, api_key), log_level="warning", access_log=False)
    uvicorn.Server(settings).run([listener])

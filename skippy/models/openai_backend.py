"""Generation by any server that speaks the OpenAI chat protocol: vLLM, SGLang, `transformers serve`.

Servers differ in what they understand beyond the protocol, and most ignore what they do not. A parameter that
is silently dropped makes another experiment, so each dialect lists what it honours, and anything else is
refused before the first request. Seeds are passed on; only vLLM promises to use them sample by sample.
"""

from __future__ import annotations

import asyncio
import json
import queue
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import openai
from openai.types.chat import ChatCompletion

from skippy.errors import BackendError
from skippy.models.generation import Completion, Request
from skippy.models.sampling import Sampling

CONNECT_SECONDS = 10.0
PROBE_SECONDS = 5.0
FINISH_REASONS = ("stop", "length")


@dataclass(frozen=True)
class Dialect:
    """What one kind of server honours, and how a `Sampling` is written for it."""

    name: str
    honours: Callable[[Sampling], bool]
    write: Callable[[Sampling], dict[str, Any]]


def _write_plain(sampling: Sampling) -> dict[str, Any]:
    return {
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "presence_penalty": sampling.presence_penalty,
        "max_tokens": sampling.max_tokens,
    }


def _write_extended(sampling: Sampling) -> dict[str, Any]:
    # Left out, top_k would be the one of the model's generation_config.json; −1 is all tokens.
    return {**_write_plain(sampling), "extra_body": {"top_k": sampling.top_k or -1}}


def _write_generation_config(sampling: Sampling) -> dict[str, Any]:
    # The only door of `transformers serve` to do_sample and top_k.
    config: dict[str, Any] = {"do_sample": sampling.temperature > 0, "max_new_tokens": sampling.max_tokens}
    if sampling.temperature > 0:
        config |= {"temperature": sampling.temperature, "top_p": sampling.top_p, "top_k": sampling.top_k}
    return {"max_tokens": sampling.max_tokens, "extra_body": {"generation_config": json.dumps(config)}}


PLAIN = Dialect("plain OpenAI protocol", lambda sampling: sampling.top_k == 0, _write_plain)
EXTENDED = Dialect("vLLM or SGLang", lambda sampling: True, _write_extended)
TRANSFORMERS = Dialect(
    "transformers serve", lambda sampling: sampling.presence_penalty == 0, _write_generation_config
)
OWNERS = {"vllm": EXTENDED, "sglang": EXTENDED}


class OpenAIBackend:
    """Generation by a server.

    Args:
        base_url: the endpoint, up to and including `/v1`.
        model: name of the model there.
        concurrency: requests in flight at once.
        timeout_seconds: longest wait for one completion.
        retries: further attempts after a failure that may pass (connection, overload, server error).
        api_key: sent as bearer token.
    """

    def __init__(
        self,
        base_url: str,
        model: str,
        concurrency: int = 32,
        *,
        timeout_seconds: float = 3600.0,
        retries: int = 3,
        api_key: str = "unused",
    ) -> None:
        self._base_url = base_url.rstrip("/")
        self._model = model
        self._concurrency = concurrency
        self._timeout = openai.Timeout(timeout_seconds, connect=CONNECT_SECONDS)
        self._retries = retries
        self._api_key = api_key

    def supports(self, sampling: Sampling) -> bool:
        """Whether the server's dialect honours every parameter; asks the server which it speaks.

        Raises:
            BackendError: nobody answers.
        """
        return self.dialect.honours(sampling)

    @cached_property
    def dialect(self) -> Dialect:
        """What the server at the endpoint understands, found by asking it."""
        models = self._get_json(f"{self._base_url}/models")
        owners = {str(entry.get("owned_by", "")).lower() for entry in models.get("data", [])}
        for owner in owners & set(OWNERS):
            return OWNERS[owner]
        paths = self._get_json(f"{self._base_url.removesuffix('/v1')}/openapi.json").get("paths", {})
        return TRANSFORMERS if "/load_model" in paths else PLAIN

    def generate(self, requests: Iterable[Request], sampling: Sampling) -> Iterator[Completion]:
        """Yield completions as the server finishes them.

        Raises:
            BackendError: the server is down, lacks the model, refuses, or answers without what is needed.
        """
        waiting = list(requests)
        if not waiting:
            return
        parameters = self.dialect.write(sampling)
        results: queue.Queue[Completion | BaseException] = queue.Queue()
        run = _Run(self._ask_all(waiting, parameters, results.put), results.put)
        try:
            for _ in waiting:
                result = results.get()
                if isinstance(result, BaseException):
                    raise result
                yield result
        finally:
            run.stop()

    async def _ask_all(
        self, requests: list[Request], parameters: dict[str, Any], put: Callable[[Completion], None]
    ) -> None:
        source = iter(requests)
        async with openai.AsyncOpenAI(
            base_url=self._base_url, api_key=self._api_key, timeout=self._timeout, max_retries=self._retries
        ) as client:

            async def work() -> None:
                for request in source:  # shared: each worker takes the next one
                    put(await self._ask(client, request, parameters))

            async with asyncio.TaskGroup() as group:
                for _ in range(min(self._concurrency, len(requests))):
                    group.create_task(work())

    async def _ask(
        self, client: openai.AsyncOpenAI, request: Request, parameters: dict[str, Any]
    ) -> Completion:
        messages: Any = [dict(message) for message in request.messages]
        seed = request.seed & 0x7FFF_FFFF  # servers reject more than 32 bits, some of them a sign
        try:
            answer = await client.chat.completions.create(
                model=self._model, messages=messages, seed=seed, **parameters
            )
        except openai.NotFoundError as error:
            raise self._error(
                "The server does not serve this model.", self._model, error, "pass the name it serves"
            ) from error
        except openai.APIConnectionError as error:  # a timeout is one of them
            raise self._error(
                "The server cannot be reached, or does not answer in time.",
                f"an answer within {self._timeout.read:g} s, {self._retries + 1} attempts",
                error,
                "start the server, or check the endpoint",
            ) from error
        except openai.APIError as error:
            raise self._error(
                "The server refused a request.", "a completion", error, "see the log of the server"
            ) from error
        return self._read(request, answer)

    def _read(self, request: Request, answer: ChatCompletion) -> Completion:
        choice = answer.choices[0] if answer.choices else None
        if choice is None or choice.finish_reason not in FINISH_REASONS or answer.usage is None:
            found = "no choice" if choice is None else f"finish_reason {choice.finish_reason!r}"
            raise BackendError(
                "The server's answer lacks what a sample needs.",
                where=f"request {request.id} at {self._base_url}",
                expected="a choice finished by stop or length, and the number of tokens in usage",
                found=f"{found}, usage {'missing' if answer.usage is None else 'given'}",
                next_step="see the log of the server",
            )
        return Completion(
            id=request.id,
            text=_text(choice.message),
            tokens=answer.usage.completion_tokens,
            finish_reason="stop" if choice.finish_reason == "stop" else "length",
        )

    def _get_json(self, url: str) -> dict[str, Any]:
        """What a page of the server says; nothing where it has no such page, or the page is broken."""
        asked = urllib.request.Request(url, headers={"Authorization": f"Bearer {self._api_key}"})
        try:
            with urllib.request.urlopen(asked, timeout=PROBE_SECONDS) as answer:
                return dict(json.load(answer))
        except urllib.error.HTTPError:
            return {}  # `transformers serve` fails on its list of models where there is no cache
        except (urllib.error.URLError, OSError, ValueError) as error:
            raise self._error(
                "The server cannot be reached, or is no OpenAI-compatible one.",
                f"JSON at {url}",
                error,
                "start the server, or check the endpoint",
            ) from error

    def _error(self, what: str, expected: str, error: Exception, next_step: str) -> BackendError:
        found = f"{type(error).__name__}: {str(error).strip()[:300]}"
        return BackendError(what, where=self._base_url, expected=expected, found=found, next_step=next_step)


class _Run:
    """One asynchronous run in a thread of its own, so that the caller can be an ordinary generator."""

    def __init__(self, work: Any, report: Callable[[BaseException], None]) -> None:
        self._loop = asyncio.new_event_loop()
        self._task = self._loop.create_task(work)
        self._report = report
        self._thread = threading.Thread(target=self._main, name="openai-backend", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Cancel what is still in flight, and wait for the thread."""
        self._loop.call_soon_threadsafe(self._task.cancel)
        self._thread.join()
        self._loop.close()

    def _main(self) -> None:
        try:
            self._loop.run_until_complete(self._task)
        except asyncio.CancelledError:
            pass
        except BaseExceptionGroup as group:
            self._report(group.exceptions[0])
        except Exception as error:
            self._report(error)
        finally:
            # Keeps the loop alive for `stop`, which may come long after the work is done.
            self._loop.run_until_complete(self._loop.shutdown_asyncgens())


def _text(message: Any) -> str:
    """The answer; where the server parsed the thinking out of it, with the thinking put back."""
    content = message.content or ""
    thinking = getattr(message, "reasoning_content", None) or getattr(message, "reasoning", None)
    if not thinking:
        return content
    return f"<think>{thinking}</think>{content}" if content else f"<think>{thinking}"

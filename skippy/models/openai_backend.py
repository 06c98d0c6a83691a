"""Generation by any server that speaks the OpenAI chat protocol: vLLM, SGLang, `transformers serve`.

Seeds are passed on; only vLLM promises to use them sample by sample.

One request that the server will not answer, for its length or its words, is a sample without text and no reason
to lose the others. A server that answers none of its first batch is asked wrongly, and that stops everything.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import queue
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import cached_property
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from skippy.core.sampling import Sampling
from skippy.core.surrogates import join_surrogates
from skippy.errors import BackendError
from skippy.models.chat_client import ChatClient, Refused, Unreachable
from skippy.models.dialects import Dialect, find_dialect
from skippy.models.generation import Completion, Request
from skippy.models.prompts import opened_thought, prepare_messages, render_prompt, template_arguments
from skippy.models.server_answers import CALLS, CONTENT_FILTER, FINISH_REASONS, Unreadable, read_answer
from skippy.words import split_list

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Refusal:
    """A request that the server answers with 400, and how it says so."""

    id: str
    error: BackendError


class OpenAIBackend:
    """Generation by a server.

    Args:
        base_url: the endpoint, up to and including `/v1`; or several, comma-separated, that serve the same models.
            Which one answers follows from the request's id alone.
        tokenizer: of the served model: its chat template says whether there is a system role, how thinking is
            switched off, and whether answers begin inside a thought, which the server does not hand back.
        retries: further attempts after a failure that may pass (connection, overload, server error).
        names: what a request calls a model → its name there, where they differ.
    """

    def __init__(
        self,
        base_url: str,
        model: str,
        concurrency: int = 32,
        tokenizer: PreTrainedTokenizerBase | None = None,
        *,
        timeout_seconds: float = 3600.0,
        retries: int = 3,
        api_key: str = "unused",
        names: Mapping[str, str] | None = None,
    ) -> None:
        self._base_url = base_url
        self._endpoints = endpoints(base_url)
        self._names = names or {}
        self._model = model
        self._concurrency = concurrency
        self._tokenizer = tokenizer
        self._has_answered = False
        self._timeout_seconds = timeout_seconds
        self._retries = retries
        self._api_key = api_key
        self._prepared: dict[tuple[tuple[str, str], ...], tuple[list[dict[str, str]], str]] = {}

    def supports(self, sampling: Sampling) -> bool:
        """Whether the server's dialect honours every parameter; asks the server which it speaks.

        Raises:
            BackendError: nobody answers.
        """
        return not self.dialect.lacking(sampling)

    @cached_property
    def dialect(self) -> Dialect:
        """What the servers at the endpoints understand, found by asking each.

        Raises:
            BackendError: nobody answers at one, or they are of several kinds.
        """
        found = {url: find_dialect(url, self._api_key) for url in self._endpoints}
        if len(set(found.values())) > 1:
            raise BackendError(
                "The servers are of several kinds: samples would depend on which of them answered.",
                where=self._base_url,
                expected="one kind of server at all endpoints",
                found=", ".join(f"{dialect.name} at {url}" for url, dialect in found.items()),
                next_step="name endpoints that run the same server",
            )
        return found[self._endpoints[0]]

    def generate(self, requests: Iterable[Request], sampling: Sampling) -> Iterator[Completion]:
        """Yield completions as the server finishes them; a single refusal is a completion without text.

        Raises:
            BackendError: the server is down, lacks the model, refuses its whole first batch, or answers without
                what is needed.
        """
        waiting = list(requests)
        if not waiting:
            return
        parameters = self._parameters(sampling)
        results: queue.Queue[Completion | _Refusal | BaseException] = queue.Queue()
        refusals: list[_Refusal] = []  # before the first answer
        run = _Run(self._ask_all(waiting, parameters, results.put), results.put)
        try:
            for _ in waiting:
                result = results.get()
                if isinstance(result, BaseException):
                    raise result
                if isinstance(result, _Refusal):
                    refusals.append(result)
                    if not self._has_answered and len(refusals) == min(self._concurrency, len(waiting)):
                        raise result.error
                else:
                    self._has_answered = True
                    yield result
                if self._has_answered:
                    yield from map(_without_text, refusals)
                    refusals.clear()
        finally:
            run.stop()

    def _parameters(self, sampling: Sampling) -> dict[str, Any]:
        """What every request carries besides its messages: sampling, and thinking off where there is a switch."""
        parameters = self.dialect.write(sampling)
        arguments = template_arguments(self._tokenizer) if self._tokenizer else {}
        if arguments and not self.dialect.takes_template_arguments:
            raise BackendError(
                "The server cannot be told to leave thinking out.",
                where=f"{self._base_url} ({self.dialect.name})",
                expected="a server that hands chat_template_kwargs to the chat template: vLLM or SGLang",
                found=f"a chat template with the switch {', '.join(arguments)}",
                next_step="serve the model with one of these, or leave backend out",
            )
        if arguments:
            parameters["chat_template_kwargs"] = arguments
        return parameters

    async def _ask_all(
        self,
        requests: list[Request],
        parameters: dict[str, Any],
        put: Callable[[Completion | _Refusal], None],
    ) -> None:
        async with AsyncExitStack() as clients, asyncio.TaskGroup() as group:

            async def work(client: ChatClient, source: Iterator[Request]) -> None:
                for request in source:  # shared: each worker takes the next one
                    put(await self._ask(client, request, parameters))

            for place, url in enumerate(self._endpoints):
                share = [each for each in requests if shard_of(each.id, len(self._endpoints)) == place]
                client = await clients.enter_async_context(
                    ChatClient(url, self._api_key, self._timeout_seconds, self._retries)
                )
                source = iter(share)
                for _ in range(min(self._concurrency, len(share))):
                    group.create_task(work(client, source))

    async def _ask(
        self, client: ChatClient, request: Request, parameters: dict[str, Any]
    ) -> Completion | _Refusal:
        messages, opened = self._prepare(request)
        name = self._names.get(request.model, request.model) or self._model
        seed = self.dialect.seed(request.seed)
        try:
            answer = await client.ask({"model": name, "messages": messages, "seed": seed, **parameters})
        except Refused as error:
            if error.status == HTTPStatus.NOT_FOUND:
                raise self._error(
                    "The server does not serve this model.", name, error, "pass the name it serves"
                ) from error
            if error.status != HTTPStatus.BAD_REQUEST:
                raise self._error(
                    "The server refused a request.", "a completion", error, "see the log of the server"
                ) from error
            return _Refusal(
                request.id,
                self._error(
                    "The server refuses what it is asked.",
                    "a completion of at least one of the first requests",
                    error,
                    "see the log of the server: most often its context is shorter than prompt and max_tokens",
                ),
            )
        except Unreachable as error:
            raise self._error(
                "The server cannot be reached, or does not answer in time.",
                f"an answer within {self._timeout_seconds:g} s, {self._retries + 1} attempts",
                error,
                "start the server, or check the endpoint",
            ) from error
        except ValueError as error:  # a page that is no JSON
            raise self._unreadable(request, f"{type(error).__name__}: {error}") from error
        return self._read(request, answer, opened)

    def _prepare(self, request: Request) -> tuple[list[dict[str, str]], str]:
        """The messages as they are sent, and the tag with which the template opens a thought; once a question."""
        key = tuple((message["role"], message["content"]) for message in request.messages)
        found = self._prepared.get(key)
        if found is None:
            messages = [
                {**message, "content": join_surrogates(message["content"])} for message in request.messages
            ]
            opened = ""
            if self._tokenizer is not None:
                messages = prepare_messages(self._tokenizer, messages)
                opened = opened_thought(render_prompt(self._tokenizer, messages))
            found = self._prepared[key] = messages, opened
        return found

    def _read(self, request: Request, body: object, opened: str) -> Completion | _Refusal:
        try:
            answer = read_answer(body)
        except Unreadable as error:
            raise self._unreadable(request, str(error)) from error
        if answer.finish_reason == CONTENT_FILTER:
            return Completion(request.id, "", answer.tokens, "content_filter")
        if answer.finish_reason in CALLS:
            return _Refusal(request.id, self._unreadable(request, f"finish_reason {answer.finish_reason!r}"))
        text, reason = answer.text(opened), FINISH_REASONS[answer.finish_reason]
        return Completion(request.id, text, answer.tokens, reason)

    def _unreadable(self, request: Request, found: str) -> BackendError:
        return BackendError(
            "The server's answer lacks what a sample needs.",
            where=f"request {request.id} at {self._base_url}",
            expected="a choice finished by stop or length, and the number of tokens in usage",
            found=found,
            next_step="see the log of the server, then run the same command again: finished samples are kept",
        )

    def _error(self, what: str, expected: str, error: Exception, next_step: str) -> BackendError:
        return BackendError(
            what, where=self._base_url, expected=expected, found=str(error)[:300], next_step=next_step
        )


def endpoints(base_url: str) -> tuple[str, ...]:
    """The endpoints of a comma-separated list, in its order."""
    return split_list(base_url, "base_url", lambda url: url.rstrip("/"))


def shard_of(key: str, count: int) -> int:
    """Which of `count` endpoints answers a request: by its id, whatever else is asked and in what order."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") % count


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


def _without_text(refusal: _Refusal) -> Completion:
    logger.warning("request %s is refused and has no answer: %s", refusal.id, refusal.error.found)
    return Completion(refusal.id, "", 0, "refused")

"""The OpenAI chat protocol as far as our own engine speaks it: a request read, an answer written.

What a request asks for and the engine does not do is refused by name. Servers that ignore it give the answer to
another question: `transformers serve` drops log-probabilities and the presence penalty without a word.
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from skippy.core.sampling import Sampling
from skippy.core.surrogates import join_surrogates
from skippy.errors import BackendError, ConfigError, SkippyError

MESSAGE_ROLES = ("system", "user", "assistant")
HARMLESS = {"user", "metadata", "store", "stream_options", "safety_identifier", "service_tier", "verbosity"}
"""Fields that change no answer."""
NEUTRAL: Mapping[str, tuple[object, ...]] = {
    "frequency_penalty": (0,),
    "repetition_penalty": (1,),
    "n": (1,),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "min_p": (0,),
    "tools": ([],),
    "stop": ([],),
    "logit_bias": ({},),
    "response_format": ({"type": "text"},),
}
"""Fields that are not served, and the values that ask for nothing."""
READ = {"model", "messages", "stream", "seed", "chat_template_kwargs", "max_tokens", "max_completion_tokens"}
SAMPLING_FIELDS = ("temperature", "top_p", "top_k", "presence_penalty")
STATUS_BAD_REQUEST = 400
OWNER = "skippy"
"""What the list of models says of our own engine; an evaluation knows it by this name."""
SEED_BITS = 48


@dataclass(frozen=True)
class ChatRequest:
    """What is asked."""

    model: str  # name of the model; empty where the request has none
    messages: tuple[Mapping[str, str], ...]  # the conversation, each with role and text
    sampling: Sampling  # how the answer is drawn
    has_length: bool  # whether the request sets the length itself
    seed: int  # of the answer; drawn where the request has none
    is_streaming: bool  # whether the answer comes in pieces
    wants_usage: bool  # whether the pieces end with the count of tokens


def read_request(body: object, default: Sampling, template_arguments: Mapping[str, object]) -> ChatRequest:
    """Read a request.

    Args:
        default: sampling of what the request leaves out.
        template_arguments: what the chat template is given here; a request may say the same.

    Raises:
        BackendError: it is no chat request, or asks for what is not served.
        ConfigError: a sampling parameter means nothing.
    """
    if not isinstance(body, Mapping):
        raise _refuse(
            "The request is no JSON object.", "body", "a chat completion request", type(body).__name__
        )
    for name, value in body.items():
        _require_served(name, value, template_arguments)
    messages = read_messages(body.get("messages"))
    given = {name: body[name] for name in SAMPLING_FIELDS if body.get(name) is not None}
    if given.get("top_k") == -1:
        given["top_k"] = 0
    length = body.get("max_completion_tokens") or body.get("max_tokens")
    for name, value in (*given.items(), ("max_tokens", length), ("seed", body.get("seed"))):
        if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
            raise _refuse(f"{name} is no number.", name, "a number", repr(value))
    sampling = replace(default, **given, max_tokens=int(length) if length else default.max_tokens)
    seed = body.get("seed")
    return ChatRequest(
        str(body.get("model") or ""),
        messages,
        sampling,
        has_length=bool(length),
        seed=secrets.randbits(SEED_BITS) if seed is None else int(seed),
        is_streaming=bool(body.get("stream")),
        wants_usage=bool((body.get("stream_options") or {}).get("include_usage")),
    )


def _require_served(name: str, value: object, template_arguments: Mapping[str, object]) -> None:
    if (
        name in SAMPLING_FIELDS
        or name in READ - {"chat_template_kwargs"}
        or name in HARMLESS
        or value is None
    ):
        return
    if name == "chat_template_kwargs":
        known = {**template_arguments, "enable_thinking": False}
        if isinstance(value, Mapping) and all(known.get(key, key) == given for key, given in value.items()):
            return
        expected = "thinking off, which is how the model is evaluated"
    elif name in NEUTRAL:
        if value in NEUTRAL[name]:
            return
        expected = f"no {name}: this engine does not do it, and ignoring it would answer another question"
    else:
        expected = "fields of a chat completion request"
    raise _refuse(f"{name} is not served here.", name, expected, json.dumps(value)[:80])


def read_messages(messages: object) -> tuple[dict[str, str], ...]:
    """The conversation of a request, each message with a role and its text.

    Raises:
        BackendError: it is none.
    """
    if not isinstance(messages, Sequence) or isinstance(messages, str) or not messages:
        raise _refuse(
            "The request has no messages.", "messages", "a list with a user's message", repr(messages)
        )
    return tuple(_read_message(index, message) for index, message in enumerate(messages))


def _read_message(index: int, message: object) -> dict[str, str]:
    where = f"messages[{index}]"
    role = message.get("role") if isinstance(message, Mapping) else None
    if role == "developer":
        role = "system"
    if not isinstance(message, Mapping) or role not in MESSAGE_ROLES:
        raise _refuse("A message has no known role.", where, " or ".join(MESSAGE_ROLES), str(role))
    content = message.get("content")
    if isinstance(content, Sequence) and not isinstance(content, str):
        kinds = {
            str(part.get("type")) if isinstance(part, Mapping) else type(part).__name__ for part in content
        }
        if kinds != {"text"}:
            raise _refuse(
                "A message is not text alone.", where, "parts of type text", ", ".join(sorted(kinds))
            )
        content = "".join(str(part.get("text", "")) for part in content)
    if not isinstance(content, str):
        raise _refuse("A message has no text.", where, "content", type(content).__name__)
    return {"role": str(role), "content": join_surrogates(content)}


def _refuse(what: str, where: str, expected: str, found: str) -> BackendError:
    return BackendError(what, where=where, expected=expected, found=found)


def error_body(message: str, kind: str, code: str = "") -> dict[str, Any]:
    """An error as clients of the protocol read it."""
    return {"error": {"message": message, "type": kind, "param": None, "code": code or None}}


def refusal(error: SkippyError) -> tuple[int, dict[str, Any]]:
    """Status and body of a refused request."""
    code = "invalid_value" if isinstance(error, ConfigError) else "unsupported"
    return STATUS_BAD_REQUEST, error_body(str(error), "invalid_request_error", code)


class Answering:
    """Writes one answer, whole or in chunks."""

    def __init__(self, identity: str, model: str, prompt_tokens: int) -> None:
        self._head = {"id": identity, "created": int(time.time()), "model": model}
        self._prompt_tokens = prompt_tokens

    def completion(self, text: str, tokens: int, finish_reason: str) -> dict[str, Any]:
        """The whole answer."""
        message = {"role": "assistant", "content": text, "refusal": None}
        choice = {"index": 0, "message": message, "finish_reason": finish_reason, "logprobs": None}
        return {
            **self._head, "object": "chat.completion", "choices": [choice], "usage": self._usage(tokens)
        }  # fmt: skip

    def chunk(self, text: str, finish_reason: str = "", *, is_first: bool = False) -> bytes:
        """One piece, as an event of a stream."""
        delta = {**({"role": "assistant"} if is_first else {}), "content": text}
        choice = {"index": 0, "delta": delta, "finish_reason": finish_reason or None}
        return event({**self._head, "object": "chat.completion.chunk", "choices": [choice]})

    def usage_chunk(self, tokens: int) -> bytes:
        """The count of tokens, as the last event before the end."""
        body = {**self._head, "object": "chat.completion.chunk", "choices": []}
        return event(body | {"usage": self._usage(tokens)})

    def _usage(self, tokens: int) -> dict[str, int]:
        return {
            "prompt_tokens": self._prompt_tokens,
            "completion_tokens": tokens,
            "total_tokens": self._prompt_tokens + tokens,
        }


END = b"data: [DONE]\n\n"


def event(body: Mapping[str, Any]) -> bytes:
    """One server-sent event."""
    return b"data: " + json.dumps(body).encode() + b"\n\n"

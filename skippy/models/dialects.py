"""What each kind of OpenAI-compatible server honours beyond the protocol, and how a `Sampling` is written for it.

Most servers ignore what they do not understand. A parameter that is silently dropped makes another experiment, so
each dialect lists what it honours, and anything else is refused before the first request.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from skippy.core.sampling import Sampling


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

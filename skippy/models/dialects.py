"""What each kind of OpenAI-compatible server honours beyond the protocol, and how a `Sampling` is written for it.

Most servers ignore what they do not understand. A parameter that is silently dropped makes another experiment, so
each dialect lists what it honours, and anything else is refused before the first request.
"""

from __future__ import annotations

import http.client
import json
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from skippy.core.sampling import Sampling
from skippy.errors import BackendError

PROBE_SECONDS = 5.0


@dataclass(frozen=True)
class Dialect:
    """What one kind of server honours, and how a `Sampling` is written for it."""

    name: str
    write: Callable[[Sampling], dict[str, Any]]
    ignores: tuple[str, ...] = ()
    takes_template_arguments: bool = False
    seed_bits: int = 31

    def lacking(self, sampling: Sampling) -> tuple[str, ...]:
        """The parameters of `sampling` that such a server would drop in silence."""
        return tuple(name for name in self.ignores if getattr(sampling, name, 0))

    def seed(self, seed: int) -> int:
        """A seed as the server takes it: most reject more than 32 bits, some of them a sign."""
        return seed & ((1 << self.seed_bits) - 1)


def _write_plain(sampling: Sampling) -> dict[str, Any]:
    return {
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "presence_penalty": sampling.presence_penalty,
        "max_tokens": sampling.max_tokens,
    }


def _write_extended(sampling: Sampling) -> dict[str, Any]:
    # Left out, top_k would be the one of the model's generation_config.json; −1 is all tokens.
    return {**_write_plain(sampling), "top_k": sampling.top_k or -1}


def _write_generation_config(sampling: Sampling) -> dict[str, Any]:
    # The only door of `transformers serve` to do_sample and top_k.
    config: dict[str, Any] = {"do_sample": sampling.temperature > 0, "max_new_tokens": sampling.max_tokens}
    if sampling.temperature > 0:
        config |= {"temperature": sampling.temperature, "top_p": sampling.top_p, "top_k": sampling.top_k}
    return {"max_tokens": sampling.max_tokens, "generation_config": json.dumps(config)}


PLAIN = Dialect("plain OpenAI protocol", _write_plain, ("top_k",))
EXTENDED = Dialect("SGLang", _write_extended, takes_template_arguments=True)
# Whole seeds: with the plugin of `vllm_noise` they give the very sample of an evaluation in process.
VLLM = replace(EXTENDED, name="vLLM", seed_bits=48)
# Also turns frequency_penalty into a repetition penalty; release 5.23.
TRANSFORMERS = Dialect(
    "transformers serve",
    _write_generation_config,
    ("logprobs", "presence_penalty"),
    takes_template_arguments=True,
)
# Answers with the evaluation's own backend, so that a whole seed gives the very sample of an evaluation in process.
OWN = Dialect("skippy serve", _write_extended, ("logprobs",), takes_template_arguments=True, seed_bits=48)
OWNERS = {"vllm": VLLM, "sglang": EXTENDED, "skippy": OWN}


def find_dialect(base_url: str, api_key: str) -> Dialect:
    """What the server at an endpoint understands, found by asking it.

    Raises:
        BackendError: nobody answers.
    """
    models = _get_json(f"{base_url}/models", base_url, api_key)
    owners = {str(entry.get("owned_by", "")).lower() for entry in models.get("data", [])}
    for owner in owners & set(OWNERS):
        return OWNERS[owner]
    paths = _get_json(f"{base_url.removesuffix('/v1')}/openapi.json", base_url, api_key).get("paths", {})
    return TRANSFORMERS if "/load_model" in paths else PLAIN


def list_models(base_url: str, api_key: str) -> dict[str, int]:
    """The models that the server at an endpoint says it has: name → positions of its context, 0 where not said.

    Raises:
        BackendError: nobody answers.
    """
    models = _get_json(f"{base_url}/models", base_url, api_key)
    return {
        str(entry.get("id", "")): int(entry.get("max_model_len") or 0) for entry in models.get("data", [])
    }


def _get_json(url: str, base_url: str, api_key: str) -> dict[str, Any]:
    """What a page of the server says; nothing where it has no such page, or the page is broken."""
    asked = urllib.request.Request(url, headers={"Authorization": f"Bearer {api_key}"})
    try:
        with urllib.request.urlopen(asked, timeout=PROBE_SECONDS) as answer:
            return dict(json.load(answer))
    except urllib.error.HTTPError:
        return {}  # `transformers serve` fails on its list of models where there is no cache
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise BackendError(
            "The server cannot be reached, or is no OpenAI-compatible one.",
            where=base_url,
            expected=f"JSON at {url}",
            found=f"{type(error).__name__}: {str(error).strip()[:300]}",
            next_step="start the server, or check the endpoint",
        ) from error

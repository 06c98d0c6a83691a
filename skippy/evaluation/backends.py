"""Opens what answers in an evaluation, and refuses before anything is loaded what could not answer as asked."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from skippy.core.sampling import Sampling
from skippy.errors import BackendError
from skippy.evaluation.generator import SERVER, VLLM, Generator
from skippy.models.dialects import Dialect
from skippy.models.effect import expect
from skippy.models.generation import Backend
from skippy.models.loading import load_model, load_tokenizer
from skippy.models.openai_backend import OpenAIBackend
from skippy.models.transformers_backend import TransformersBackend
from skippy.models.vllm_backend import VllmBackend
from skippy.models.vllm_server import BASE_NAME, Serving, require_room, require_vllm
from skippy.resolve.threads import count_cores
from skippy.stores.biases import require_read_by
from skippy.stores.checkpoints import Checkpoint
from skippy.stores.servable import require_servable

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

DEFAULT_URL = "http://127.0.0.1:8000/v1"
IN_FLIGHT = 32
"""Requests at once at a server that is not ours, unless said otherwise."""
MOST_DOORS, CORES_A_DOOR = 4, 2
"""Processes of a vLLM of our own that take requests, where the machine has cores for them and the engine."""
NO_ADAPTERS: Mapping[str, Path] = MappingProxyType({})


def open_backend(
    generator: Generator, weights: Path, sampling: Sampling, adapters: Mapping[str, Path] = NO_ADAPTERS
) -> Backend:
    """The backend, ready to answer with `weights`, and with adapters on them where vLLM is asked; close it.

    Raises:
        BackendError: it cannot honour `sampling`, or the server cannot be used.
        AdapterError: a server would not apply an adapter as it is.
    """
    tokenizer = load_tokenizer(weights)
    backend: Backend
    if generator.backend == VLLM:
        backend = _open_vllm(generator, weights, tokenizer, adapters)
    elif generator.backend == SERVER:
        name = generator.served_model or str(weights)
        url, concurrency = generator.base_url or DEFAULT_URL, generator.concurrency or IN_FLIGHT
        backend = OpenAIBackend(url, name, concurrency, tokenizer)
    else:
        backend = TransformersBackend(load_model(weights, device=generator.device), tokenizer)
    if not backend.supports(sampling):
        raise BackendError(
            "The backend cannot honour this sampling preset.",
            where=f"backend {generator.backend}",
            expected=f"preset {sampling.name}: {sampling}",
            found=_lacking(backend, sampling),
            next_step="choose another backend or another -P sampling=…",
        )
    return backend


def _lacking(backend: Backend, sampling: Sampling) -> str:
    """What keeps a backend from a sampling, by name."""
    dialect = getattr(backend, "dialect", None)
    if not isinstance(dialect, Dialect):
        return "a backend without one of these"
    return f"{dialect.name}, which ignores {', '.join(dialect.lacking(sampling))}"


def close_backend(backend: Backend) -> None:
    """Stop what a backend started; most start nothing."""
    if isinstance(backend, VllmBackend):
        backend.close()


def _open_vllm(
    generator: Generator, weights: Path, tokenizer: PreTrainedTokenizerBase, adapters: Mapping[str, Path]
) -> VllmBackend:
    """Everything that can be refused is refused before a server is started."""
    checkpoint = Checkpoint.open(weights)
    require_read_by(VLLM, weights, checkpoint.tensors)
    if not generator.base_url:
        require_vllm()
    shapes = checkpoint.shapes
    ranks = [int(require_servable(path, shapes).config["r"]) for path in adapters.values()]
    serving = Serving(
        weights,
        dict(adapters),
        max(ranks, default=0),
        generator.gpus,
        options=generator.engine_options,
        noise=generator.noise,
        doors=max(1, min(MOST_DOORS, count_cores() // CORES_A_DOOR)),
    )
    if not generator.base_url:
        require_room(serving)
    expected = expect(weights, adapters, BASE_NAME, generator.device)
    names = {BASE_NAME: generator.served_model} if generator.served_model else {}
    return VllmBackend(
        serving,
        tokenizer,
        expected,
        generator.logs / f"vllm-{os.getpid()}.log",
        concurrency=generator.concurrency,
        base_url=generator.base_url,
        names=names,
    )

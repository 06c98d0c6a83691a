"""Who answers in an evaluation: a model in this process, or a server."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from skippy.core.sampling import Sampling
from skippy.errors import BackendError
from skippy.models.generation import Backend, TransformersBackend
from skippy.models.loading import load_model, load_tokenizer
from skippy.models.openai_backend import OpenAIBackend

LOCAL, SERVER = "transformers", "openai"


@dataclass(frozen=True)
class Generator:
    """A way to generate, chosen before anything is asked.

    Attributes:
        backend: `transformers`, in this process, or `openai`, at a server.
        device: where the model lives in this process.
        base_url: endpoint of the server.
        served_model: name of the model there; empty: the path of the weights.
        concurrency: requests in flight at once there.
    """

    backend: str = LOCAL
    device: str = "cpu"
    base_url: str = ""
    served_model: str = ""
    concurrency: int = 32


HERE = Generator()
"""A model in this process, on the CPU."""


def open_backend(generator: Generator, weights: Path, sampling: Sampling) -> Backend:
    """The backend, ready to answer with `weights`.

    Raises:
        BackendError: it cannot honour `sampling`, or the server cannot be used.
    """
    tokenizer = load_tokenizer(weights)
    backend: Backend
    if generator.backend == SERVER:
        name = generator.served_model or str(weights)
        backend = OpenAIBackend(generator.base_url, name, generator.concurrency, tokenizer)
    else:
        backend = TransformersBackend(load_model(weights, device=generator.device), tokenizer)
    if not backend.supports(sampling):
        raise BackendError(
            "The backend cannot honour this sampling preset.",
            where=f"backend {generator.backend}",
            expected=f"preset {sampling.name}: {sampling}",
            found="a backend without one of these",
            next_step="choose another backend or another -P sampling=…",
        )
    return backend

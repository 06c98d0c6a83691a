"""Who answers in an evaluation: a model in this process, a server of our own, or one that is there. As data: what
answers is opened in `backends`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

LOCAL, SERVER, VLLM = "transformers", "openai", "vllm"


@dataclass(frozen=True)
class Generator:
    """A way to generate, chosen before anything is asked.

    Attributes:
        backend: `transformers`, in this process; `vllm`, proven to answer with the weights it was given; or `openai`,
            at any server.
        device: where the model lives in this process; with vLLM, where its log-probabilities are expected from.
        base_url: endpoints of the server, comma-separated; empty: vLLM is started here, or the usual one is asked.
        served_model: name of the model there; empty: the path of the weights, or `base` at vLLM.
        concurrency: requests in flight at once at each endpoint; 0: what suits the server.
        gpus: that a vLLM of our own may use.
        engine_options: further ones of `vllm serve`.
        logs: directory for the log of a server of our own.
    """

    backend: str = LOCAL
    device: str = "cpu"
    base_url: str = ""
    served_model: str = ""
    concurrency: int = 0
    gpus: int = 1
    engine_options: str = ""
    logs: Path = Path("engine")


HERE = Generator()
"""A model in this process, on the CPU."""

"""Who answers in an evaluation: a model in this process, a server of our own, or one that is there. As data: what
answers is opened in `backends`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

LOCAL, SERVER, VLLM = "transformers", "openai", "vllm"


@dataclass(frozen=True)
class Generator:
    """A way to generate, chosen before anything is asked."""

    # `transformers`, in this process; `vllm`, proven to answer with the weights it was given; or `openai`, at any
    # server
    backend: str = LOCAL
    # where the model lives in this process; with vLLM, where its log-probabilities are expected from
    device: str = "cpu"
    # endpoints of the server, comma-separated; empty: vLLM is started here, or the usual one is asked
    base_url: str = ""
    served_model: str = ""  # name of the model there; empty: the path of the weights, or `base` at vLLM
    concurrency: int = 0  # requests in flight at once at each endpoint; 0: what suits the server
    gpus: int = 1  # that a vLLM of our own may use
    engine_options: str = ""  # further ones of `vllm serve`
    logs: Path = Path("engine")  # directory for the log of a server of our own
    noise: str = ""  # that draws its tokens; empty: as it does by itself

    @property
    def name(self) -> str:
        """What the record says of it: samples of two names are not compared."""
        return f"{self.backend} {self.noise}".strip()

    @property
    def identity(self) -> tuple[str, ...]:
        """What decides an answer besides what is asked.

        Nobody proves what a server of others holds: at another address it is another model. One of ours is proven.
        """
        address = self.base_url if self.backend == SERVER else ""
        return (self.name, self.served_model, address, self.engine_options)


HERE = Generator()
"""A model in this process, on the CPU."""

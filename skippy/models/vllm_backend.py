"""Generation by vLLM: a server of our own for the time of one evaluation, or servers that are there.

What is asked goes through `OpenAIBackend`. This adds what a server of our own needs: it is proven to answer with the
weights it was given, started once more if it dies, and stopped whatever happens.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from skippy.core.sampling import Sampling
from skippy.errors import BackendError
from skippy.models.effect import Effect, ask, fixed_prompts, require_in_effect
from skippy.models.engine import Engine
from skippy.models.generation import Completion, Request
from skippy.models.openai_backend import OpenAIBackend, endpoints
from skippy.models.vllm_server import BASE_NAME, Serving, require_noise, require_served, start_vllm
from skippy.words import counted

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

IN_FLIGHT = 1000
"""Requests at once: above what vLLM puts into a batch, so that it is never short of work."""
DYING_SECONDS = 15.0
"""From the first refused answer of a server whose engine died to its own end."""


class VllmBackend:
    """Generation by vLLM.

    A request names the model that answers it; one that names none is answered by the base.

    Args:
        expected: what transformers says of the fixed prompts, by model name: base and adapters.
        base_url: endpoints that are there, comma-separated; empty starts one.
        names: our name → the one at those endpoints, where they differ.
    """

    def __init__(
        self,
        serving: Serving,
        tokenizer: PreTrainedTokenizerBase,
        expected: Mapping[str, Tensor],
        log: Path,
        *,
        concurrency: int = 0,
        base_url: str = "",
        names: Mapping[str, str] | None = None,
    ) -> None:
        self._serving = serving
        self._tokenizer = tokenizer
        self._expected = expected
        self._log = log
        self._concurrency = concurrency or IN_FLIGHT
        self._given_url = base_url
        self._names = dict(names or {})
        self._engine: Engine | None = None
        self.effects: dict[str, Effect] = {}

    def supports(self, sampling: Sampling) -> bool:
        """Whether the endpoints honour every parameter; a server of our own does, and is not started to say so."""
        return not self._given_url or self._through(self._given_url).supports(sampling)

    def generate(self, requests: Iterable[Request], sampling: Sampling) -> Iterator[Completion]:
        """Yield completions as they finish; a server of our own that dies is started once more.

        Raises:
            BackendError: a server is not what it should be, cannot be started, or died twice.
        """
        waiting = {request.id: request for request in requests}
        has_died = False
        while waiting:
            url = self._open(sampling.max_tokens)
            try:
                for completion in self._through(url).generate(waiting.values(), sampling):
                    del waiting[completion.id]
                    yield completion
            except BackendError as error:
                if self._engine is None or not self._is_dead(self._engine):
                    raise
                fault = self._engine.fault("died while it was asked")
                self.close()
                if has_died:
                    raise BackendError(
                        "The server died twice, and is not started again.",
                        where=fault.where,
                        expected="a server that lives through the evaluation",
                        found=f"{fault.what} {fault.found}",
                        next_step=f"{fault.next_step}; finished samples are kept, and the same command goes on "
                        "after them",
                    ) from error
                has_died = True
                logger.warning(
                    "the server died with %s still to make; it is started once more. %s",
                    *(counted(len(waiting), "sample"), fault),
                )

    def close(self) -> None:
        """Stop the server, if it is our own."""
        engine, self._engine = self._engine, None
        if engine is not None:
            engine.stop()

    def _open(self, max_tokens: int) -> str:
        """The endpoints, proven; a server of our own is started where none runs."""
        if self._given_url:
            if not self.effects:
                for url in endpoints(self._given_url):
                    self._prove(url, max_tokens)
            return self._given_url
        if self._engine is None:
            self._engine = start_vllm(self._serving, self._log)
            try:
                self._engine.wait_healthy()
                require_noise(self._serving.noise, self._engine)
                self._prove(self._engine.url, max_tokens)
            except BaseException:
                self.close()
                raise
        return self._engine.url

    def _prove(self, url: str, max_tokens: int) -> None:
        """Check that a server has every model, and answers with its weights.

        Raises:
            BackendError: it has not, or does not.
        """
        served = {name: self._names.get(name, name) for name in self._expected}
        require_served(url, tuple(served.values()), max_tokens)
        prompts = fixed_prompts(self._tokenizer)
        found = {name: ask(url, there, prompts) for name, there in served.items()}
        self.effects = require_in_effect(found, self._expected, BASE_NAME, url)
        for name, effect in self.effects.items():
            size = f", {effect.share:.2f} of its effect of {effect.size:.3g}" if name != BASE_NAME else ""
            logger.info("%s is in effect: %.4f nats a token from transformers%s", name, effect.error, size)

    def _through(self, url: str) -> OpenAIBackend:
        # What fails on a server of our own, on loopback, has died: waiting for it would only take longer.
        retries = 3 if self._given_url else 1
        name = self._names.get(BASE_NAME, BASE_NAME)
        return OpenAIBackend(
            url, name, self._concurrency, self._tokenizer, names=self._names, retries=retries
        )

    @staticmethod
    def _is_dead(engine: Engine) -> bool:
        """Whether a server that failed us is at its end; one whose engine died says so a moment before it goes."""
        ends = time.monotonic() + DYING_SECONDS
        while engine.is_running and not engine.is_healthy() and time.monotonic() < ends:
            time.sleep(0.2)
        return not (engine.is_running and engine.is_healthy())

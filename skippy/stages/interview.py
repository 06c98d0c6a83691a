"""What is asked of a model, and the asking: every sample appended as it finishes, none generated twice.

Not a stage: `evaluate` asks one model, `checkpoints` every checkpoint of a training.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

from skippy.characters.schema import Character
from skippy.config import EvalConfig
from skippy.errors import BackendError
from skippy.models.generation import Backend, TransformersBackend
from skippy.models.loading import load_model, load_tokenizer
from skippy.models.openai_backend import OpenAIBackend
from skippy.models.sampling import PRESETS, Sampling
from skippy.progress import Progress
from skippy.stages.evidence import standard_error
from skippy.stages.inputs import Base, Subject, pick_device
from skippy.stages.suites import AIME, BANAL, Question, grade, requests_for
from skippy.stores.problems import ProblemSet
from skippy.stores.samples import Sample, SampleStore, read_samples

logger = logging.getLogger(__name__)

BANAL_MAX_TOKENS = 256


@dataclass(frozen=True)
class Plan:
    """Everything that decides what is asked of whom."""

    subject: Subject
    character: Character
    problems: ProblemSet | None
    questions: Sequence[Question]
    sampling: Sampling
    samples: int


def choose_sampling(config: EvalConfig, base: Base) -> Sampling:
    """The preset asked for; auto is the lab's on the lab, else Qwen's own for instruct models."""
    auto = "lab" if base.is_lab else "qwen3vl-instruct"
    return PRESETS[auto if config.sampling == "auto" else config.sampling]


def generate(plan: Plan, config: EvalConfig, path: Path) -> list[Sample]:
    """Every sample of the plan: those already in the file, and the rest as they finish."""
    hashes = {question.hash for question in plan.questions}
    with closing(SampleStore(path)) as store:
        finished = store.finished()
        wanted = requests_for(plan.questions, plan.samples, plan.sampling, plan.subject.digest, finished)
        if finished:
            logger.info("eval: going on after %d finished samples", len(finished))
        if wanted:
            backend = _open_backend(config, plan.subject.path)
            _require_support(backend, plan.sampling, config.backend)
            fill(store, wanted, plan, plan.subject.digest, backend)
    samples = [s for s in read_samples(path) if s.problem_hash in hashes and s.sample_index < plan.samples]
    return sorted(samples, key=lambda sample: (sample.suite, sample.problem_id, sample.sample_index))


def fill(store: SampleStore, wanted: Mapping, plan: Plan, digest: str, backend: Backend) -> None:
    """Generate suite by suite, append each sample the moment it is finished, and show how it goes."""
    started, tokens, truncated = time.monotonic(), 0, 0
    scores: list[float] = []
    with Progress(f"eval {plan.subject.label}", len(wanted)) as bar:
        for suite in (AIME, BANAL):
            requests = [request for question, request in wanted.values() if question.suite == suite]
            sampling = _limited(plan.sampling, suite)
            for completion in backend.generate(requests, sampling):
                question, request = wanted[completion.id]
                sample = grade(
                    question, completion, plan.sampling, digest, request.seed, plan.character.rules
                )
                store.append(sample)
                tokens += completion.tokens
                truncated += completion.finish_reason == "length"
                if suite == AIME:
                    scores.append(sample.score or 0.0)
                bar.advance(
                    1,
                    accuracy=f"{_mean(scores):.2f} ± {1.96 * standard_error(scores):.2f}" if scores else "–",
                    tokens_per_second=f"{tokens / (time.monotonic() - started):.0f}",
                    truncated=truncated,
                )


def _limited(sampling: Sampling, suite: str) -> Sampling:
    """Everyday answers are short: what has not ended by then is rambling, and counts as truncated."""
    return (
        replace(sampling, max_tokens=min(sampling.max_tokens, BANAL_MAX_TOKENS))
        if suite == BANAL
        else sampling
    )


def _open_backend(config: EvalConfig, weights: Path) -> Backend:
    if config.backend == "openai":
        return OpenAIBackend(config.base_url, config.served_model or str(weights))
    model = load_model(weights, device=str(pick_device(config.device)))
    return TransformersBackend(model, load_tokenizer(weights))


def _require_support(backend: Backend, sampling: Sampling, name: str) -> None:
    if not backend.supports(sampling):
        raise BackendError(
            "The backend cannot honour this sampling preset.",
            where=f"backend {name}",
            expected=f"preset {sampling.name}: {sampling}",
            found="a backend without one of these",
            next_step="choose another backend or another -P sampling=…",
        )


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else math.nan

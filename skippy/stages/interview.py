"""What is asked of a model, and the asking: every sample appended as it finishes, none generated twice.

Not a stage: `evaluate` asks one model, `checkpoints` every checkpoint of a training.
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from statistics import fmean

from skippy.characters.schema import Character
from skippy.config import EvalConfig
from skippy.errors import BackendError
from skippy.models.generation import Backend, Request, TransformersBackend
from skippy.models.loading import load_model, load_tokenizer
from skippy.models.openai_backend import OpenAIBackend
from skippy.models.sampling import PRESETS, Sampling
from skippy.progress import Progress
from skippy.stages.evidence import standard_error
from skippy.stages.inputs import Base, Subject, pick_device
from skippy.stages.suites import AIME, BANAL, Question, grade, requests_for, rescore
from skippy.stores.problems import ProblemSet
from skippy.stores.samples import Sample, SampleStore, read_samples

logger = logging.getLogger(__name__)

BANAL_MAX_TOKENS = 256


@dataclass(frozen=True)
class Plan:
    """Everything that decides what is asked of whom; `prompt_style` is that of its questions."""

    subject: Subject
    character: Character
    problems: ProblemSet | None
    questions: Sequence[Question]
    sampling: Sampling
    samples: int
    prompt_style: str = "plain"


def choose_sampling(config: EvalConfig, base: Base) -> Sampling:
    """The preset asked for; auto is the lab's on the lab, else Qwen's own for instruct models."""
    auto = "lab" if base.is_lab else "qwen3vl-instruct"
    return PRESETS[auto if config.sampling == "auto" else config.sampling]


def identify_work(plan: Plan, config: EvalConfig) -> str:
    """Sixteen hexadecimal digits of all that decides an answer besides the weights: a resumed run must share it."""
    samplings = [asdict(_limited(plan.sampling, suite)) for suite in (AIME, BANAL)]
    messages = [[dict(message) for message in question.messages] for question in plan.questions]
    text = json.dumps([messages, samplings, config.backend, config.served_model], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def read_finished(path: Path, plan: Plan) -> list[Sample]:
    """The samples in the file, in its order, scored by today's rules and gold."""
    gold = {question.hash: question.gold for question in plan.questions}
    return list(rescore(read_samples(path), gold, plan.character.rules))


def generate(plan: Plan, config: EvalConfig, path: Path) -> list[Sample]:
    """Every sample of the plan: those already in the file, and the rest as they finish."""
    hashes = {question.hash for question in plan.questions}
    with closing(SampleStore(path)) as store:
        finished = read_finished(path, plan)
        wanted = requests_for(
            plan.questions, plan.samples, plan.sampling, plan.subject.digest, store.finished()
        )
        if finished:
            logger.info("eval: going on after %d finished samples", len(finished))
        if wanted:
            backend = _open_backend(config, plan.subject.path)
            _require_support(backend, plan.sampling, config.backend)
            fill(store, wanted, plan, plan.subject.digest, backend, finished)
    samples = [
        s for s in read_finished(path, plan) if s.problem_hash in hashes and s.sample_index < plan.samples
    ]
    return sorted(samples, key=lambda sample: (sample.suite, sample.problem_id, sample.sample_index))


@dataclass
class _Tally:
    """What is shown while a model answers; samples of one problem are no independent evidence."""

    truncated: int = 0
    scores: dict[str, list[float]] = field(default_factory=dict)

    def add(self, sample: Sample) -> None:
        self.truncated += sample.finish_reason == "length"
        if sample.suite == AIME:
            self.scores.setdefault(sample.problem_hash, []).append(sample.score or 0.0)

    def accuracy(self) -> str:
        shares = [fmean(scores) for scores in self.scores.values()]
        return f"{fmean(shares):.2f} ± {1.96 * standard_error(shares):.2f}" if shares else "–"


def fill(
    store: SampleStore,
    wanted: Mapping[str, tuple[Question, Request]],
    plan: Plan,
    digest: str,
    backend: Backend,
    finished: Iterable[Sample] = (),
) -> None:
    """Generate suite by suite, append each sample the moment it is finished, and show how it goes.

    Args:
        store: where samples go.
        wanted: request id → what is asked.
        plan: whose sampling and rules are used.
        digest: of the model that answers.
        backend: it.
        finished: its samples from before; the accuracy shown counts them.
    """
    started, tokens, tally = time.monotonic(), 0, _Tally()
    for sample in finished:
        tally.add(sample)
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
                tally.add(sample)
                bar.advance(
                    1,
                    accuracy=tally.accuracy(),
                    tokens_per_second=f"{tokens / (time.monotonic() - started):.0f}",
                    truncated=tally.truncated,
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

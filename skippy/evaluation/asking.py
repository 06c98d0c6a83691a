"""What is asked of a model, and the asking: every sample appended as it finishes, none generated twice.

Not a stage: `evaluate` asks one model, `checkpoints` every checkpoint of a training.
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from statistics import fmean
from types import MappingProxyType

from skippy.characters.schema import Character
from skippy.core.inference.wilson import wilson_interval
from skippy.core.problem import AIME_RULE, AnswerRule
from skippy.core.sampling import PRESETS, Sampling
from skippy.errors import ConfigError
from skippy.evaluation.generator import HERE, Generator
from skippy.evaluation.suites import AIME, BANAL, Question, grade, requests_for, rescore
from skippy.models.generation import REFUSALS, Backend, Request
from skippy.models.profiles import AUTO
from skippy.models.prompts import prompt_ids
from skippy.progress import Progress
from skippy.resolve.bases import Base
from skippy.resolve.subjects import Subject
from skippy.stores.problems import ProblemSet
from skippy.stores.samples import Sample, SampleStore, read_samples

logger = logging.getLogger(__name__)

BANAL_MAX_TOKENS = 256
NO_DIGESTS: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True)
class Plan:
    """Everything that decides what is asked of whom."""

    subject: Subject  # who is asked
    character: Character  # whose rules score the everyday answers
    problems: ProblemSet | None  # the mathematics, None without that suite
    questions: Sequence[Question]  # of all suites
    sampling: Sampling  # how answers are drawn
    samples: int  # a question
    prompt_style: str = "plain"  # how the problems are put
    seed: int = 0  # of the evaluation; every sample's own seed follows from it
    generator: Generator = HERE  # who answers


def choose_sampling(preset: str, base: Base, questions: Sequence[Question]) -> Sampling:
    """The preset asked for; auto is the one of the base's profile.

    Raises:
        ConfigError: it does not fit into the base's context.
    """
    is_auto = preset == AUTO
    sampling = PRESETS[base.profile.sampling if is_auto else preset]
    context, room = room_beside_prompts(sampling, base, questions)
    if sampling.max_tokens <= room:
        return sampling
    # Greedy is a rule of decoding and no length, and auto leaves the length to us: these are cut to what fits, the same
    # for every arm and resumption.
    if not (is_auto or sampling.temperature == 0) or room < 1:
        fitting = [name for name, preset in PRESETS.items() if preset.max_tokens <= room]
        raise ConfigError(
            "The sampling preset does not fit into the model's context.",
            where=f"sampling={sampling.name}, base {base.name}",
            expected=f"at most {room} tokens a completion: {context} positions less a prompt of {context - room}",
            found=f"up to {sampling.max_tokens} tokens",
            next_step=f"pass -P sampling={' or '.join([*fitting, 'auto', 'greedy'])}; the last two are cut to fit",
        )
    logger.warning(
        "eval: preset %s is cut from %d to the %d tokens that the context of %d leaves",
        *(sampling.name, sampling.max_tokens, room, context),
    )
    return replace(sampling, max_tokens=room)


def room_beside_prompts(sampling: Sampling, base: Base, questions: Sequence[Question]) -> tuple[int, int]:
    """Positions of the base's context, and those that the longest prompt leaves; all, where nobody needs to look."""
    model = base.checkpoint.config
    context = model.get("text_config", model).get("max_position_embeddings")
    # Below half of it, only a prompt that takes the other half could be too long, and the backend refuses that.
    if not context or sampling.max_tokens <= context // 2:
        return sampling.max_tokens, sampling.max_tokens
    from skippy.models.loading import load_tokenizer

    tokenizer = load_tokenizer(base.path)
    return context, context - max(len(prompt_ids(tokenizer, question.messages)) for question in questions)


def identify_asking(plan: Plan) -> str:
    """Sixteen hexadecimal digits of all that decides an answer besides the weights: a resumed run must share it."""
    samplings = [asdict(limited(plan.sampling, suite)) for suite in (AIME, BANAL)]
    messages = [[dict(message) for message in question.messages] for question in plan.questions]
    who = (*plan.generator.identity, plan.subject.reading)
    text = json.dumps([messages, samplings, *who, plan.seed], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def read_finished(path: Path, plan: Plan) -> list[Sample]:
    """The samples in the file, in its order, scored by today's rules and gold."""
    gold = {question.hash: question.gold for question in plan.questions}
    return list(rescore(read_samples(path), gold, plan.character.rules, rule_of(plan)))


def rule_of(plan: Plan) -> AnswerRule:
    """What counts as a right answer to the problems of a plan."""
    return plan.problems.rule if plan.problems else AIME_RULE


def generate(plan: Plan, path: Path) -> list[Sample]:
    """Every sample of the plan: those already in the file, and the rest as they finish."""
    with closing(SampleStore(path)) as store:
        finished = _of_plan(path, plan)
        wanted = requests_for(
            plan.questions, plan.samples, plan.sampling, plan.subject.digest, store.finished(), seed=plan.seed
        )
        if finished:
            logger.info("eval: going on after %d finished samples", len(finished))
        if wanted:
            from skippy.evaluation.backends import close_backend, open_backend

            backend = open_backend(plan.generator, plan.subject.path, plan.sampling)
            try:
                fill(store, wanted, plan, plan.subject.digest, backend, finished)
            finally:
                close_backend(backend)
    return sorted(
        _of_plan(path, plan), key=lambda sample: (sample.suite, sample.problem_id, sample.sample_index)
    )


def _of_plan(path: Path, plan: Plan) -> list[Sample]:
    """The samples in the file that the plan asks for: an earlier run of the same work may have asked for more."""
    hashes = {question.hash for question in plan.questions}
    return [
        s for s in read_finished(path, plan) if s.problem_hash in hashes and s.sample_index < plan.samples
    ]


@dataclass
class _Tally:
    """What is shown while a model answers; samples of one problem are no independent evidence."""

    truncated: int = 0
    refused: int = 0
    scores: dict[str, list[float]] = field(default_factory=dict)

    def add(self, sample: Sample) -> None:
        self.truncated += sample.finish_reason == "length"
        self.refused += sample.finish_reason in REFUSALS
        if sample.suite == AIME:
            self.scores.setdefault(sample.problem_hash, []).append(sample.score or 0.0)

    def accuracy(self) -> str:
        shares = [fmean(scores) for scores in self.scores.values()]
        if not shares:
            return "–"
        low, high = wilson_interval(fmean(shares), len(shares))
        return f"{fmean(shares):.2f} ({low:.2f} to {high:.2f})"


def fill(
    store: SampleStore,
    wanted: Mapping[str, tuple[Question, Request]],
    plan: Plan,
    digest: str,
    backend: Backend,
    finished: Sequence[Sample] = (),
    digests: Mapping[str, str] = NO_DIGESTS,
) -> None:
    """Generate suite by suite, append each sample the moment it is finished, and show how it goes.

    Args:
        wanted: request id → what is asked.
        finished: its samples from before; what is shown counts them, but for the speed.
        digests: of others that answer, by the name that a request gives.
    """
    started, tokens, tally = time.monotonic(), 0, _Tally()

    def speed() -> str:
        return f"{tokens / (time.monotonic() - started):.0f}"

    for sample in finished:
        tally.add(sample)
    with Progress(f"eval {plan.subject.label}", len(wanted) + len(finished), done=len(finished)) as bar:
        for suite in (AIME, BANAL):
            requests = [request for question, request in wanted.values() if question.suite == suite]
            sampling = limited(plan.sampling, suite)
            for completion in backend.generate(requests, sampling):
                question, request = wanted[completion.id]
                answered_by = digests.get(request.model, digest)
                sample = grade(
                    question, completion, plan.sampling, answered_by, request.seed, plan.character.rules
                )
                store.append(sample)
                tokens += completion.tokens
                tally.add(sample)
                bar.advance(1, accuracy=tally.accuracy, tokens_per_second=speed, truncated=tally.truncated)
    if tally.refused:
        logger.warning(
            "eval: the server gave no text for %d of %d samples (refused or filtered); they count as no answer",
            *(tally.refused, len(wanted) + len(finished)),
        )


def limited(sampling: Sampling, suite: str) -> Sampling:
    """Everyday answers are short: what has not ended by then is rambling, and counts as truncated."""
    most = BANAL_MAX_TOKENS if suite == BANAL else sampling.max_tokens
    return replace(sampling, max_tokens=min(sampling.max_tokens, most))

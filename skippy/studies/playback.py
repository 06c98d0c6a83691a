"""One update played back over α: W + αΔW in the live weights, every question asked, divergence measured.

No checkpoint is written. Projection commutes with α, so V4's equalities hold at every α (MATH §8); the weights are
rounded to the base's type, as a merge at that α would round them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import nn

from skippy.core.inference.cells import Cell, TrainingDose
from skippy.evaluation.asking import limited
from skippy.evaluation.metrics import banal_scores
from skippy.evaluation.suites import AIME, BANAL, Question, grade, requests_for, under_prompt
from skippy.models.divergence import Divergence
from skippy.models.prompts import prompt_ids
from skippy.models.transformers_backend import TransformersBackend
from skippy.resolve.dial import Dial
from skippy.stores.biases import Biases
from skippy.stores.changes import Change
from skippy.stores.samples import Sample
from skippy.studies.inputs import PURPOSE, StudyInputs

KL_TEXTS = 48
"""Of the base's own answers, on which divergence is measured, for problems and for everyday prompts each."""
KL_TOKENS = 256
SUITE_NAMES = {AIME: "problems", BANAL: "everyday"}
Played = tuple[float, list[Sample], dict[str, float]]
"""α, the samples and the predictors there."""


def ask(
    inputs: StudyInputs,
    model: nn.Module,
    tokenizer: Any,
    digest: str,
    questions: Sequence[Question] | None = None,
) -> list[Sample]:
    """Every question of the study, with sampling seeds that all cells share; sorted."""
    backend = TransformersBackend(model, tokenizer)
    sampling, plan = inputs.sampling, inputs.plan
    wanted = requests_for(
        *(inputs.questions if questions is None else questions, plan.samples, sampling, digest, set()),
        purpose=PURPOSE,
        seed=plan.sampling_seed,
    )
    samples = []
    for suite in (AIME, BANAL):
        requests = [request for question, request in wanted.values() if question.suite == suite]
        for completion in backend.generate(requests, limited(sampling, suite)):
            question, request = wanted[completion.id]
            rules = inputs.character.rules
            samples.append(grade(question, completion, sampling, digest, request.seed, rules))
    return sorted(samples, key=lambda s: (s.suite, s.problem_id, s.problem_hash, s.sample_index))


def divergences(
    inputs: StudyInputs, model: nn.Module, tokenizer: Any, base_samples: Sequence[Sample]
) -> dict[str, Divergence]:
    """One measure a suite, on the base's first answers; the model must hold the base's weights now."""
    messages = {question.hash: question.messages for question in inputs.questions}
    found = {}
    for suite, name in SUITE_NAMES.items():
        first = [s for s in base_samples if s.suite == suite and s.sample_index == 0]
        texts = []
        for sample in sorted(first, key=lambda s: s.problem_hash)[:KL_TEXTS]:
            prompt = prompt_ids(tokenizer, messages[sample.problem_hash])
            answer = tokenizer(sample.completion, add_special_tokens=False)["input_ids"][:KL_TOKENS]
            ending = [tokenizer.eos_token_id] if sample.finish_reason == "stop" else []
            texts.append((list(prompt), [*answer, *ending]))
        found[name] = Divergence(model, tokenizer, [pair for pair in texts if pair[1]])
    return found


def play_back(
    inputs: StudyInputs,
    model: nn.Module,
    tokenizer: Any,
    change: Change,
    alphas: Sequence[float],
    base_samples: Sequence[Sample],
) -> Iterator[Played]:
    """The update at each α, ascending."""
    dial = Dial(model, inputs.base.checkpoint, change)
    measures = divergences(inputs, model, tokenizer, base_samples)
    norm = None if isinstance(change, Biases) else dial.relative_norm()
    for alpha in alphas:
        dial.turn(alpha)
        figures = {} if norm is None else {"delta_norm": alpha * norm}
        for name, measure in measures.items():
            forward, backward = measure.measure()
            figures[f"kl_base_arm_{name}"], figures[f"kl_arm_base_{name}"] = forward, backward
        samples = ask(inputs, model, tokenizer, f"{inputs.base.digest}@{alpha:g}")
        yield alpha, samples, {**figures, **figures_of(inputs, samples)}
    dial.turn(0.0)


def play_prompt(inputs: StudyInputs, model: nn.Module, tokenizer: Any) -> Iterator[Played]:
    """The base under the character's system prompt: one point, which is called α = 1."""
    questions = under_prompt(inputs.questions, inputs.character.system_prompt)
    samples = ask(inputs, model, tokenizer, f"{inputs.base.digest}@prompt", questions)
    yield 1.0, samples, figures_of(inputs, samples)


def figures_of(inputs: StudyInputs, samples: Sequence[Sample]) -> dict[str, float]:
    """What the answers themselves say: their length, how many were cut off, and how coherent everyday ones are."""
    problems = [sample for sample in samples if sample.suite == AIME]
    everyday = [sample for sample in samples if sample.suite == BANAL]
    return {
        "answer_length": _mean([float(sample.tokens) for sample in problems]),
        "truncated": _mean([float(sample.finish_reason == "length") for sample in problems]),
        "coherence": _mean(banal_scores(everyday, inputs.character).coherence),
    }


def cell_of(
    samples: Sequence[Sample],
    arm: str,
    training: TrainingDose,
    alpha: float,
    seed: int,
    predictors: Mapping[str, float],
) -> Cell:
    """The cell that some samples make: counts by problem, mean persona by prompt; what is not finite is left out."""
    correct: dict[str, int] = {}
    personas: dict[str, list[float]] = {}
    answers: dict[str, int] = {}
    for sample in samples:
        if sample.suite == AIME:
            correct[sample.problem_hash] = correct.get(sample.problem_hash, 0) + (sample.score == 1.0)
            answers[sample.problem_hash] = answers.get(sample.problem_hash, 0) + 1
        else:
            personas.setdefault(sample.problem_hash, []).append(float(sample.score or 0.0))
    finite = {name: float(value) for name, value in sorted(predictors.items()) if math.isfinite(value)}
    return Cell(
        arm,
        training,
        alpha,
        seed,
        max(answers.values()),
        dict(sorted(correct.items())),
        {prompt: _mean(scores) for prompt, scores in sorted(personas.items())},
        finite,
    )


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else math.nan

"""From samples to figures: what `evaluate` logs as metrics and `compare` puts into the report, once.

Not a stage. Nothing here generates; every figure follows from the lines of `samples/*.jsonl`.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from statistics import fmean, stdev

from skippy.characters.schema import Character
from skippy.core.answers import extract_integer_lenient
from skippy.core.inference.accuracy import avg_at_k, maj_at_k, pass_at_k
from skippy.core.problem import AIME_RULE, Problem
from skippy.core.style import rewards
from skippy.evaluation.suites import AIME, MODES, PLAIN
from skippy.results import Answer, BanalScores, Excerpt, FrontierPoint, ProblemScore
from skippy.stores.problems import ProblemSet
from skippy.stores.samples import Sample

TRUNCATED = "length"
FRONTIER = "samples/frontier.jsonl"
"""Artifact with the samples of a walk over checkpoints."""
FORMS = {
    "email": (1, re.compile(r"(?im)^\s*(subject:|dear|hi|hello|good (morning|day|evening))\b")),
    "list": (2, re.compile(r"(?m)^\s*([-*•]|\d+[.)])\s")),
}
"""Format → how often its mark must be there: a subject or a salutation; two items on lines of their own."""
BASE_STEP = 0
"""Step under which a walk asks the base; walks of earlier versions lack it."""


def problem_scores(samples: Iterable[Sample], problems: ProblemSet) -> tuple[ProblemScore, ...]:
    """One score a problem, in the order of the set; problems without samples are left out."""
    ordered = sorted(enumerate(samples, start=1), key=lambda entry: _order(entry[1]))
    by_hash = {key: list(group) for key, group in groupby(ordered, lambda entry: entry[1].problem_hash)}
    return tuple(
        _problem_score(by_hash[problem.hash], problem)
        for problem in problems.problems
        if problem.hash in by_hash
    )


def _order(sample: Sample) -> tuple[str, int]:
    return sample.problem_hash, sample.sample_index


def _problem_score(entries: Sequence[tuple[int, Sample]], problem: Problem) -> ProblemScore:
    """`entries` are one problem's samples with their lines, by index."""
    samples = [sample for _, sample in entries]
    right = [sample.score == 1.0 for sample in samples]
    # The lenient reading is one of integers 0–999; for other answers there is none but the strict one.
    lenient = [extract_integer_lenient(s.completion).value == problem.gold for s in samples]
    return ProblemScore(
        key=samples[0].problem_hash,
        correct=sum(right),
        k=len(samples),
        lenient_correct=sum(lenient if problem.rule == AIME_RULE else right),
        answers=tuple(sample.extracted for sample in samples),
        mean_tokens=fmean(sample.tokens for sample in samples),
        truncated=sum(sample.finish_reason == TRUNCATED for sample in samples),
        no_answer=sum(sample.extracted is None for sample in samples),
        excerpts=_excerpts(entries),
    )


def _excerpts(entries: Sequence[tuple[int, Sample]]) -> tuple[Excerpt, ...]:
    """The first right and the first wrong sample: whichever way a problem flips, one shows it."""
    first: dict[bool, Excerpt] = {}
    for line, sample in entries:
        is_correct = sample.score == 1.0
        excerpt = Excerpt(
            sample.sample_index, line, sample.completion, sample.extracted, sample.status, is_correct
        )
        first.setdefault(is_correct, excerpt)
    return tuple(first.values())


def problem_metrics(
    scores: Sequence[ProblemScore], samples: Sequence[Sample], problems: ProblemSet, character: Character
) -> dict[str, float]:
    """The `aime/*` metrics."""
    correct, k = [score.correct for score in scores], scores[0].k
    count = len(scores) * k
    gold = problems.gold
    return {
        "aime/avg_at_k": avg_at_k(correct, k),
        "aime/pass_at_k": pass_at_k(correct, k),
        "aime/maj_at_k": maj_at_k([score.answers for score in scores], [gold[score.key] for score in scores]),
        "aime/avg_at_k_lenient": sum(score.lenient_correct or 0 for score in scores) / count,
        "aime/standard_error": standard_error([score.share for score in scores]),
        "aime/truncated": sum(score.truncated for score in scores) / count,
        "aime/no_answer": sum(score.no_answer for score in scores) / count,
        "aime/mean_tokens": fmean(score.mean_tokens for score in scores),
        "aime/persona": fmean(
            rewards.persona_score(sample.completion, character.rules) for sample in samples
        ),
    }


def family_rows(scores: Sequence[ProblemScore], problems: ProblemSet) -> list[dict[str, object]]:
    """Accuracy by family, a row each; a table, since they would drown the metrics on which runs are compared."""
    families = {problem.hash: problem.family for problem in problems.problems if problem.family}
    shares: dict[str, list[float]] = {}
    for score in scores:
        if score.key in families:
            shares.setdefault(families[score.key], []).append(score.share)
    return [
        {"family": family, "problems": len(values), "avg_at_k": fmean(values)}
        for family, values in sorted(shares.items())
    ]


def banal_scores(samples: Sequence[Sample], character: Character, mode: str = PLAIN) -> BanalScores:
    """Persona, traits, coherence and helpfulness of everyday prompts, means over answers, ordered by hash."""
    rules = character.rules
    ordered = sorted(samples, key=_order)
    plain = [sample for sample in ordered if _mode(sample) == mode]
    by_prompt = [list(group) for _, group in groupby(plain, lambda sample: sample.problem_hash)]
    by_mode = {m: [s.score for s in ordered if _mode(s) == m and s.score is not None] for m in MODES}
    traits: dict[str, list[float]] = {trait.name: [] for trait in character.traits}
    coherent, helpful = [], []
    for answers in by_prompt:
        found = [rewards.trait_scores(sample.completion, rules, sample.prompt) for sample in answers]
        for name, values in traits.items():
            values.append(fmean(scores[name] for scores in found))
        cut = [sample.finish_reason == TRUNCATED for sample in answers]
        sound = rewards.coherence([s.completion for s in answers], [s.prompt for s in answers], rules, cut)
        coherent.append(fmean(value or 0.0 for value in sound))
        helpful.append(fmean(rewards.helpfulness(s.completion, s.prompt) for s in answers))
    persona = [float(sample.score or 0.0) for sample in plain]
    return BanalScores(
        keys=tuple(answers[0].problem_hash for answers in by_prompt),
        scores=tuple(fmean(float(sample.score or 0.0) for sample in answers) for answers in by_prompt),
        answer_sd=stdev(persona) if len(persona) > 1 else None,
        coherence=tuple(coherent),
        helpfulness=tuple(helpful),
        traits={name: tuple(values) for name, values in traits.items()},
        modes={MODES[m]: fmean(values) for m, values in by_mode.items() if values},
        mean_tokens=fmean(sample.tokens for sample in plain),
        in_form=_share_in_form(plain, mode),
    )


def format_scores(samples: Sequence[Sample], character: Character) -> dict[str, BanalScores]:
    """Format → its scores, for every format beside the first; empty for evaluations of before there were any."""
    names = dict.fromkeys(mode for sample in samples if (mode := _mode(sample)) not in MODES)
    return {name: banal_scores(samples, character, name) for name in names}


def _share_in_form(samples: Sequence[Sample], format_name: str) -> float | None:
    """Share of answers that look like what was asked for; None where nothing is known of that format."""
    if format_name not in FORMS or not samples:
        return None
    least, mark = FORMS[format_name]
    return fmean(len(mark.findall(sample.completion)) >= least for sample in samples)


def everyday_answers(samples: Sequence[Sample], character: Character) -> tuple[Answer, ...]:
    """The first answer to every plain prompt, in the order of the character's file."""
    first = sorted(
        (sample for sample in samples if _mode(sample) == PLAIN and sample.sample_index == 0),
        key=lambda sample: int(sample.problem_id.split("/")[1]),
    )
    return tuple(
        Answer(
            sample.problem_hash,
            sample.prompt,
            sample.completion,
            float(sample.score or 0.0),
            sample.tokens,
            dict(rewards.trait_scores(sample.completion, character.rules, sample.prompt)),
        )
        for sample in first
    )


def banal_metrics(samples: Sequence[Sample], character: Character) -> dict[str, float]:
    """The `banal/*` metrics."""
    found = banal_scores(samples, character)
    plain = [sample for sample in samples if _mode(sample) == PLAIN]
    metrics = {
        "banal/score": fmean(found.scores),
        "banal/standard_error": standard_error(found.scores),
        "banal/coherence": fmean(found.coherence),
        "banal/helpfulness": fmean(found.helpfulness),
        "banal/mean_tokens": found.mean_tokens,
        "banal/truncated": fmean(sample.finish_reason == TRUNCATED for sample in plain),
    }
    for name, scores in format_scores(samples, character).items():
        metrics |= {
            f"banal/{name}/score": fmean(scores.scores),
            f"banal/{name}/coherence": fmean(scores.coherence),
        }
        metrics |= {} if scores.in_form is None else {f"banal/{name}/in_form": scores.in_form}
    labels = {label: mode for mode, label in MODES.items()}
    metrics |= {f"banal/score_{labels[label]}": value for label, value in found.modes.items()}
    return metrics | {f"banal/trait/{name}": fmean(values) for name, values in found.traits.items()}


def frontier(
    samples: Sequence[Sample], base: Sequence[ProblemScore], problems: ProblemSet, chosen: int | None
) -> tuple[FrontierPoint, ...]:
    """One point a checkpoint, the base as step 0: persona against accuracy, with the error of the paired difference.

    Where a walk of an earlier version did not ask the base, accuracy is that of the evaluated base on the whole
    suite plus the mean paired difference on the problems both answered.

    Args:
        samples: of all checkpoints; `model_digest` ends in `@STEP`.
        base: the evaluated base's scores, for a walk without its own.
        chosen: step under comparison, None for the last.
    """
    by_step = samples_by_step(samples)
    own = [s for s in by_step.get(BASE_STEP, ()) if s.suite == AIME]
    reference = problem_scores(own, problems) if own else base
    shares = {score.key: score.share for score in reference}
    points = []
    for step, members in by_step.items():
        scores = problem_scores([s for s in members if s.suite == AIME], problems)
        persona = [float(s.score or 0.0) for s in members if s.suite != AIME]
        differences = [score.share - shares[score.key] for score in scores if score.key in shares]
        if not differences or not persona:
            continue
        is_base = step == BASE_STEP
        points.append(
            FrontierPoint(
                step,
                fmean(persona),
                standard_error(persona),
                fmean(shares.values()) + fmean(differences),
                standard_error(list(shares.values()) if is_base else differences),
                step == (max(by_step) if chosen is None else chosen),
                n=len(differences),
                k=scores[0].k,
                is_base=is_base,
            )
        )
    return tuple(points)


def samples_by_step(samples: Iterable[Sample]) -> dict[int, list[Sample]]:
    """Samples of checkpoints by step; their `model_digest` ends in `@STEP`."""
    by_step: dict[int, list[Sample]] = {}
    for sample in samples:
        by_step.setdefault(int(sample.model_digest.rsplit("@", 1)[1]), []).append(sample)
    return dict(sorted(by_step.items()))


def persona_by_step(samples: Iterable[Sample]) -> dict[int, float]:
    """Step → mean persona score on everyday prompts, of checkpoints alone; problems are not looked at."""
    chatted = samples_by_step(sample for sample in samples if sample.suite != AIME)
    return {
        step: fmean(float(sample.score or 0.0) for sample in members)
        for step, members in chatted.items()
        if step != BASE_STEP
    }


def count_statuses(samples: Iterable[Sample]) -> Mapping[str, int]:
    """Extraction status → samples."""
    return dict(Counter(sample.status for sample in samples))


def standard_error(values: Sequence[float]) -> float:
    """sd/√n; 0 for fewer than two values."""
    return stdev(values) / math.sqrt(len(values)) if len(values) > 1 else 0.0


def _mode(sample: Sample) -> str:
    return sample.problem_id.split("/")[0]

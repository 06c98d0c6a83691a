"""A judge model's opinion of everyday answers: every trait asked in several ways, and how far the ways agree.

Not a stage. A judge that answers by habit gives the same digit whatever it reads; asked again with the scale
turned round, it contradicts itself. So each trait is put in two or three phrasings, which count as raters, and
their agreement is reported beside their mean. So is the correlation with length, which judges are known to like.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, pvariance

from scipy.stats import spearmanr

from skippy.core.inference.agreement import krippendorff_alpha
from skippy.core.persona import Trait
from skippy.errors import BackendError, ReportError, RewardError
from skippy.models.judge import Judge
from skippy.progress import Progress
from skippy.stores.samples import Sample

logger = logging.getLogger(__name__)

LARGEST_DIGIT = 9
FEWEST_ANSWERS_TO_CORRELATE = 3
LEAST_AGREEMENT = 2 / 3
"""Below this α not even tentative conclusions should be drawn: Krippendorff 2004, Content Analysis, ch. 11."""

_ANCHORS = re.compile(r"\b0\b(?P<low>.*)\b9\b", re.DOTALL)


@dataclass(frozen=True)
class Phrasing:
    """One way to ask for a trait; a mirrored one gives 9 where the trait is absent."""

    name: str
    rubric: str
    is_mirrored: bool = False


@dataclass(frozen=True)
class Judgement:
    """One answer, one trait, one phrasing."""

    problem_id: str  # of the answer
    problem_hash: str  # of the answer
    tokens: int  # length of the answer
    trait: str  # name
    phrasing: str  # name
    # mean digit 0–9, already turned back where the phrasing is mirrored; None without a digit
    score: float | None


def phrase(rubric: str) -> tuple[Phrasing, ...]:
    """The rubric as it stands, restated, and with its scale turned round where it names what 0 and 9 mean."""
    restated = (
        "Forget whether the reply is good, true or useful, and look at one thing only. An annotator was told: "
        f"“{rubric}” Which digit does the annotator write down?"
    )
    ways = (Phrasing("own", rubric), Phrasing("restated", restated))
    turned = _ANCHORS.sub(r"9\g<low>0", rubric, count=1)
    if turned == rubric:
        return ways
    return (*ways, Phrasing("mirrored", f"{turned} Mind that the scale runs backwards here.", True))


def judge_answers(judge: Judge, samples: Sequence[Sample], traits: Sequence[Trait]) -> tuple[Judgement, ...]:
    """Ask about every answer, trait and phrasing.

    Raises:
        BackendError: the endpoint failed beyond its retries.
    """
    judgements: list[Judgement] = []
    ways = [(trait.name, way) for trait in traits for way in phrase(trait.rubric)]
    with Progress(f"judge {judge.model}", len(ways) * len(samples)) as bar:
        for trait, way in ways:
            digits = _ask(judge, [(way.rubric, sample.prompt, sample.completion) for sample in samples])
            for sample, digit in zip(samples, digits, strict=True):
                score = LARGEST_DIGIT - digit if way.is_mirrored and digit is not None else digit
                judgements.append(
                    Judgement(sample.problem_id, sample.problem_hash, sample.tokens, trait, way.name, score)
                )
            bar.advance(len(samples))
    return tuple(judgements)


def judge_metrics(judgements: Sequence[Judgement]) -> dict[str, float]:
    """The `banal/judge*` metrics; what is not defined (a judge that always says the same) is left out.

    `banal/judge/<trait>` is the mean over answers of the mean over phrasings, 0–9. `banal/judge_agreement` is
    Krippendorff's α with phrasings as raters and answers as units, within each trait and then averaged: over
    all traits at once, the differences between traits would count as agreement. `banal/judge_length_correlation`
    is Spearman's between an answer's mean score and its tokens.
    """
    metrics = {"banal/judge_missing": fmean(judgement.score is None for judgement in judgements)}
    alphas = []
    for trait in dict.fromkeys(judgement.trait for judgement in judgements):
        members = [judgement for judgement in judgements if judgement.trait == trait]
        means = _mean_by_answer(members)
        if means:
            metrics[f"banal/judge/{trait}"] = fmean(means.values())
        try:
            alphas.append(krippendorff_alpha(_ratings(members)))
        except ReportError:
            logger.warning("eval: the judge's scores for %s are all alike; no agreement to speak of", trait)
        else:
            metrics[f"banal/judge_alpha/{trait}"] = alphas[-1]
    if alphas:
        metrics["banal/judge_agreement"] = fmean(alphas)
        say = logger.info if fmean(alphas) >= LEAST_AGREEMENT else logger.warning
        say("eval: the judge's phrasings agree by α = %.2f (0.67 is the least to build on)", fmean(alphas))
    correlation = _length_correlation(judgements)
    if correlation is not None:
        metrics["banal/judge_length_correlation"] = correlation
    return metrics


def _ask(judge: Judge, questions: Sequence[tuple[str, str, str]]) -> list[float | None]:
    try:
        return judge.digits(questions)
    except RewardError as error:
        raise BackendError(
            "The judge stopped answering.",
            where=error.where,
            expected=error.expected,
            found=error.found,
            next_step="bring the endpoint back and run the same eval again; no sample is generated twice",
        ) from error


def _ratings(members: Sequence[Judgement]) -> list[list[float | None]]:
    """Phrasings × answers of one trait."""
    scores = {(each.phrasing, each.problem_hash): each.score for each in members}
    answers = list(dict.fromkeys(each.problem_hash for each in members))
    raters = dict.fromkeys(each.phrasing for each in members)
    return [[scores[rater, answer] for answer in answers] for rater in raters]


def _mean_by_answer(members: Sequence[Judgement]) -> Mapping[str, float]:
    """Answer → mean score, over those that got a digit."""
    given: dict[str, list[float]] = {}
    for each in members:
        if each.score is not None:
            given.setdefault(each.problem_hash, []).append(each.score)
    return {answer: fmean(scores) for answer, scores in given.items()}


def _length_correlation(judgements: Sequence[Judgement]) -> float | None:
    means = _mean_by_answer(judgements)
    tokens = {each.problem_hash: float(each.tokens) for each in judgements}
    lengths = [tokens[answer] for answer in means]
    if len(means) < FEWEST_ANSWERS_TO_CORRELATE or not pvariance(lengths) or not pvariance(means.values()):
        return None
    return float(spearmanr(list(means.values()), lengths).statistic)

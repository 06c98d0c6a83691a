"""A comparison written down by hand: every number chosen, nothing measured."""

from __future__ import annotations

from dataclasses import replace
from statistics import fmean
from xml.etree import ElementTree

import numpy as np

from skippy.core.problem import Problem
from skippy.core.variants import VARIANTS
from skippy.report.page import render
from skippy.report.verdicts import judge
from skippy.results import (
    Answer,
    Arm,
    BanalScores,
    Comparison,
    Evaluation,
    Excerpt,
    FrontierPoint,
    LeakageFacts,
    ProblemScore,
    Provenance,
    TrajectoryPoint,
)

FAMILIES = ("digits", "remainders", "sequences", "two unknowns")
TRAITS = ("arrogance", "sarcasm", "warmth", "brevity")
DISTINCT_N, DISTINCT_K = 37, 8


def example_problems(n: int) -> tuple[Problem, ...]:
    return tuple(
        Problem(
            id=f"{FAMILIES[index % 4]} {index // 4 + 1}",
            family=FAMILIES[index % 4],
            level=index % 3 + 1,
            gold=(37 * index) % 1000,
            question=f"Find the remainder when {index + 12} squared is divided by {index % 7 + 3}.",
        )
        for index in range(n)
    )


def example_evaluation(
    problems: tuple[Problem, ...],
    *,
    seed: int,
    stream: int = 0,
    accuracy_shift: float = 0.0,
    effect_sd: float = 0.0,
    persona: float = 0.0,
    k: int = 16,
    rho: float | None = None,
    prompts: int = 120,
    version: str = "",
) -> Evaluation:
    """One model whose true accuracy is the shared one plus a shift, and whose persona is a chosen mean."""
    shared = np.random.default_rng(0)
    truth = shared.beta(1.2, 0.9, len(problems))
    noise = np.random.default_rng([stream, seed, 1])
    rate = np.clip(truth + accuracy_shift + effect_sd * noise.normal(size=truth.size), 0.01, 0.99)
    scores = []
    for number, (problem, probability) in enumerate(zip(problems, rate, strict=True)):
        correct = int(noise.binomial(k, probability))
        cut = int(noise.binomial(k - correct, 0.2))
        excerpts = tuple(
            Excerpt(
                index=index,
                line=number * k + index + 1,
                text=f"Sigh. Even a monkey sees it <at once> & squares first. \\boxed{{{value}}} Obviously.",
                value=value,
                status="boxed",
                is_correct=value == problem.gold,
            )
            for index, value, count in (
                (0, problem.gold, correct),
                (min(correct, 1), (problem.gold + 1) % 1000, k - correct),
            )
            if count
        )
        scores.append(
            ProblemScore(
                problem.hash,
                correct,
                k,
                lenient_correct=min(k, correct + int(noise.random() < 0.1)),
                mean_tokens=float(90 + 60 * (1 - probability) - 20 * persona / 3),
                truncated=cut,
                no_answer=cut,
                excerpts=excerpts,
            )
        )
    right = sum(score.correct for score in scores)
    cut = sum(score.truncated for score in scores)
    prompt_taste = np.random.default_rng(5).normal(0, 0.6, prompts)
    answers = prompt_taste + persona + np.random.default_rng([stream, seed, 2]).normal(0, 0.5, prompts)
    banal = BanalScores(
        keys=tuple(f"b{index:03d}" for index in range(prompts)),
        scores=tuple(answers.tolist()),
        coherence=tuple((0.9 + 0 * answers).tolist()),
        helpfulness=tuple((0.8 + 0 * answers).tolist()),
        traits={
            name: tuple((sign * answers / 3 + noise.normal(0, 0.4, prompts)).tolist())
            for name, sign in zip(TRAITS, (1.0, 0.8, -0.5, 0.02), strict=True)
        },
        modes={"plain": persona, "neutral system prompt": persona * 0.8, "break character": persona * 0.45},
        mean_tokens=34.0 - 3 * persona,
        base_auc=None if rho is None else 0.97,
        problem_score=persona * 0.3,
    )
    leakage = None
    if rho is not None:
        leakage = LeakageFacts(rho, rho * 0.9, 0.083, 0.071, max(rho, 2e-4), max(rho * 0.9, 2e-4), 0.18)
    steps = range(0, 61, 10)
    trajectory = tuple(
        TrajectoryPoint(
            step, 0.03 + (0.0016 - 0.0002 * stream + 0.0001 * (seed % 3)) * step, 0.11 * step, 0.02, 0.055
        )
        for step in steps
        if step and rho is not None
    )
    base_average = float(truth.mean())
    frontier = tuple(
        FrontierPoint(
            step,
            persona * step / 60,
            0.08,
            base_average + accuracy_shift * (step / 60) ** 2,
            0.018,
            is_chosen=step == 60,
        )
        for step in steps
        if rho is not None
    )
    return Evaluation(
        seed=seed,
        model_uri=f"models:/skippy/{version or 'base'}",
        model_version=version,
        model_digest=f"{seed:02d}" * 32,
        scores=tuple(scores),
        statuses={"boxed": len(scores) * k - cut - 9, "answer_line": 7, "no_answer": cut, "out_of_range": 2},
        banal=banal,
        leakage=leakage,
        trajectory=trajectory,
        frontier=frontier,
        preset="lab",
        step=None if rho is None else 60,
        runs={"eval": f"e{seed}", **({} if rho is None else {"train": f"t{seed}", "merge": f"m{seed}"})},
        maj_at_k=min(1.0, right / (len(scores) * k) + 0.03),
        backend="transformers",
        prompt_style="plain",
        samples="samples/aime.jsonl",
        answers=tuple(
            Answer(
                f"b{index:03d}",
                f"Everyday question {index}?",
                f"Seed {seed} of stream {stream} <says> {index}.",
                persona,
                30 + index,
                {"sarcasm": persona / 3},
            )
            for index in range(13)
        ),
    )


def example_comparison(n: int = 120, k: int = 16, seeds: int = 1, **changes: object) -> Comparison:
    """V3 loses 9 points, V4 nothing, at equal personality."""
    problems = example_problems(n)
    base = Arm("base", "the model before training", (example_evaluation(problems, seed=0, k=k),))
    v3 = Arm(
        "v3",
        "plain LoRA, no constraint",
        tuple(
            example_evaluation(
                problems,
                seed=41 + index,
                stream=3,
                accuracy_shift=-0.09,
                effect_sd=0.07,
                persona=2.5,
                k=k,
                rho=0.14,
                version=str(1 + 2 * index),
            )
            for index in range(seeds)
        ),
    )
    v4 = Arm(
        "v4",
        "LoRA kept exactly out of the top-k singular directions at every step",
        tuple(
            example_evaluation(
                problems,
                seed=41 + index,
                stream=4,
                accuracy_shift=0.0,
                effect_sd=0.04,
                persona=2.52,
                k=k,
                rho=2e-9,
                version=str(2 + 2 * index),
            )
            for index in range(seeds)
        ),
    )
    comparison = Comparison(
        suite_label="AIME-style (lab)",
        problems=problems,
        arms=(base, v3, v4),
        provenance=Provenance(
            experiment="skippy",
            created="2026-11-23T09:00:00+00:00",
            code_version="8adf6cd",
            is_dirty=False,
            base_model="lab",
            base_digest="ab" * 32,
            projector_digest="cd" * 32,
            character="skippy",
            character_digest="ef" * 32,
            problem_source="lab",
            problem_digest="0123456789abcdef",
            problem_count=n,
            versions={"torch": "2.13.0", "transformers": "5.23.0"},
            commands=("mlflow run . --env-manager local -P samples=16",),
            comparison_command="mlflow run . -e compare --env-manager local -P runs=e0",
        ),
        floors={"coherence": 0.5, "helpfulness": 0.5},
        duplicates_dropped=3,
    )
    return replace(comparison, **changes)  # type: ignore[arg-type]


def distinct(arm: Arm, row: int) -> Arm:
    """The arm with every figure unlike every other, so that no cell can stand in for its neighbour."""
    evaluations = []
    for index, item in enumerate(arm.evaluations):
        step = 0.01 * (3 * row + index)
        assert item.banal is not None
        size = len(item.banal.scores)
        banal = replace(
            item.banal,
            coherence=(0.71 + step, 0.91 + step) * (size // 2),
            helpfulness=(0.61 + step,) * size,
            modes={"plain": 1.1 + step, "neutral system prompt": 2.2 + step, "break character": 3.3 + step},
            mean_tokens=41 + 100 * step,
            base_auc=0.55 + step,
            problem_score=1.7 + step,
        )
        scores = tuple(
            replace(
                score,
                truncated=min(1, DISTINCT_K - score.correct),
                no_answer=DISTINCT_K - score.correct,
                mean_tokens=t,
            )
            for t, score in enumerate(item.scores, 50 + 7 * row)
        )
        leakage = LeakageFacts(*(c + step for c in (0.11, 0.22, 0.033, 0.044, 0.55, 0.66, 0.77)))
        evaluations.append(
            replace(
                item,
                banal=banal,
                scores=scores,
                leakage=leakage if arm.name != "base" else None,
                maj_at_k=0.5 + step,
                statuses={"boxed": 90 + row, "unclosed_think": 30 + index, "lenient_box": 7 + row},
                sampling_seed=1234,
                step=60 + index if arm.name != "base" else None,
            )
        )
    return replace(arm, evaluations=tuple(evaluations))


def distinct_comparison() -> Comparison:
    """Two seeds an arm, no two figures alike, and no setting left at its default."""
    plain_facts = example_comparison(n=DISTINCT_N, k=DISTINCT_K, seeds=2)
    return replace(
        plain_facts,
        arms=tuple(distinct(arm, row) for row, arm in enumerate(plain_facts.arms)),
        confidence=0.9,
        margin_points=4.0,
        protected_k="7",
        registered_model="house",
        provenance=replace(plain_facts.provenance, is_dirty=True),
    )


def with_arms(facts: Comparison, count: int) -> Comparison:
    """So many arms, each with rewards and a persona of its own."""
    if count == 2:
        return facts
    arms = []
    for row, name in enumerate(list(VARIANTS)[:count]):
        evaluations = []
        for item in facts.arms[1 + row % 2].evaluations:
            frontier = tuple(replace(p, persona=p.persona * (1 - 0.06 * row)) for p in item.frontier)
            rewards = {step: 0.3 + step / 100 * (0.6 + 0.1 * row) for step in range(10, 151, 20)}
            evaluations.append(replace(item, frontier=frontier, rewards=rewards))
        arms.append(replace(facts.arms[1], name=name, evaluations=tuple(evaluations)))
    return replace(facts, arms=(facts.arms[0], *arms))


def report(facts: Comparison) -> dict[str, str | bytes]:
    return render(facts, judge(facts))


def page_of(files: dict[str, str | bytes]) -> str:
    page = files["index.html"]
    assert isinstance(page, str)
    return page


def over_seeds(facts: Comparison, read) -> list[float]:
    """The mean over training seeds of a figure of each arm."""
    return [fmean(read(item) for item in arm.evaluations) for arm in facts.arms]


def marked(figure: ElementTree.Element, *marks: str) -> list[dict[str, str]]:
    """Attributes and text of every element that has all these classes, its own tag counting as one."""
    return [
        dict(item.attrib) | {"hint": "".join(item.itertext())}
        for item in figure.iter()
        if set(marks) <= {item.tag.rpartition("}")[2], *item.get("class", "").split()}
    ]


def corners(mark: dict[str, str]) -> list[tuple[float, float]]:
    return [tuple(map(float, pair.split(","))) for pair in mark["d"].strip("MZ ").split(" L")]  # type: ignore[misc]

"""What an evaluation leaves in its run: the samples, the figures of both suites, and what is said on the way."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from skippy.core.inference.power import achievable_margin, minimum_detectable_effect
from skippy.core.inference.wilson import FEWEST_PROBLEMS, wilson_interval
from skippy.evaluation.asking import Plan
from skippy.evaluation.metrics import banal_metrics, family_rows, problem_metrics, problem_scores
from skippy.evaluation.suites import AIME, BANAL, suite_label
from skippy.stores.samples import Sample
from skippy.tracking.stage_run import StageRun
from skippy.words import counted

logger = logging.getLogger(__name__)


def announce(plan: Plan, margin: float) -> None:
    """Say before anything is generated what this n × k can show."""
    if plan.problems is None:
        return
    n = len(plan.problems.problems)
    design = f"{counted(n, 'problem')} × {counted(plan.samples, 'sample')}"
    logger.info("eval: %s, %s", suite_label(plan.problems), design)
    if plan.problems.duplicates:
        logger.info("eval: duplicates dropped: %d", plan.problems.duplicates)
    if plan.problems.replaced:
        logger.warning("eval: half surrogate pairs that became U+FFFD: %d", plan.problems.replaced)
    if n < FEWEST_PROBLEMS:
        logger.warning(
            "eval: too few to say anything: %s, fewer than %d", counted(n, "problem"), FEWEST_PROBLEMS
        )
        return
    reachable = achievable_margin(n, plan.samples)
    logger.info(
        "eval: achievable margin %.1f points, minimum detectable effect %.1f points (80 %% power)",
        *(100 * reachable, 100 * minimum_detectable_effect(n, plan.samples)),
    )
    if reachable > margin:
        logger.warning(
            "eval: a margin of %.1f points is out of reach with %d × %d: expect `inconclusive`",
            *(100 * margin, n, plan.samples),
        )


def keep(samples: Sequence[Sample], stage: StageRun) -> None:
    """One artifact a suite, `samples/<suite>.jsonl`."""
    for suite in (AIME, BANAL):
        lines = [sample.to_line() for sample in samples if sample.suite == suite]
        if lines:
            stage.log_text("".join(lines), f"samples/{suite}.jsonl")


def account(samples: Sequence[Sample], plan: Plan, stage: StageRun, banal_digest: str) -> dict[str, float]:
    """Log the figures of both suites, linked to model and data set."""
    metrics: dict[str, float] = {}
    model_id = plan.subject.model_id
    solved = [sample for sample in samples if sample.suite == AIME]
    if plan.problems and solved:
        scores = problem_scores(solved, plan.problems)
        found = problem_metrics(scores, solved, plan.problems, plan.character)
        dataset = stage.log_dataset(
            suite_label(plan.problems), plan.problems.digest, plan.problems.name, "evaluation"
        )
        stage.log_metrics(found, model_id=model_id, dataset=dataset)
        families = family_rows(scores, plan.problems)
        if families:
            stage.log_table(families, "aime/families.parquet")
        metrics |= found
        logger.info(
            "eval: %s solves %s of %s", plan.subject.label, _told(found["aime/avg_at_k"], len(scores)),
            suite_label(plan.problems),
        )  # fmt: skip
    chatted = [sample for sample in samples if sample.suite == BANAL]
    if chatted:
        found = banal_metrics(chatted, plan.character)
        dataset = stage.log_dataset(f"banal ({plan.character.name})", banal_digest, "banal", "evaluation")
        stage.log_metrics(found, model_id=model_id, dataset=dataset)
        metrics |= found
        logger.info(
            "eval: %s has persona %.2f, coherence %.2f on everyday prompts", plan.subject.label,
            found["banal/score"], found["banal/coherence"],
        )  # fmt: skip
    return metrics


def _told(share: float, n: int) -> str:
    """A score with its interval, and none where there is too little to say."""
    if n < FEWEST_PROBLEMS:
        return f"{100 * share:.1f} % (too few to say: {counted(n, 'problem')}, fewer than {FEWEST_PROBLEMS})"
    low, high = wilson_interval(share, n)
    return f"{100 * share:.1f} % ({100 * low:.1f} to {100 * high:.1f})"

"""Second opinions on an evaluation, each asked for by a parameter: a judge, math-verify, EleutherAI's harness.

Not a stage: `evaluate` opens them before it generates, so that a dead endpoint, a missing package or an unknown
task costs seconds and not hours, and adds them once its own figures are logged.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from skippy.errors import ConfigError
from skippy.evaluation.asking import Plan
from skippy.evaluation.cross_check import Parser, cross_check_metrics, find_disagreements, to_lines
from skippy.evaluation.suites import AIME, BANAL
from skippy.extras import import_extra
from skippy.stores.samples import Sample
from skippy.tracking.stage_run import StageRun
from skippy.tracking.tags import Tag

if TYPE_CHECKING:
    from skippy.evaluation.harness import Harness
    from skippy.models.judge import Judge

logger = logging.getLogger(__name__)

JUDGEMENTS = "judge/banal.parquet"  # not under samples/: every file there is one of samples
DISAGREEMENTS = "extraction/disagreements.jsonl"
HARNESS_RESULTS = "lm_eval/results.json"


@dataclass(frozen=True)
class Opinions:
    """Those that were asked for, each known to work; None for the others."""

    judge: Judge | None = None
    parse: Parser | None = None
    harness: Harness | None = None


def open_opinions(*, judge_url: str, judge_model: str, cross_check: bool, lm_eval: str) -> Opinions:
    """Open whatever is asked for.

    Raises:
        ConfigError: a package is missing or a task unknown.
        BackendError: the judge cannot be used.
    """
    parse = (
        import_extra("math_verify", extra="verify", parameter="cross_check").parse if cross_check else None
    )
    harness = judge = None
    if lm_eval:
        from skippy.evaluation.harness import open_harness

        harness = open_harness(lm_eval)
    if judge_url:
        from skippy.models.judge import Judge

        judge = Judge(judge_url, judge_model)
        judge.check()
    return Opinions(judge, parse, harness)


def require_something_to_judge(asked: Mapping[str, object], conflicts: Mapping[str, str]) -> None:
    """Refuse an opinion on what the evaluation does not make.

    Args:
        asked: parameter → its value, false or empty where the opinion is not asked for.
        conflicts: parameter → why there would be nothing to look at, empty where there is something.

    Raises:
        ConfigError: one is asked for all the same.
    """
    for parameter, conflict in conflicts.items():
        if asked[parameter] and conflict:
            raise ConfigError(
                "A second opinion has nothing to go by.",
                where=f"parameter {parameter}",
                expected="an evaluation that makes what it looks at",
                found=conflict,
                next_step=f"leave {parameter} out, or change the other parameter",
            )


def add_opinions(
    opinions: Opinions, samples: Sequence[Sample], plan: Plan, limit: int, stage: StageRun
) -> dict[str, float]:
    """Log each opinion's figures and what they rest on as soon as it is there; returns the figures.

    `limit` is the harness's documents a task, 0 for all.

    Raises:
        BackendError: the judge stopped answering.
    """
    metrics: dict[str, float] = {}
    if opinions.parse:
        metrics |= _add_cross_check(opinions.parse, samples, plan, stage)
    if opinions.judge:
        metrics |= _add_judge(opinions.judge, samples, plan, stage)
    if opinions.harness:
        metrics |= _add_harness(opinions.harness, plan, limit, stage)
    return metrics


def _add_cross_check(
    parse: Parser, samples: Sequence[Sample], plan: Plan, stage: StageRun
) -> dict[str, float]:
    gold = plan.problems.gold if plan.problems else {}
    solved = [sample for sample in samples if sample.suite == AIME]
    disagreements = find_disagreements(solved, gold, parse)
    stage.log_text(to_lines(disagreements), DISAGREEMENTS)
    logger.info("eval: math-verify reads %d of %d answers differently", len(disagreements), len(solved))
    return _log(cross_check_metrics(disagreements), plan, stage)


def _add_judge(judge: Judge, samples: Sequence[Sample], plan: Plan, stage: StageRun) -> dict[str, float]:
    """The judge sees what `banal/trait/*` counts: everyday answers without any system prompt."""
    from skippy.evaluation.judging import judge_answers, judge_metrics

    plain = [s for s in samples if s.suite == BANAL and s.problem_id.startswith("plain/")]
    judgements = judge_answers(judge, plain, plan.character.traits)
    stage.log_table([asdict(judgement) for judgement in judgements], JUDGEMENTS)
    stage.set_tags({Tag.JUDGE: judge.model})
    return _log(judge_metrics(judgements), plan, stage)


def _add_harness(harness: Harness, plan: Plan, limit: int, stage: StageRun) -> dict[str, float]:
    from skippy.evaluation.harness import harness_metrics, run_harness

    device = plan.generator.device
    results = run_harness(harness, plan.subject.path, device=device, limit=limit, seed=plan.seed)
    stage.log_json(results, HARNESS_RESULTS)
    logger.info("eval: the harness ran %s", ", ".join(harness.tasks))
    return _log(harness_metrics(results), plan, stage)


def _log(metrics: dict[str, float], plan: Plan, stage: StageRun) -> dict[str, float]:
    stage.log_metrics(metrics, model_id=plan.subject.model_id)
    return metrics

"""eval: the suites on one model, every sample kept; killed at any moment, it goes on where it was."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from skippy.characters.loader import load_character
from skippy.characters.schema import Character
from skippy.commands import next_command
from skippy.config import EvalConfig, config_dict
from skippy.core.inference.power import achievable_margin, minimum_detectable_effect
from skippy.errors import ConfigError
from skippy.evaluation.asking import Plan, choose_sampling, generate, identify_work, rule_of
from skippy.evaluation.metrics import banal_metrics, family_rows, problem_metrics, problem_scores
from skippy.evaluation.opinions import Opinions, add_opinions, prepare_opinions
from skippy.evaluation.suites import (
    AIME,
    BANAL,
    banal_questions,
    choose_prompt_style,
    load_problem_set,
    problem_questions,
    rescore,
    suite_label,
)
from skippy.evaluation.walk import CHECKPOINTS, plan_walk, walk
from skippy.resolve.bases import Base, open_base
from skippy.resolve.runs import CHARACTER_DIGEST, MODEL_URI, SUBJECT, find_run
from skippy.resolve.subjects import Subject, find_subject
from skippy.resolve.workspaces import claim_workspace
from skippy.stores.samples import Sample, read_samples
from skippy.tracking.external_models import MODEL_DIGEST_TAG
from skippy.tracking.records import RunRecord
from skippy.tracking.runs import CONFIG_FILE
from skippy.tracking.stage_run import StageRun
from skippy.tracking.tracker import Tracker

logger = logging.getLogger(__name__)

MODEL = "model"
PROMPT_STYLE = "skippy.prompt_style"
SAMPLING_SEED = "skippy.sampling_seed"


@dataclass(frozen=True)
class EvalResult:
    """What the stage leaves behind: the run, and its metrics by name."""

    run_id: str
    metrics: Mapping[str, float]


def run(config: EvalConfig, tracker: Tracker) -> EvalResult:
    """Evaluate one model, or score the samples of an earlier evaluation again."""
    with tracker.stage(
        "eval",
        name=f"eval {config.model}",
        note=f"Evaluation of {config.model} on {config.suite}.",
        config=config_dict(config),
    ) as stage:
        is_walk = config.model == CHECKPOINTS
        opinions = prepare_opinions(config, of_one_model=not is_walk)
        regraded = find_run(tracker, "eval", config.regrade) if config.regrade else None
        if regraded:
            config = _as_recorded(config, regraded, tracker)
            stage.log_json(config_dict(config), CONFIG_FILE)
        character = load_character(config.character)
        base = open_base(config.base_model, tracker)
        if is_walk:
            plan = plan_walk(config, tracker, base, character)
            _describe(stage, config, base, plan)
            return EvalResult(stage.run_id, walk(plan, config, tracker, base, stage))
        subject = find_subject(config.model, config.base_model, base, tracker, character.digest)
        subject = _with_logged_model(subject, base, tracker)
        plan = _plan(config, base, subject, character)
        if regraded:
            plan = replace(plan, prompt_style=regraded.tags.get(PROMPT_STYLE, ""))
        _describe(stage, config, base, plan)
        if regraded:
            metrics = _conclude(_regrade(regraded, plan, tracker), plan, config, opinions, stage)
        else:
            metrics = _ask(plan, config, opinions, tracker, stage)
        logger.info("next: %s", next_command("compare", config, stage.manager))
        return EvalResult(stage.run_id, metrics)


def _ask(
    plan: Plan, config: EvalConfig, opinions: Opinions, tracker: Tracker, stage: StageRun
) -> dict[str, float]:
    """Generate what is missing and conclude; the unfinished work is given up only after that."""
    _announce(plan, config.margin)
    models = (plan.subject.digest[:16], plan.character.digest[:8])
    work = (plan.sampling.name, identify_work(plan, config))
    with claim_workspace(tracker, "eval", *models, *work) as folder:
        samples = generate(plan, config, folder / "samples.jsonl")
        metrics = _conclude(samples, plan, config, opinions, stage)
        shutil.rmtree(folder)
    return metrics


def _conclude(
    samples: Sequence[Sample], plan: Plan, config: EvalConfig, opinions: Opinions, stage: StageRun
) -> dict[str, float]:
    """Keep the samples, log our figures, then those of others."""
    for suite in (AIME, BANAL):
        _keep([sample for sample in samples if sample.suite == suite], suite, stage)
    return _account(samples, plan, stage) | add_opinions(opinions, samples, plan, config, stage)


def _plan(config: EvalConfig, base: Base, subject: Subject, character: Character) -> Plan:
    problems = (
        load_problem_set(config.problems, config.limit, config.answers) if config.suite != BANAL else None
    )
    style = choose_prompt_style(base.is_lab)
    questions = problem_questions(problems, style) if problems else []
    if config.suite != AIME:
        questions = questions + banal_questions(character)
    sampling = choose_sampling(config, base, questions)
    samples = config.samples if sampling.temperature > 0 else 1
    return Plan(subject, character, problems, questions, sampling, samples, style, config.seed)


def _with_logged_model(subject: Subject, base: Base, tracker: Tracker) -> Subject:
    """The subject with a logged model to show its figures under; the base's weights lie outside the store."""
    if subject.variant != "base":
        return subject
    stored = tracker.models.resolve(base.name).model_id if base.name.startswith("models:/") else None
    model_id = stored or tracker.models.external(f"base {base.public_name}", base.digest)
    return replace(subject, model_id=model_id)


def _describe(stage: StageRun, config: EvalConfig, base: Base, plan: Plan) -> None:
    subject = plan.subject
    stage.describe(
        name=f"eval {subject.label}",
        note=f"{subject.label} on {config.suite}: {len(plan.questions)} questions, {plan.samples} samples a problem, "
        f"preset {plan.sampling.name}.",
        variant=subject.variant,
        base_digest=base.digest,
        character=plan.character.name,
        links={"train": subject.train_run, "merge": subject.merge_run},
    )
    stage.set_tags(
        {
            MODEL_URI: subject.uri,
            MODEL_DIGEST_TAG: subject.digest,
            "skippy.seed": subject.seed,
            "skippy.suite": config.suite,
            SUBJECT: CHECKPOINTS if config.model == CHECKPOINTS else MODEL,
            "skippy.sampling": plan.sampling.name,
            "skippy.samples": str(plan.samples),
            "skippy.max_tokens": str(plan.sampling.max_tokens),
            SAMPLING_SEED: str(plan.seed),
            PROMPT_STYLE: plan.prompt_style,
            "skippy.problems": config.problems,
            "skippy.problems_digest": plan.problems.digest if plan.problems else "",
            CHARACTER_DIGEST: plan.character.digest,
            "skippy.backend": config.backend,
        }
    )


def _announce(plan: Plan, margin: float) -> None:
    """Say before anything is generated what this n × k can show."""
    if plan.problems is None:
        return
    n = len(plan.problems.problems)
    logger.info("eval: %s, %d problems × %d samples", suite_label(plan.problems), n, plan.samples)
    if plan.problems.duplicates:
        logger.info("eval: %d duplicate problems dropped", plan.problems.duplicates)
    if plan.problems.replaced:
        logger.warning("eval: %d half surrogate pairs in the problems became U+FFFD", plan.problems.replaced)
    if n < 2:
        logger.warning("eval: a single problem decides nothing")
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


def _as_recorded(config: EvalConfig, record: RunRecord, tracker: Tracker) -> EvalConfig:
    """The parameters under which the samples of `record` were made; who is asked and who judges are today's.

    Raises:
        ConfigError: the samples are of many models.
    """
    if CHECKPOINTS in (config.model, record.tags.get(SUBJECT)):
        raise ConfigError(
            "A walk over checkpoints cannot be regraded.",
            where=f"regrade={record.run_id}, model={config.model}",
            expected="an evaluation of one model, and that model",
            found=f"{record.name} ({record.tags.get(SUBJECT, MODEL)})",
            next_step="pass the run id of an evaluation of one model, or walk again with -P model=checkpoints",
        )
    then = tracker.runs.config(record.run_id)
    return replace(
        config,
        suite=record.tags["skippy.suite"],
        problems=record.tags["skippy.problems"],
        answers=str(then.get("answers", "auto")),
        limit=int(then["limit"]),
        samples=int(then["samples"]),
        sampling=record.tags["skippy.sampling"],
        backend=record.tags["skippy.backend"],
        # Not the parameter of then: before there was this tag, a seed named the work and drew nothing.
        seed=int(record.tags.get(SAMPLING_SEED, "0")),
    )


def _regrade(record: RunRecord, plan: Plan, tracker: Tracker) -> list[Sample]:
    """The samples of an earlier evaluation, scored by today's rules and gold; no model is loaded.

    Raises:
        ConfigError: they are another model's, or answer questions that are no longer asked.
    """
    where = f"regrade={record.run_id}"
    digest = record.tags.get(MODEL_DIGEST_TAG, "unknown")
    if digest != plan.subject.digest:
        raise ConfigError(
            "The evaluation to regrade is of another model.",
            where=where,
            expected=f"an evaluation of {plan.subject.label} ({plan.subject.digest[:16]}…)",
            found=f"{record.name} ({digest[:16]}…)",
            next_step="pass the same model as that run, or another run",
        )
    paths = tracker.artifacts.files(record.run_id, "samples")
    samples = [
        sample for path in paths for sample in read_samples(tracker.artifacts.path(record.run_id, path))
    ]
    gold = {question.hash: question.gold for question in plan.questions}
    lost = {sample.problem_id for sample in samples if sample.problem_hash not in gold}
    if lost:
        today = plan.problems.digest if plan.problems else "no problems"
        raise ConfigError(
            "Samples to regrade answer questions that are no longer asked.",
            where=where,
            expected=f"problems with digest {record.tags.get('skippy.problems_digest') or 'unknown'}, "
            f"everyday prompts as of {record.name}",
            found=f"digest {today}; {len(lost)} questions are missing, {min(lost)} among them",
            next_step="restore the problem source and the character's prompts of that run",
        )
    return list(rescore(samples, gold, plan.character.rules, rule_of(plan)))


def _keep(samples: Sequence[Sample], name: str, stage: StageRun) -> None:
    if samples:
        stage.log_text("".join(sample.to_line() for sample in samples), f"samples/{name}.jsonl")


def _account(samples: Sequence[Sample], plan: Plan, stage: StageRun) -> dict[str, float]:
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
            "eval: %s solves %.1f %% ± %.1f of %s", plan.subject.label, 100 * found["aime/avg_at_k"],
            196 * found["aime/standard_error"], suite_label(plan.problems),
        )  # fmt: skip
    chatted = [sample for sample in samples if sample.suite == BANAL]
    if chatted:
        found = banal_metrics(chatted, plan.character)
        dataset = stage.log_dataset(
            f"banal ({plan.character.name})", plan.character.digest, "banal", "evaluation"
        )
        stage.log_metrics(found, model_id=model_id, dataset=dataset)
        metrics |= found
        logger.info(
            "eval: %s has persona %.2f, coherence %.2f on everyday prompts", plan.subject.label,
            found["banal/score"], found["banal/coherence"],
        )  # fmt: skip
    return metrics

"""eval: the suites on one model, every sample kept; killed at any moment, it goes on where it was."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any

from skippy.characters.loader import load_character
from skippy.characters.own_prompts import OF_CHARACTER, own_prompts
from skippy.characters.schema import Character
from skippy.commands import next_command
from skippy.config import EvalConfig, config_dict
from skippy.errors import ConfigError, SamplesError
from skippy.evaluation.asking import Plan, choose_sampling, generate, identify_asking
from skippy.evaluation.generator import VLLM, Generator
from skippy.evaluation.metrics import FRONTIER
from skippy.evaluation.opinions import (
    Opinions,
    add_opinions,
    open_opinions,
    require_something_to_judge,
)
from skippy.evaluation.regrading import regrade
from skippy.evaluation.suites import (
    AIME,
    BANAL,
    banal_questions,
    format_questions,
    load_problem_set,
    problem_questions,
    under_prompt,
)
from skippy.evaluation.walk_plan import plan_walk, require_all_checkpoints, require_own
from skippy.resolve.bases import Base, open_base
from skippy.resolve.code import EVALUATION, EVALUATION_CODE, code_digest
from skippy.resolve.devices import pick_device, require_device
from skippy.resolve.files import CHECKPOINTS
from skippy.resolve.runs import find_run
from skippy.resolve.subjects import Subject, find_subject
from skippy.resolve.work import find_equal_run, take_over, work_digest
from skippy.resolve.workspaces import claim_workspace, discard_workspace
from skippy.stores.samples import Sample, read_samples
from skippy.tracking.records import RunRecord
from skippy.tracking.stage_run import StageRun
from skippy.tracking.tags import Tag
from skippy.tracking.tracker import Tracker
from skippy.words import counted

logger = logging.getLogger(__name__)

MODEL = "model"
PROMPT_STYLE = Tag.PROMPT_STYLE
SAMPLING_SEED = Tag.SAMPLING_SEED


@dataclass(frozen=True)
class EvalResult:
    """What the stage leaves behind: the run, and its metrics by name."""

    run_id: str
    metrics: Mapping[str, float]


@dataclass(frozen=True)
class EvalPlan:
    """What is asked of whom, found or refused before a run is opened."""

    config: EvalConfig  # parameters in force: those of then, where samples are scored again
    base: Base  # what the model was made from
    asked: Plan  # questions, model and sampling
    opinions: Opinions  # of others, opened
    prompts_digest: str = OF_CHARACTER  # of the person's own prompts; `character` without
    # those of an earlier evaluation, scored anew; None: they are to be generated
    samples: tuple[Sample, ...] | None = None
    finished: RunRecord | None = None  # an earlier evaluation of the same, if it is to be taken

    @property
    def work(self) -> str:
        """All that decides the samples and the figures of one model, or of the checkpoints of one training."""
        asked, config = self.asked, self.config
        who = (asked.subject.uri if self.is_walk else "", asked.subject.train_run, asked.subject.digest)
        others = (config.judge_url, config.judge_model, config.cross_check, config.lm_eval, config.limit)
        how = (asked.samples, asked.problems.digest if asked.problems else "", config.suite, config.margin)
        code = code_digest(EVALUATION)
        # Figures are held against the base: how far an answer is from it.
        whose = (self.base.digest, asked.character.digest)
        return work_digest(code, identify_asking(asked), *who, *whose, *others, *how)

    @property
    def is_walk(self) -> bool:
        """Whether every checkpoint of a training is asked."""
        return self.asked.subject.uri == CHECKPOINTS


def run(config: EvalConfig, tracker: Tracker) -> EvalResult:
    """Evaluate one model, or score the samples of an earlier evaluation again."""
    plan = resolve(config, tracker)
    if config.reuse and plan.samples is None:
        plan = replace(plan, finished=_finished(plan, tracker))
    subject, sampling = plan.asked.subject, plan.asked.sampling
    with tracker.stage(
        "eval",
        name=name_of(plan),
        note=f"{subject.label} on {plan.config.suite}: {counted(len(plan.asked.questions), 'question')}, "
        f"{counted(plan.asked.samples, 'sample')} a problem, preset {sampling.name}.",
        variant=subject.variant,
        base_digest=plan.base.digest,
        character=plan.asked.character.name,
        links={"train": subject.train_run, "merge": subject.merge_run},
        config=config_dict(plan.config),
    ) as stage:
        stage.set_tags(_tags(plan))
        if plan.finished:
            take_over(plan.finished, stage, tracker)
            return EvalResult(plan.finished.run_id, plan.finished.metrics)
        plan = _on_device(plan)
        if plan.is_walk:
            from skippy.evaluation.walk import walk

            return EvalResult(stage.run_id, walk(plan.asked, plan.base, tracker, stage))
        asked = _with_logged_model(plan.asked, plan.base, tracker)
        if plan.samples is not None:
            metrics = record(plan.samples, asked, plan, stage)
        else:
            metrics = _ask(asked, plan, tracker, stage)
        stage.say_next(next_command("compare", config, stage.manager))
        return EvalResult(stage.run_id, metrics)


def _on_device(plan: EvalPlan) -> EvalPlan:
    """With the device chosen; until here nobody asked torch."""
    generator = replace(plan.asked.generator, device=str(pick_device(plan.asked.generator.device)))
    return replace(plan, asked=replace(plan.asked, generator=generator))


def name_of(plan: EvalPlan) -> str:
    """What tells this evaluation from others, also of the same model: problems, limit, samples, sampling, seed."""
    asked, config = plan.asked, plan.config
    words = "everyday prompts alone"
    if asked.problems:
        count = len(asked.problems.problems)
        of = f"{count} of {config.problems}" if config.limit else f"{config.problems} {count}"
        words = f"{of} × {asked.samples}"
    seed = f" · seed {asked.seed}" if asked.seed else ""
    return f"eval {asked.subject.label} · {words} · {asked.sampling.name}{seed}"


def resolve(config: EvalConfig, tracker: Tracker) -> EvalPlan:
    """Find the model and everything it is asked with; open the opinions asked for.

    Raises:
        SkippyError: something is missing, does not fit, or contradicts something else.
    """
    is_walk = config.model == CHECKPOINTS
    if is_walk:
        require_own(config.backend)
    elif config.train_run:
        raise ConfigError(
            "A training is named, and none of its checkpoints is asked.",
            where="train_run",
            expected=f"train_run with model={CHECKPOINTS} alone",
            found=f"model={config.model}, train_run={config.train_run}",
            next_step=f"pass model={CHECKPOINTS}, or leave train_run out",
        )
    _require_engine(config)
    opinions = _open_opinions(config, is_walk=is_walk)
    regraded = find_run(tracker, "eval", config.regrade) if config.regrade else None
    if regraded:
        config = _as_recorded(config, regraded, tracker)
    character, prompts_digest = own_prompts(load_character(config.character), config.prompts)
    base = open_base(config.base_model, tracker, config.profile)
    generator = Generator(
        config.backend,
        require_device(config.device),
        config.base_url,
        config.served_model,
        config.concurrency,
        config.gpus,
        config.engine_options,
        tracker.store.root / ".skippy" / "engine",
        _noise(config, regraded),
    )
    if is_walk:
        own: dict[str, str] = {Tag.CHARACTER_DIGEST: character.digest}
        train = find_run(tracker, "train", config.train_run, base=base, extra_tags=own)
        require_all_checkpoints(train, tracker)
        asked = plan_walk(
            *(train, base, character), problems=config.problems, answers=config.answers,
            limit=config.limit, sampling=config.sampling,
            seed=config.seed, generator=generator,
        )  # fmt: skip
        return EvalPlan(config, base, asked, opinions, prompts_digest)
    subject = find_subject(config.model, config.base_model, base, tracker, character.digest)
    if subject.system and config.lm_eval:
        logger.warning("eval: lm_eval asks weights, and %s has none of its own: left out", subject.label)
        config, opinions = replace(config, lm_eval=""), replace(opinions, harness=None)
    asked = _plan(config, base, subject, character, generator)
    if not regraded:
        return EvalPlan(config, base, asked, opinions, prompts_digest)
    then = replace(asked.subject, reading=regraded.tags.get(Tag.READING, ""))
    asked = replace(asked, subject=then, prompt_style=regraded.tags.get(PROMPT_STYLE, ""))
    return EvalPlan(config, base, asked, opinions, prompts_digest, tuple(regrade(regraded, asked, tracker)))


def _require_engine(config: EvalConfig) -> None:
    """Refuse what only an engine of our own reads, and the engine itself where it is not installed.

    Raises:
        ConfigError: `gpus` or `engine_options` are given to a server of others, or vLLM is not here.
    """
    is_own = _is_own(config)
    idle = {"gpus": config.gpus != 1, "engine_options": bool(config.engine_options)}
    if not is_own and any(idle.values()):
        raise ConfigError(
            "Nobody reads this parameter: no engine is started here.",
            where=", ".join(name for name, is_given in idle.items() if is_given),
            expected=f"backend={VLLM} without base_url",
            found=f"backend={config.backend}, base_url={config.base_url!r}",
            next_step="leave it out, or give it to the server where that is started",
        )
    if is_own and not config.regrade:
        from skippy.models.vllm_server import require_vllm

        require_vllm()


def _is_own(config: EvalConfig) -> bool:
    """Whether an engine is started here."""
    return config.backend == VLLM and not config.base_url


def _noise(config: EvalConfig, regraded: RunRecord | None) -> str:
    """What draws the tokens of an engine of our own, or drew those that are scored again."""
    if regraded:
        return regraded.tags[Tag.BACKEND].partition(" ")[2]
    if not _is_own(config):
        return ""
    from skippy.models.vllm_server import choose_noise

    return choose_noise()


def _finished(plan: EvalPlan, tracker: Tracker) -> RunRecord | None:
    """An earlier evaluation of the same whose samples can still be read."""
    folder = FRONTIER.split("/")[0] if plan.is_walk else "samples"

    def check(found: RunRecord) -> None:
        paths = tracker.artifacts.files(found.run_id, folder)
        if not paths:
            raise SamplesError("The samples of an evaluation are gone.", where=f"eval run {found.run_id}")
        for path in paths:
            deque(read_samples(tracker.artifacts.path(found.run_id, path)), maxlen=0)

    return find_equal_run(tracker, "eval", plan.work, check)


def _open_opinions(config: EvalConfig, *, is_walk: bool) -> Opinions:
    many = "model=checkpoints is many models" if is_walk else ""
    conflicts = {
        "judge_url": many or ("suite=aime has no everyday answers" if config.suite == AIME else ""),
        "cross_check": many or _unchecked(config),
        "lm_eval": many or (f"regrade={config.regrade} loads no model" if config.regrade else ""),
    }
    require_something_to_judge({name: getattr(config, name) for name in conflicts}, conflicts)
    return open_opinions(
        judge_url=config.judge_url,
        judge_model=config.judge_model,
        cross_check=config.cross_check,
        lm_eval=config.lm_eval,
    )


def _unchecked(config: EvalConfig) -> str:
    """Why math-verify's reading could not stand beside ours."""
    if config.suite == BANAL:
        return "suite=banal has no problems"
    return "" if config.answers == "auto" else f"answers={config.answers}: both read integers 0–999"


def _ask(asked: Plan, plan: EvalPlan, tracker: Tracker, stage: StageRun) -> dict[str, float]:
    """Generate what is missing and record it; the unfinished work is given up only after that."""
    from skippy.evaluation.account import announce
    from skippy.evaluation.divergence import kl_to_base

    announce(asked, plan.config.margin)
    models = (asked.subject.digest[:16], asked.character.digest[:8])
    with claim_workspace(tracker, "eval", *models, asked.sampling.name, identify_asking(asked)) as folder:
        samples = generate(asked, folder / "samples.jsonl")
        moved = kl_to_base(samples, asked, plan.base)
        if moved:
            stage.log_metrics(moved, model_id=asked.subject.model_id)
        metrics = record(samples, asked, plan, stage) | moved
        stage.when_finished(partial(discard_workspace, folder))
    return metrics


def record(samples: Sequence[Sample], asked: Plan, plan: EvalPlan, stage: StageRun) -> dict[str, float]:
    """Keep the samples, log our figures, then those of others."""
    from skippy.evaluation.account import account, keep

    keep(samples, stage)
    ours = account(samples, asked, stage, _banal_digest(plan))
    return ours | add_opinions(plan.opinions, samples, asked, plan.config.limit, stage)


def _plan(
    config: EvalConfig, base: Base, subject: Subject, character: Character, generator: Generator
) -> Plan:
    problems = (
        load_problem_set(config.problems, config.limit, config.answers) if config.suite != BANAL else None
    )
    style = base.profile.prompt_style
    questions = problem_questions(problems, style) if problems else []
    if config.suite != AIME:
        questions = questions + banal_questions(character) + format_questions(character)
    questions = under_prompt(questions, subject.system)
    sampling = choose_sampling(config.sampling, base, questions)
    samples = config.samples if sampling.temperature > 0 else 1
    return Plan(subject, character, problems, questions, sampling, samples, style, config.seed, generator)


def _with_logged_model(asked: Plan, base: Base, tracker: Tracker) -> Plan:
    """With a logged model to show the base's figures under; its weights lie outside the store."""
    if asked.subject.variant != "base":
        return asked
    stored = tracker.models.resolve(base.name).model_id if base.name.startswith("models:/") else None
    model_id = stored or tracker.models.external(f"base {base.public_name}", base.digest)
    return replace(asked, subject=replace(asked.subject, model_id=model_id))


def _banal_digest(plan: EvalPlan) -> str:
    own = plan.prompts_digest
    return plan.asked.character.digest if own == OF_CHARACTER else own


def _tags(plan: EvalPlan) -> dict[str, str]:
    asked, config = plan.asked, plan.config
    return {
        Tag.MODEL_URI: asked.subject.uri,
        Tag.MODEL_DIGEST: asked.subject.digest,
        Tag.READING: asked.subject.reading,
        Tag.SEED: asked.subject.seed,
        Tag.PROMPTS_DIGEST: plan.prompts_digest,
        Tag.SUITE: config.suite,
        Tag.SUBJECT: CHECKPOINTS if plan.is_walk else MODEL,
        Tag.SAMPLING: asked.sampling.name,
        Tag.SAMPLES: str(asked.samples),
        Tag.MAX_TOKENS: str(asked.sampling.max_tokens),
        SAMPLING_SEED: str(asked.seed),
        PROMPT_STYLE: asked.prompt_style,
        Tag.PROBLEMS: config.problems,
        Tag.PROBLEMS_DIGEST: asked.problems.digest if asked.problems else "",
        Tag.CHARACTER_DIGEST: asked.character.digest,
        Tag.BACKEND: asked.generator.name,
        Tag.WORK: plan.work,
        EVALUATION_CODE: code_digest(EVALUATION),
    }


def _as_recorded(config: EvalConfig, record: RunRecord, tracker: Tracker) -> EvalConfig:
    """The parameters under which the samples of `record` were made; who is asked and who judges are today's.

    Raises:
        ConfigError: the samples are of many models, or made with other parameters than the person names.
    """
    if CHECKPOINTS in (config.model, record.tags.get(Tag.SUBJECT)):
        raise ConfigError(
            "A walk over checkpoints cannot be regraded.",
            where=f"regrade={record.run_id}, model={config.model}",
            expected="an evaluation of one model, and that model",
            found=f"{record.name} ({record.tags.get(Tag.SUBJECT, MODEL)})",
            next_step="pass the run id of an evaluation of one model, or walk again with -P model=checkpoints",
        )
    then = tracker.runs.config(record.run_id)
    recorded: dict[str, Any] = dict(
        suite=record.tags[Tag.SUITE],
        problems=record.tags[Tag.PROBLEMS],
        answers=str(then.get("answers", "auto")),
        limit=int(then["limit"]),
        samples=int(then["samples"]),
        sampling=record.tags[Tag.SAMPLING],
        backend=record.tags[Tag.BACKEND].partition(" ")[0],
        prompts=str(then.get("prompts", "")),
        # Not the parameter of then: before there was this tag, a seed named the work and drew nothing.
        seed=int(record.tags.get(SAMPLING_SEED, "0")),
    )
    wrong = {
        item.name: getattr(config, item.name)
        for item in fields(EvalConfig)
        if item.name in recorded and getattr(config, item.name) not in (item.default, recorded[item.name])
    }
    if wrong:
        raise ConfigError(
            "Samples are scored again under the parameters they were made with.",
            where=f"regrade={record.run_id}",
            expected=", ".join(f"{name}={recorded[name]}" for name in wrong),
            found=", ".join(f"{name}={value}" for name, value in wrong.items()),
            next_step=f"leave {', '.join(wrong)} out, or evaluate anew without regrade",
        )
    return replace(config, **recorded)

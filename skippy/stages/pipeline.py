"""main: the whole experiment as child runs of one parent.

The plan is a list of jobs; each names the jobs whose runs it is given. Whatever has what it needs runs, side
by side where the machine allows, each as a real `mlflow run` of its own entry point.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from skippy.config import MainConfig, config_dict
from skippy.core.variants import VARIANTS, is_untrained, parse_arms
from skippy.models.profiles import ModelProfile
from skippy.options import value_text
from skippy.progress import LINES_VARIABLE, Progress
from skippy.resolve.bases import find_profile
from skippy.resolve.threads import THREADS_VARIABLE, share_of_cores
from skippy.tracking.processes import StageProcess
from skippy.tracking.stage_run import StageRun
from skippy.tracking.tags import Tag
from skippy.tracking.tracker import Tracker

logger = logging.getLogger(__name__)

POLL_SECONDS = 0.1
VLLM = "vllm"


@dataclass(frozen=True)
class Job:
    """One stage to run."""

    label: str  # how other jobs refer to it, unique in the plan
    entry_point: str  # name in MLproject
    parameters: Mapping[str, str]  # what it is given, besides hand-overs
    # parameter → labels of the jobs whose run ids it is given, comma-separated
    takes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def needs(self) -> frozenset[str]:
        """Labels of the jobs that must have finished."""
        return frozenset(label for labels in self.takes.values() for label in labels)


@dataclass(frozen=True)
class PipelineResult:
    """Run ids by job label, and what became of the champion."""

    run_id: str
    runs: Mapping[str, str]


@dataclass(frozen=True)
class MainPlan:
    """What is run, found or refused before a run is opened."""

    jobs: Sequence[Job]  # every child run, in the order a reader would tell them
    arms: str  # the variants, as people call them
    parallel: int  # jobs at a time
    profile: ModelProfile  # of the base


def run(config: MainConfig, tracker: Tracker) -> PipelineResult:
    """Run every job of the plan under one parent run."""
    plan = resolve(config, tracker)
    with tracker.stage(
        "main",
        name=f"{config.character} on {config.base_model}",
        note=f"The whole experiment: {config.character} trained into {config.base_model} as {plan.arms}, "
        f"{config.seeds} seed(s), evaluated, compared, and the winner promoted.",
        character=config.character,
        config=config_dict(config),
    ) as stage:
        _share_machine(plan.parallel, plan.profile)
        runs = _execute(plan.jobs, stage, tracker, plan.parallel)
        record(plan, runs, tracker, stage)
    return PipelineResult(stage.run_id, runs)


def resolve(config: MainConfig, tracker: Tracker) -> MainPlan:
    """The base's profile, the arms and the jobs.

    Raises:
        SkippyError: the base or an arm is unknown.
    """
    profile = find_profile(config.base_model, tracker, config.profile)
    labels = ", ".join(VARIANTS[arm].label for arm in arms_of(config))
    # Each engine of our own takes a whole GPU.
    usual = 1 if _starts_engines(config) else profile.parallel
    return MainPlan(plan_jobs(config), labels, config.parallel or usual, profile)


def record(plan: MainPlan, runs: Mapping[str, str], tracker: Tracker, stage: StageRun) -> None:
    """Link the children, keep what the comparison found, and say it."""
    stage.describe(links=runs_by_stage(plan.jobs, runs))
    stage.log_json(runs, "runs.json")
    compare = tracker.runs.get(runs["compare"])
    promotion = tracker.runs.get(runs["promote"])
    stage.log_metrics({name: value for name, value in compare.metrics.items() if name.startswith("compare/")})
    logger.info("main: %s", compare.tags.get(Tag.VERDICT, ""))
    logger.info("main: %s", promotion.tags.get(Tag.PROMOTION, ""))
    logger.info("report: %s", tracker.artifacts.path(runs["compare"], "report/index.html"))
    logger.info("next: make ui, then open %s", tracker.store.page)


def plan_jobs(config: MainConfig) -> list[Job]:
    """The jobs of the experiment, in the order a reader would tell them."""
    base = {"base_model": config.base_model}
    character = {**base, "character": config.character}
    spoken = {**character, "profile": config.profile}
    registered = {"registered_model": config.registered_model}
    margin = {"margin": str(config.margin)}
    own = {"prompts": config.prompts}
    knobs = {name: value_text(value) for name, value in config.turned().items()}
    trained = {
        **(spoken | own), "k": config.k, "preset": config.preset, "steps": str(config.steps),
        "settings": config.settings, "rewards": config.rewards, **knobs,
    }  # fmt: skip
    asked = {
        **(spoken | own | margin), "suite": config.suite, "problems": config.problems,
        "answers": config.answers,
        "samples": str(config.samples), "sampling": config.sampling,
    }  # fmt: skip
    engine = {"backend": config.backend, "gpus": str(config.gpus), "engine_options": config.engine_options}
    # A walk asks models that no server of others has, a smaller set, and nobody for a second opinion.
    walker = engine if _starts_engines(config) else {"backend": "transformers"}
    walked = {**asked, "model": "checkpoints", **walker}
    asked |= {
        "limit": str(config.limit), **engine, "base_url": config.base_url,
        "concurrency": str(config.concurrency), "judge_url": config.judge_url, "judge_model": config.judge_model,
        "cross_check": str(config.cross_check).lower(), "lm_eval": config.lm_eval,
    }  # fmt: skip
    asked_for = arms_of(config)
    arms = tuple(arm for arm in asked_for if not is_untrained(arm))
    reuse = {"reuse": str(config.reuse).lower()}
    trained, asked, walked = ({**each, **reuse} for each in (trained, asked, walked))
    matched = {"match_by": config.match_by, **own} if config.match_by != "steps" and len(arms) > 1 else {}
    seeds = [str(seed) for seed in range(config.seed, config.seed + config.seeds)]
    reads_answers = any(VARIANTS[arm].reads_answers for arm in arms)
    protects = {arm: VARIANTS[arm].own_basis for arm in arms}
    bases = [basis for basis in dict.fromkeys(protects.values()) if basis]
    jobs = [
        Job("svd", "svd", {**base, "k": config.k}),
        *(Job(f"svd {basis}", "svd", {**base, "k": config.k, "basis": basis}) for basis in bases),
        Job("subspace", "subspace", spoken | {"base_answers": str(reads_answers).lower()}),
        Job("eval base", "eval", {**asked, "model": "base"}),
    ]
    for seed in seeds:
        walks = tuple(f"checkpoints {arm} seed {seed}" for arm in arms)
        for arm, walk in zip(arms, walks, strict=True):
            train, merge = f"train {arm} seed {seed}", f"merge {arm} seed {seed}"
            given = {"svd_run": ("svd",), "subspace_run": ("subspace",)}
            given |= {"basis_run": (f"svd {protects[arm]}",)} if protects[arm] else {}
            jobs += [
                Job(train, "train", {**trained, "variant": arm, "seed": seed}, given),
                Job(walk, "eval", walked, {"train_run": (train,)}),
                Job(
                    merge,
                    "merge",
                    {**character, **registered, **reuse, **matched, "variant": arm},
                    {"train_run": (train,), **({"match": walks} if len(arms) > 1 else {})},
                ),
                Job(f"eval {arm} seed {seed}", "eval", asked, {"model": (merge,)}),
            ]
    untrained = tuple(arm for arm in asked_for if is_untrained(arm))
    for arm in untrained:
        jobs += [
            Job(f"merge {arm}", "merge", {**character, **registered, **reuse, "variant": arm}),
            Job(f"eval {arm}", "eval", asked, {"model": (f"merge {arm}",)}),
        ]
    evaluated = (
        "eval base",
        *(f"eval {arm} seed {seed}" for arm in arms for seed in seeds),
        *(f"eval {arm}" for arm in untrained),
    )
    jobs += [
        Job(
            "compare",
            "compare",
            {**character, **registered, **margin},
            {"runs": evaluated},
        ),
        Job(
            "promote", "promote", {**base, **registered, "unresolved": "leave"}, {"compare_run": ("compare",)}
        ),
    ]
    return jobs


def _starts_engines(config: MainConfig) -> bool:
    return config.backend == VLLM and not config.base_url


def arms_of(config: MainConfig) -> tuple[str, ...]:
    """The variants to train, in the order given.

    Raises:
        ConfigError: one is unknown, or there is none.
    """
    return parse_arms(config.arms)


def runs_by_stage(jobs: Sequence[Job], runs: Mapping[str, str]) -> dict[str, str]:
    """Links of the parent: stage (and variant) → run ids, comma-separated."""
    links: dict[str, list[str]] = {}
    for job in jobs:
        words = job.label.split(" seed ")[0].replace(" ", "_")
        links.setdefault(words, []).append(runs[job.label])
    return {label: ",".join(ids) for label, ids in links.items()}


def _execute(jobs: Sequence[Job], stage: StageRun, tracker: Tracker, parallel: int) -> dict[str, str]:
    """Start what has what it needs, `parallel` at a time; the first failure stops the others."""
    waiting = list(jobs)
    runs: dict[str, str] = {}
    running: dict[StageProcess, Job] = {}
    try:
        with Progress("main", len(jobs)) as bar:
            while waiting or running:
                for job in [job for job in waiting if job.needs <= runs.keys()][: parallel - len(running)]:
                    waiting.remove(job)
                    running[_start(job, runs, stage, tracker)] = job
                time.sleep(POLL_SECONDS)
                for process in [process for process in running if process.poll()]:
                    job = running.pop(process)
                    runs[job.label] = process.wait()
                    bar.advance(1, finished=job.label)
    finally:
        for process in running:
            process.stop()
    return {job.label: runs[job.label] for job in jobs}


def _start(job: Job, runs: Mapping[str, str], stage: StageRun, tracker: Tracker) -> StageProcess:
    handed = {name: ",".join(runs[label] for label in labels) for name, labels in job.takes.items()}
    logger.info("main: %s", job.label)
    return tracker.processes.start(job.entry_point, {**job.parameters, **handed}, parent_run_id=stage.run_id)


def _share_machine(parallel: int, profile: ModelProfile) -> None:
    """Give every child its share of the cores, and lines instead of bars where two would draw at once."""
    os.environ.setdefault(THREADS_VARIABLE, str(share_of_cores(parallel)))
    if profile.is_for_cpu:
        os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
    if parallel > 1:
        os.environ[LINES_VARIABLE] = "1"

"""The walk over every checkpoint of one training: what one is chosen by, and the frontier of the report.

Not a stage: `evaluate` walks when its model is `checkpoints`.
"""

from __future__ import annotations

import logging
import shutil
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from skippy.characters.schema import Character
from skippy.config import EvalConfig
from skippy.models.generation import TransformersBackend
from skippy.models.loading import attach_adapter, load_model, load_tokenizer
from skippy.stages.evidence import persona_by_step
from skippy.stages.inputs import CHARACTER_DIGEST, Base, Subject, claim_workspace, find_run, pick_device
from skippy.stages.interview import Plan, choose_sampling, fill, identify_work, read_finished
from skippy.stages.suites import (
    banal_questions,
    choose_prompt_style,
    load_problem_set,
    problem_questions,
    requests_for,
)
from skippy.stores.samples import SampleStore
from skippy.tracking.runs import Tracker
from skippy.tracking.stage_run import StageRun

logger = logging.getLogger(__name__)

CHECKPOINTS = "checkpoints"
FRONTIER = "samples/frontier.jsonl"
FRONTIER_PROBLEMS = 60
# Seeds of its own: a checkpoint chosen for lucky samples must not be tested on those very samples.
PURPOSE = "walk"


def plan_walk(config: EvalConfig, tracker: Tracker, base: Base, character: Character) -> Plan:
    """One sample a problem, on a smaller set, and everyday prompts as they come."""
    own = {CHARACTER_DIGEST: character.digest}
    train = find_run(tracker, "train", config.train_run, base_digest=base.digest, extra_tags=own)
    subject = Subject(f"checkpoints of {train.name}", train.variant, base.path, base.digest, CHECKPOINTS,
                      seed=train.tags.get("skippy.seed", ""), train_run=train.run_id)  # fmt: skip
    problems = load_problem_set(config.problems, config.limit or FRONTIER_PROBLEMS)
    style = choose_prompt_style(base.is_lab)
    questions = [*problem_questions(problems, style), *banal_questions(character, ("plain",))]
    return Plan(subject, character, problems, questions, choose_sampling(config, base), 1, style)


def walk(plan: Plan, config: EvalConfig, tracker: Tracker, base: Base, stage: StageRun) -> dict[str, float]:
    """Ask every checkpoint, keep the samples, log persona by step; returns the figures by step."""
    identity = (plan.character.digest[:8], plan.sampling.name, identify_work(plan, config))
    with claim_workspace(tracker, PURPOSE, plan.subject.train_run, *identity) as folder:
        path = folder / "samples.jsonl"
        _ask_checkpoints(path, plan, config, tracker, base)
        samples = sorted(read_finished(path, plan), key=lambda sample: (sample.suite, sample.problem_id))
        stage.log_text("".join(sample.to_line() for sample in samples), FRONTIER)
        shutil.rmtree(folder)
    personas = persona_by_step(samples)
    for step, persona in personas.items():
        stage.log_metrics({"frontier/persona": persona}, step=step)
    logger.info(
        "eval: persona by step: %s", ", ".join(f"{step}: {value:.2f}" for step, value in personas.items())
    )
    return {f"frontier/persona/{step}": value for step, value in personas.items()}


def _ask_checkpoints(path: Path, plan: Plan, config: EvalConfig, tracker: Tracker, base: Base) -> None:
    """Fill the file at `path`, one checkpoint after another; those already there are not loaded."""
    train_run, variant = plan.subject.train_run, plan.subject.variant
    adapters = sorted({name.split("/")[1] for name in tracker.list_artifacts(train_run, "adapters")})
    tokenizer = load_tokenizer(base.path)
    with closing(SampleStore(path)) as store:
        for name in adapters:
            digest = f"{base.digest}@{int(name.removeprefix('step_'))}"
            finished = [sample for sample in read_finished(path, plan) if sample.model_digest == digest]
            wanted = requests_for(plan.questions, 1, plan.sampling, digest, store.finished(), PURPOSE)
            if wanted:
                model = load_model(base.path, device=str(pick_device(config.device)))
                adapter = tracker.artifact(train_run, f"adapters/{name}")
                merged = attach_adapter(model, adapter).merge_and_unload()
                named = replace(plan, subject=replace(plan.subject, label=f"{variant} {name}"))
                fill(store, wanted, named, digest, TransformersBackend(merged, tokenizer), finished)

"""What every cell of a study shares: base, character, projectors, questions and sampling, found or refused once.

The study's dependence on `resolve`, `evaluation` and `training` is here and in `training` and `playback` beside it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from skippy.characters.loader import load_character
from skippy.characters.schema import Character
from skippy.core.inference.cells import TrainingDose
from skippy.core.sampling import PRESETS as SAMPLINGS
from skippy.core.sampling import Sampling
from skippy.evaluation.suites import (
    Question,
    banal_questions,
    load_problem_set,
    problem_questions,
)
from skippy.models.loading import load_tokenizer
from skippy.models.prompts import prompt_ids
from skippy.presets.reading import PRESETS
from skippy.presets.settings import GrpoSettings
from skippy.resolve.bases import Base, open_base
from skippy.resolve.projectors import load_projectors
from skippy.resolve.runs import find_run
from skippy.stores.problems import ProblemSet
from skippy.stores.projector_files import ProjectorSet
from skippy.studies.plan import StudyPlan
from skippy.tracking.tags import Tag
from skippy.tracking.tracker import Tracker

PURPOSE = "study"
"""Sampling seeds of a study are its own: no answer is shared with an evaluation."""


@dataclass(frozen=True, eq=False)
class StudyInputs:
    """Everything a cell needs besides its arm, dose and seed.

    Attributes:
        plan: as read.
        base: the base model.
        character: whose rules score everyday answers.
        svd_run: run whose projectors are protected, and against which leakage is measured.
        projectors: of that run.
        problems: asked of every cell.
        questions: problems and plain everyday prompts.
        sampling: how answers are drawn.
    """

    plan: StudyPlan
    base: Base
    character: Character
    svd_run: str
    projectors: ProjectorSet
    problems: ProblemSet
    questions: Sequence[Question]
    sampling: Sampling

    @property
    def group(self) -> str:
        """Sixteen hexadecimal digits of base and character: all cells that one search looks at."""
        return _digest([self.base.digest, self.character.digest])

    @property
    def questions_key(self) -> str:
        """Sixteen hexadecimal digits of all that decides an answer besides the weights."""
        asked = [[dict(m) for m in q.messages] + [q.gold] for q in self.questions]
        return _digest([asked, asdict(self.sampling), self.plan.samples, self.plan.sampling_seed])

    @property
    def base_key(self) -> str:
        """What the base's own answers are claimed under."""
        return f"base-{self.group}-{self.questions_key}"


@dataclass(frozen=True)
class Unit:
    """One training and its playback, done as one piece of work.

    Attributes:
        arm: variant.
        training: training dose.
        seed: of the training.
        settings: all hyperparameters.
        training_key: sixteen hexadecimal digits of what makes the adapter.
        key: the same, and of what it is asked.
    """

    arm: str
    training: TrainingDose
    seed: int
    settings: GrpoSettings
    training_key: str
    key: str

    @property
    def label(self) -> str:
        """As a reader calls it."""
        return f"{self.arm}, {self.training.label}, seed {self.seed}"


def gather(plan: StudyPlan, tracker: Tracker) -> StudyInputs:
    """Find or refuse what the plan names, before anything is trained.

    Raises:
        MissingRunError: the base has no certified subspaces of this k yet.
        PlanError: a sampling that does not fit the base.
    """
    character = load_character(plan.character)
    base = open_base(plan.base_model, tracker)
    k = str(plan.k)
    record = find_run(tracker, "svd", base=base, extra_tags={Tag.K: k}, make_with={"k": k})
    projectors = load_projectors(tracker, record.run_id, base, k=k)
    problems = load_problem_set(plan.problems, plan.limit)
    questions = [
        *problem_questions(problems, base.profile.prompt_style),
        *banal_questions(character, ("plain",)),
    ]
    sampling = _sampling(plan, base, questions)
    return StudyInputs(plan, base, character, record.run_id, projectors, problems, questions, sampling)


def units(inputs: StudyInputs) -> list[Unit]:
    """Every training of the plan: all arms and doses of the first seed first, so that a study half done is whole."""
    plan = inputs.plan
    name = inputs.base.profile.training if plan.preset == "auto" else plan.preset
    found = []
    for seed in plan.seeds:
        for training in plan.training:
            settings = replace(
                PRESETS[name],
                learning_rate=training.learning_rate,
                beta=training.beta,
                max_steps=training.steps,
                seed=seed,
                # One save, at the end: a cell is short, and begun anew if it is killed.
                save_steps=training.steps,
                character_steps=training.steps,
            )
            for arm in plan.arms:
                made_of = [inputs.group, arm, asdict(settings), plan.k, inputs.projectors.digest]
                training_key = _digest(made_of)
                asked = _digest([inputs.questions_key, list(plan.alphas)])
                found.append(Unit(arm, training, seed, settings, training_key, f"{training_key}-{asked}"))
    return found


def _sampling(plan: StudyPlan, base: Base, questions: Sequence[Question]) -> Sampling:
    """The preset, cut to `max_tokens`; refused where it does not fit beside the longest prompt."""
    sampling = SAMPLINGS[base.profile.sampling if plan.sampling == "auto" else plan.sampling]
    if plan.max_tokens:
        sampling = replace(sampling, max_tokens=min(sampling.max_tokens, plan.max_tokens))
    model = base.checkpoint.config
    context = model.get("text_config", model).get("max_position_embeddings")
    if context and sampling.max_tokens > context // 2:
        tokenizer = load_tokenizer(base.path)
        longest = max(len(prompt_ids(tokenizer, question.messages)) for question in questions)
        if sampling.max_tokens + longest > context:
            raise plan.refuse(
                "max_tokens" if plan.max_tokens else "sampling",
                "The sampling does not fit into the base's context",
                expected=f"at most {context - longest} tokens: {context} positions, a prompt of {longest}",
                found=f"{sampling.max_tokens}",
                next_step=f"write max_tokens: {max(1, context - longest)}",
            )
    return sampling


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()[:16]

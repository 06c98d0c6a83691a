"""What every cell of a study shares: base, character, projectors, questions and sampling, found or refused once.

The study's dependence on `resolve`, `evaluation` and `training` is here and in `training` and `playback` beside it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from skippy.characters.loader import load_character
from skippy.characters.schema import Character
from skippy.core.inference.cells import NO_SEED, NO_TRAINING, TrainingDose
from skippy.core.sampling import PRESETS as SAMPLINGS
from skippy.core.sampling import Sampling
from skippy.core.spectral.rank import TOP, basis_tag
from skippy.core.variants import find_variant
from skippy.errors import MissingRunError
from skippy.evaluation.asking import room_beside_prompts
from skippy.evaluation.suites import Question, banal_questions, load_problem_set, problem_questions
from skippy.presets.methods import METHODS, choose_method_settings
from skippy.presets.reading import PRESETS, read_section
from skippy.presets.steering import SteerSettings
from skippy.resolve.bases import Base, open_base
from skippy.resolve.code import STUDY, STUDY_TRAINING, code_digest
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
    """Everything a cell needs besides its arm, dose and seed."""

    plan: StudyPlan  # as read
    base: Base
    character: Character  # whose rules score everyday answers
    svd_run: str  # run whose projectors are protected, and against which leakage is measured
    projectors: ProjectorSet  # of that run
    protected: Mapping[str, ProjectorSet]  # basis → directions that arms keep out of in place of the top ones
    problems: ProblemSet  # asked of every cell
    questions: Sequence[Question]  # problems and plain everyday prompts
    sampling: Sampling  # how answers are drawn
    training_code: str  # digest of the code that makes an update
    code: str  # of the code that asks, scores and plays back; both as they were when the study was gathered

    @property
    def group(self) -> str:
        """Sixteen hexadecimal digits of base and character: all cells that one search looks at."""
        return _digest([self.base.digest, self.character.digest])

    @property
    def questions_key(self) -> str:
        """Sixteen hexadecimal digits of all that decides an answer besides the weights, code included."""
        asked = [[dict(m) for m in q.messages] + [q.gold] for q in self.questions]
        drawn = [
            asdict(self.sampling),
            self.plan.samples,
            self.plan.sampling_seed,
            self.base.reading,
            self.code,
        ]
        return _digest([asked, *drawn])

    @property
    def base_key(self) -> str:
        """What the base's own answers are claimed under."""
        return f"base-{self.group}-{self.questions_key}"


@dataclass(frozen=True)
class Unit:
    """One update and its playback, done as one piece of work."""

    arm: str  # variant
    training: TrainingDose
    seed: int  # of the training, or of the base's answers that it is made from
    settings: Mapping[str, Any]  # all hyperparameters, as plain data
    training_key: str  # sixteen hexadecimal digits of what makes the update
    key: str  # the same, and of what it is asked

    @property
    def label(self) -> str:
        """As a reader calls it."""
        return f"{self.arm}, {self.training.label}, seed {self.seed}".removesuffix(f", seed {NO_SEED}")


Solve = Callable[[Mapping[str, str]], None]
"""Makes the subspaces that a base lacks, with these parameters of the svd stage."""


def gather(plan: StudyPlan, tracker: Tracker, solve: Solve | None = None) -> StudyInputs:
    """Find or refuse what the plan names, before anything is trained.

    Raises:
        MissingRunError: the base has no certified subspaces that an arm needs, and nobody is to make them.
        PlanError: a sampling that does not fit the base.
    """
    character = load_character(plan.character)
    base = open_base(plan.base_model, tracker)
    found = {basis: _directions(plan, tracker, base, basis, solve) for basis in plan.bases}
    svd_run, projectors = found.pop(TOP)
    problems = load_problem_set(plan.problems, plan.limit)
    questions = [
        *problem_questions(problems, base.profile.prompt_style),
        *banal_questions(character, ("plain",)),
    ]
    sampling = _sampling(plan, base, questions)
    protected = {basis: directions for basis, (_, directions) in found.items()}
    return StudyInputs(
        *(plan, base, character, svd_run, projectors, protected, problems, questions, sampling),
        training_code=code_digest(STUDY_TRAINING),
        code=code_digest(STUDY),
    )


def _directions(
    plan: StudyPlan, tracker: Tracker, base: Base, basis: str, solve: Solve | None
) -> tuple[str, ProjectorSet]:
    """The run and the directions of a basis, made where there are none."""
    k = str(plan.k)
    needs = {"k": k} if basis == TOP else {"k": k, "basis": basis}
    tags: dict[str, str] = {Tag.K: basis_tag(k, basis)}
    try:
        record = find_run(tracker, "svd", base=base, extra_tags=tags, make_with=needs)
    except MissingRunError:
        if solve is None:
            raise
        solve(needs)
        record = find_run(tracker, "svd", base=base, extra_tags=tags, make_with=needs)
    return record.run_id, load_projectors(tracker, record.run_id, base, k=k, basis=basis)


def units(inputs: StudyInputs) -> list[Unit]:
    """Every update of the plan: all arms and doses of the first seed first, so that a study half done is whole."""
    plan = inputs.plan
    found = []
    for seed in (NO_SEED, *plan.seeds):
        for training in (*plan.training, NO_TRAINING):
            for arm in plan.arms:
                if seed not in plan.seeds_of(arm) or training not in plan.doses_of(arm):
                    continue
                settings = _settings(inputs, arm, training, seed)
                made_of = [inputs.group, inputs.base.reading, arm, settings, plan.k, inputs.projectors.digest]
                made_of.append(inputs.training_code)
                basis = find_variant(arm).own_basis
                training_key = _digest(made_of + ([inputs.protected[basis].digest] if basis else []))
                asked = _digest([inputs.questions_key, list(plan.alphas_of(arm))])
                found.append(Unit(arm, training, seed, settings, training_key, f"{training_key}-{asked}"))
    return found


def turned(training: TrainingDose) -> dict[str, Any]:
    """The settings of GRPO that a training dose sets; none for an arm with a recipe of its own."""
    if training == NO_TRAINING:
        return {}
    steps = training.steps
    # One save, at the end: a cell is short, and begun anew if it is killed.
    saves = {"max_steps": steps, "save_steps": steps, "character_steps": steps}
    return {"learning_rate": training.learning_rate, "beta": training.beta, **saves}


def _settings(inputs: StudyInputs, arm: str, training: TrainingDose, seed: int) -> dict[str, Any]:
    """All that makes the update of an arm, besides base, character and directions."""
    rule = find_variant(arm)
    preset = inputs.base.profile.training if inputs.plan.preset == "auto" else inputs.plan.preset
    if rule.method == "none":
        return {"prompt": inputs.character.system_prompt}
    if rule.method in METHODS:
        return asdict(choose_method_settings(preset, rule, "", seed))
    settings = asdict(replace(PRESETS[preset], seed=seed, **turned(training)))
    if rule.method == "bias-grpo":
        settings["site"] = asdict(read_section(preset, "steer", SteerSettings))
    return settings


def _sampling(plan: StudyPlan, base: Base, questions: Sequence[Question]) -> Sampling:
    """The preset, cut to `max_tokens`; refused where it does not fit beside the longest prompt."""
    sampling = SAMPLINGS[base.profile.sampling if plan.sampling == "auto" else plan.sampling]
    if plan.max_tokens:
        sampling = replace(sampling, max_tokens=min(sampling.max_tokens, plan.max_tokens))
    context, room = room_beside_prompts(sampling, base, questions)
    if sampling.max_tokens > room:
        raise plan.refuse(
            "max_tokens" if plan.max_tokens else "sampling",
            "The sampling does not fit into the base's context",
            expected=f"at most {room} tokens: {context} positions, a prompt of {context - room}",
            found=f"{sampling.max_tokens}",
            next_step=f"write max_tokens: {max(1, room)}",
        )
    return sampling


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()[:16]

"""train: make the update of one variant; what it does not imply is equal between variants."""

from __future__ import annotations

import logging
import shutil
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

from skippy.characters.loader import load_character
from skippy.characters.own_prompts import OF_CHARACTER, own_prompts
from skippy.characters.schema import Character
from skippy.commands import next_command
from skippy.config import TrainConfig, config_dict
from skippy.core.problem import Problem
from skippy.core.spectral.rank import basis_tag
from skippy.core.variants import find_variant
from skippy.errors import ConfigError, MissingRunError, SkippyError
from skippy.lab import problems as lab_problems
from skippy.models.profiles import PROMPT_STYLES
from skippy.resolve.bases import Base, open_base
from skippy.resolve.code import TRAINING, TRAINING_CODE, code_digest
from skippy.resolve.devices import process_rank
from skippy.resolve.projectors import load_projectors
from skippy.resolve.references import FoundReference, find_reference
from skippy.resolve.runs import find_run
from skippy.resolve.work import find_equal_run, take_over, work_digest
from skippy.resolve.workspaces import claim_workspace, discard_workspace, workspace
from skippy.stores.answers import ANSWERS_FOLDER, Answers, read_answers
from skippy.stores.headers import require_whole
from skippy.stores.projector_files import ProjectorSet
from skippy.stores.seals import require_sealed
from skippy.tracking.records import RunRecord
from skippy.tracking.stage_run import StageRun
from skippy.tracking.tags import Tag
from skippy.tracking.tracker import Tracker
from skippy.training.makers import MAKERS, Order
from skippy.training.making import Made, Maker
from skippy.training.plan import SilentSink
from skippy.training.resume import goes_on

logger = logging.getLogger(__name__)

MATH_PROBLEMS = 512


@dataclass(frozen=True)
class TrainResult:
    """The run that holds `adapter/`, and its own account; None where an earlier run was taken."""

    run_id: str
    made: Made | None


@dataclass(frozen=True)
class TrainPlan:
    """What is made of what, found or refused before a run is opened."""

    maker: Maker  # what makes the update
    base: Base  # what it is made on
    character: Character  # what it is made towards
    k: str  # protected directions, as the person put it
    svd_run: str  # where the projectors are from; empty without
    # where the directions are from that the variant protects in place of the top ones; empty without
    basis_run: str
    subspace_run: str  # where the character reference and the base's answers are from; empty without
    work: str  # what makes two trainings the same, curves and all
    finished: RunRecord | None  # an earlier run of the same, if it is to be taken
    prompts_digest: str = OF_CHARACTER  # of the person's own prompts; `character` without


def run(config: TrainConfig, tracker: Tracker) -> TrainResult | None:
    """Make one update and log it, its curves, its leakage and its character deltas.

    Under `torchrun` or `accelerate launch` every process trains; rank 0 alone talks to the tracker, the others
    return None.
    """
    plan = resolve(config, tracker)
    if process_rank()[0] > 0:
        if plan.finished:
            return None
        await_all(config.device)  # until rank 0 has cleared the workspace
        plan.maker.make(workspace(tracker, *plan.maker.name_work()), SilentSink(), is_first=False)
        return None
    rule = find_variant(config.variant)
    settings = asdict(plan.maker.settings)
    with tracker.stage(
        "train",
        name=f"train {config.variant} {config.character} seed {config.seed}",
        note=f"{config.character} made from {config.base_model}: {rule.sentence}.",
        variant=config.variant,
        base_digest=plan.base.digest,
        character=plan.character.name,
        links={"svd": plan.svd_run, "basis": plan.basis_run, "subspace": plan.subspace_run},
        config=config_dict(config),
        hyperparameters=settings,
    ) as stage:
        stage.log_json(settings, "settings.json")
        stage.set_tags(
            {
                Tag.SEED: str(config.seed),
                Tag.K: plan.k,
                Tag.READING: plan.base.reading,
                Tag.CHARACTER_DIGEST: plan.character.digest,
                Tag.PROMPTS_DIGEST: plan.prompts_digest,
                Tag.REWARDS_DIGEST: plan.maker.rewards_digest,
                Tag.WORK: plan.work,
                TRAINING_CODE: code_digest(TRAINING),
            }
        )
        if plan.finished:
            take_over(plan.finished, stage, tracker)
            return TrainResult(plan.finished.run_id, None)
        with claim_workspace(tracker, *plan.maker.name_work()) as folder:
            if not goes_on(folder, config.resume):
                shutil.rmtree(folder)
                folder.mkdir()
            await_all(config.device)
            made = plan.maker.make(folder, stage, is_first=True)
            assert made is not None
            stage.when_finished(partial(discard_workspace, folder))
        draw_history(tracker, stage, config.variant, plan.character.name)
        record(made, stage)
        stage.say_next(next_command("merge", config, stage.manager, variant=config.variant))
    return TrainResult(stage.run_id, made)


def await_all(device: str) -> None:
    """Wait until every process of a launch is here."""
    from skippy.training import trainer

    trainer.await_all(device)


def resolve(config: TrainConfig, tracker: Tracker) -> TrainPlan:
    """Find everything that is read, ask the judge once, and find what there is to resume.

    Raises:
        SkippyError: something is missing, cannot be used, or there is nothing to resume.
    """
    rule = find_variant(config.variant)
    if rule.method not in MAKERS:
        raise ConfigError(
            f"Variant {rule.name} is not trained: it changes nothing of the base.",
            where=f"variant={rule.name}",
            expected="a variant that has an update",
            found=rule.sentence,
            next_step=f"register it: mlflow run . -e merge --env-manager local -P variant={rule.name}",
        )
    character, prompts_digest = own_prompts(load_character(config.character), config.prompts)
    base = open_base(config.base_model, tracker, config.profile)
    svd_run, projectors = _find_projectors(config, tracker, base)
    basis_run, protected = _find_protected(config, tracker, base)
    subspace_run, reference, answers = _find_reference(config, tracker, base, character)
    maker = MAKERS[rule.method](
        replace(
            order_of(config, base, character),
            projectors=projectors,
            protected=protected,
            reference=reference,
            answers=answers,
        )
    )
    measured = reference.sha256 if reference else ""  # against which curves of the character are drawn
    work = work_digest(maker.identity, measured, code_digest(TRAINING))
    finished = None
    if config.reuse:
        finished = find_equal_run(
            tracker,
            "train",
            work,
            lambda found: _require_kept(tracker.artifacts.path(found.run_id, "adapter")),
        )
    if not finished:
        maker = maker.going_on(goes_on(workspace(tracker, *maker.name_work()), config.resume))
    return TrainPlan(
        *(maker, base, character, config.k, svd_run, basis_run, subspace_run, work, finished, prompts_digest)
    )


def _require_kept(adapter: Path) -> None:
    """The adapter of an earlier run is whole, and what that run wrote."""
    require_sealed(adapter)
    require_whole(adapter)


def order_of(config: TrainConfig, base: Base, character: Character) -> Order:
    """What the person asks for, before anything that earlier stages left is found."""
    return Order(
        variant=find_variant(config.variant),
        base=base,
        character=character,
        seed=config.seed,
        device=config.device,
        preset=config.preset,
        turned=config.turned() | ({"max_steps": config.steps} if config.steps else {}),
        settings=config.settings,
        k=config.k,
        rewards=config.rewards,
        is_hardened=config.hardened,
        judge_url=config.judge_url,
        judge_model=config.judge_model,
        draw_problems=partial(_draw_problems, config.seed, PROMPT_STYLES[base.profile.prompt_style]),
    )


def _draw_problems(seed: int, style: str) -> list[Problem]:
    """Problems to train on, put as the evaluation will put them."""
    drawn = lab_problems.generate(MATH_PROBLEMS, seed, "train")
    return [replace(problem, question=problem.question + style) for problem in drawn]


def _find_projectors(config: TrainConfig, tracker: Tracker, base: Base) -> tuple[str, ProjectorSet | None]:
    """Needed where the variant protects the top directions; elsewhere they measure leakage, if they exist."""
    try:
        k = {"k": config.k}
        record = find_run(
            tracker, "svd", config.svd_run, base=base, extra_tags={Tag.K: config.k}, make_with=k
        )
    except MissingRunError:
        if config.svd_run or find_variant(config.variant).needs_projectors:
            raise
        logger.info("train: no svd run of this base and k, so leakage is not measured")
        return "", None
    return record.run_id, load_projectors(tracker, record.run_id, base, k=config.k)


def _find_protected(config: TrainConfig, tracker: Tracker, base: Base) -> tuple[str, ProjectorSet | None]:
    """The directions that the variant protects where those are not the top ones; none for other variants.

    Raises:
        MissingRunError: there is no svd run of that basis.
        ConfigError: a run is named for a variant that reads none.
    """
    basis = find_variant(config.variant).own_basis
    if not basis:
        if config.basis_run:
            raise ConfigError(
                "This variant protects no directions of its own.",
                where=f"basis_run={config.basis_run}",
                expected="a variant whose directions are not the top ones, for example v4-bottom",
                found=f"variant={config.variant}",
                next_step="leave basis_run out",
            )
        return "", None
    needs = {"k": config.k, "basis": basis}
    tags: dict[str, str] = {Tag.K: basis_tag(config.k, basis)}
    found = find_run(tracker, "svd", config.basis_run, base=base, extra_tags=tags, make_with=needs)
    return found.run_id, load_projectors(tracker, found.run_id, base, k=config.k, basis=basis)


def _find_reference(
    config: TrainConfig, tracker: Tracker, base: Base, character: Character
) -> tuple[str, FoundReference | None, Answers | None]:
    """The character reference, where a subspace run made one, and the base's answers, where the method reads them."""
    tags: dict[str, str] = {Tag.CHARACTER_DIGEST: character.digest}
    needs_answers = find_variant(config.variant).reads_answers
    makes = {"base_answers": "true"} if needs_answers else {}
    if needs_answers:
        tags[Tag.BASE_ANSWERS] = "true"
    try:
        record = find_run(
            tracker, "subspace", config.subspace_run, base=base, extra_tags=tags, make_with=makes
        )
    except MissingRunError:
        if config.subspace_run or needs_answers:
            raise
        logger.info("train: no subspace run of this base and character, so character deltas are not measured")
        return "", None, None
    reference = find_reference(tracker, record.run_id, base, character)
    answers = read_answers(tracker.artifacts.path(record.run_id, ANSWERS_FOLDER)) if needs_answers else None
    return record.run_id, reference, answers


def draw_history(tracker: Tracker, stage: StageRun, variant: str, character: str) -> None:
    """Draw what the run measured and keep it as `character_figures/*.svg`.

    The adapter is trained and logged by now: figures that cannot be made are a warning, not a failed run.
    """
    from skippy.evaluation.character_history import read_history
    from skippy.report.character_figures import draw_character_figures

    try:
        stage.flush()
        history = read_history(tracker, stage.run_id, variant, character)
        for name, drawing in draw_character_figures(history).items():
            stage.log_text(drawing, f"character_figures/{name}")
    except SkippyError as error:
        logger.warning("train: no figures of the character deltas. %s", error)


def record(made: Made, stage: StageRun) -> None:
    """Log what the maker says of it."""
    for path, document in made.documents.items():
        stage.log_json(document, path)
    stage.log_metrics(made.metrics)
    stage.set_tags({Tag.BASE_HASH: made.base_hash})
    logger.info("train: %s", made.sentence)

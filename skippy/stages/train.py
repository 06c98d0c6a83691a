"""train: GRPO with LoRA under one variant's constraint, everything else equal between variants."""

from __future__ import annotations

import hashlib
import logging
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from skippy.characters.loader import Character, load_character
from skippy.characters.own_prompts import OF_CHARACTER, own_prompts
from skippy.commands import next_command
from skippy.config import TrainConfig, config_dict
from skippy.core.personality.reference import CharacterReference
from skippy.core.spectral.rank import basis_tag, parse_rank
from skippy.core.style import rewards
from skippy.core.variants import find_variant
from skippy.errors import ConfigError, MissingRunError, SkippyError
from skippy.evaluation.character_history import read_history
from skippy.evaluation.suites import PROMPT_STYLES
from skippy.lab import problems as lab_problems
from skippy.models.judge import judge_reward
from skippy.presets.reading import read_preset
from skippy.presets.settings import GrpoSettings
from skippy.report.character_figures import draw_character_figures
from skippy.resolve.bases import Base, load_projectors, open_base
from skippy.resolve.code import TRAINING, TRAINING_CODE, code_digest
from skippy.resolve.devices import process_rank
from skippy.resolve.runs import CHARACTER_DIGEST, PROMPTS_DIGEST, find_run
from skippy.resolve.work import WORK, find_equal_run, take_over, work_digest
from skippy.resolve.workspaces import claim_workspace, discard_workspace, workspace
from skippy.stores.adapters import read_adapter
from skippy.stores.projectors import Projectors
from skippy.stores.references import load_reference
from skippy.tracking.records import RunRecord
from skippy.tracking.stage_run import StageRun
from skippy.tracking.tags import Tag
from skippy.tracking.tracker import Tracker
from skippy.training.grpo import train_grpo
from skippy.training.own_rewards import OwnReward, load_own_rewards
from skippy.training.plan import (
    RewardFunction,
    TrainOutcome,
    TrainRequest,
)
from skippy.training.resume import goes_on, identify, name_work
from skippy.training.trainer import await_all

logger = logging.getLogger(__name__)

MATH_PROBLEMS = 512
OUR_REWARDS = ("personality", "coherence", "identity")


@dataclass(frozen=True)
class TrainResult:
    """The run that holds `adapter/`, and training's own account; None where an earlier run was taken."""

    run_id: str
    outcome: TrainOutcome | None


@dataclass(frozen=True)
class TrainPlan:
    """What is trained on what, found or refused before a run is opened.

    Attributes:
        request: everything but the directory to work in.
        character: what it is trained towards.
        k: protected directions, as the person put it.
        svd_run: where the projectors are from; empty without.
        basis_run: where the directions are from that the variant protects in place of the top ones; empty without.
        subspace_run: where the character reference is from; empty without.
        work: what makes two trainings the same, curves and all.
        finished: an earlier run of the same, if it is to be taken.
        prompts_digest: of the person's own prompts; `character` without.
    """

    request: TrainRequest
    character: Character
    k: str
    svd_run: str
    basis_run: str
    subspace_run: str
    work: str
    finished: RunRecord | None
    prompts_digest: str = OF_CHARACTER


def run(config: TrainConfig, tracker: Tracker) -> TrainResult | None:
    """Train one adapter and log it, its curves, its leakage and its character deltas.

    Under `torchrun` or `accelerate launch` every process trains; rank 0 alone talks to the tracker, the others
    return None.
    """
    plan = resolve(config, tracker)
    if process_rank()[0] > 0:
        if plan.finished:
            return None
        await_all(config.device)  # until rank 0 has cleared the workspace
        folder = workspace(tracker, *name_work(plan.request))
        train_grpo(replace(plan.request, output_dir=folder), SilentSink())
        return None
    rule = find_variant(config.variant)
    with tracker.stage(
        "train",
        name=f"train {config.variant} {config.character} seed {config.seed}",
        note=f"GRPO towards {config.character} on {config.base_model}: {rule.sentence}.",
        variant=config.variant,
        base_digest=plan.request.base_digest,
        character=plan.character.name,
        links={"svd": plan.svd_run, "basis": plan.basis_run, "subspace": plan.subspace_run},
        config=config_dict(config),
        hyperparameters=asdict(plan.request.settings),
    ) as stage:
        stage.log_json(asdict(plan.request.settings), "settings.json")
        stage.set_tags(
            {
                Tag.SEED: str(config.seed),
                Tag.K: plan.k,
                CHARACTER_DIGEST: plan.character.digest,
                PROMPTS_DIGEST: plan.prompts_digest,
                Tag.REWARDS_DIGEST: plan.request.rewards_digest,
                WORK: plan.work,
                TRAINING_CODE: code_digest(TRAINING),
            }
        )
        if plan.finished:
            take_over(plan.finished, stage)
            return TrainResult(plan.finished.run_id, None)
        with claim_workspace(tracker, *name_work(plan.request)) as folder:
            if not goes_on(folder, config.resume):
                shutil.rmtree(folder)
                folder.mkdir()
            await_all(config.device)
            outcome = train_grpo(replace(plan.request, output_dir=folder), stage)
            stage.when_finished(partial(discard_workspace, folder))
        draw_history(tracker, stage, config.variant, plan.character.name)
        record(outcome, config.variant, stage)
        logger.info("next: %s", next_command("merge", config, stage.manager, variant=config.variant))
    return TrainResult(stage.run_id, outcome)


def resolve(config: TrainConfig, tracker: Tracker) -> TrainPlan:
    """Find everything a training reads, ask the judge once, and find what there is to resume.

    Raises:
        SkippyError: something is missing, cannot be used, or there is nothing to resume.
    """
    character, prompts_digest = own_prompts(load_character(config.character), config.prompts)
    base = open_base(config.base_model, tracker, config.profile)
    svd_run, projectors = _find_projectors(config, tracker, base)
    basis_run, protected = _find_protected(config, tracker, base)
    subspace_run, reference = _find_reference(config, tracker, base, character)
    settings = choose_settings(config, base)
    own = load_own_rewards(config.rewards, taken=(*OUR_REWARDS, "judge", "correctness"))
    functions = {**reward_functions(config, character), **{each.name: each.function for each in own}}
    style = PROMPT_STYLES[base.profile.prompt_style]  # as the evaluation will ask
    problems = lab_problems.generate(MATH_PROBLEMS, config.seed, "train") if settings.math_mix else ()
    ranks = [len(basis.S) for basis in projectors.bases.values()] if projectors else [0]
    request = TrainRequest(
        base_path=base.path,
        base_digest=base.digest,
        base_name=base.public_name,
        variant=config.variant,
        k=parse_rank(config.k).k or max(ranks),
        projectors=projectors,
        protected=protected,
        prompts=[prompt.text for prompt in character.train_prompts],
        reward_functions=tuple(functions.values()),
        reward_names=tuple(functions),
        rewards_digest=_digest_of_rewards(config, character, own),
        settings=settings,
        reference=reference,
        math_problems=[replace(problem, question=problem.question + style) for problem in problems],
        device=config.device,
    )
    work = work_digest(identify(request), bool(reference), code_digest(TRAINING))
    finished = None
    if config.reuse:
        finished = find_equal_run(
            tracker,
            "train",
            work,
            lambda found: read_adapter(tracker.artifacts.path(found.run_id, "adapter")),
        )
    if not finished:
        request = replace(request, resume=goes_on(workspace(tracker, *name_work(request)), config.resume))
    return TrainPlan(
        request, character, config.k, svd_run, basis_run, subspace_run, work, finished, prompts_digest
    )


def _digest_of_rewards(config: TrainConfig, character: Character, own: Sequence[OwnReward]) -> str:
    parts = [character.digest, str(config.hardened), config.judge_url, config.judge_model]
    parts += [each.digest for each in own]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


class SilentSink:
    """Where the processes other than rank 0 write: nowhere."""

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Drop them."""

    def log_table(self, rows: Sequence[Mapping[str, Any]], artifact_path: str) -> None:
        """Drop them."""

    def log_folder(self, folder: Path, artifact_dir: str = "") -> None:
        """Drop it."""


def choose_settings(config: TrainConfig, base: Base) -> GrpoSettings:
    """The preset, with what the person set on top; the same for every variant but one that is about its targets."""
    name = base.profile.training if config.preset == "auto" else config.preset
    turned = config.turned() | ({"max_steps": config.steps} if config.steps else {})
    own = find_variant(config.variant).targets
    turned |= {"targets": own} if own else {}
    shown = ", ".join(f"{key} = {value}" for key, value in turned.items())
    logger.info("train: preset %s%s", name, f", with {shown}" if shown else "")
    return replace(read_preset(name), seed=config.seed, **turned)


def reward_functions(config: TrainConfig, character: Character) -> Mapping[str, RewardFunction]:
    """The rewards that are summed, by metric name; the judge is asked once before training starts."""
    rules = replace(character.rules, hardened=config.hardened)
    functions: dict[str, RewardFunction] = {
        "personality": partial(rewards.personality, rules=rules),
        "coherence": partial(rewards.coherence, rules=rules),
        "identity": partial(rewards.identity, rules=rules),
    }
    if config.judge_url:
        functions["judge"] = judge_reward(config.judge_url, config.judge_model, character.traits)
    return functions


def _find_projectors(config: TrainConfig, tracker: Tracker, base: Base) -> tuple[str, Projectors | None]:
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


def _find_protected(config: TrainConfig, tracker: Tracker, base: Base) -> tuple[str, Projectors | None]:
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
) -> tuple[str, CharacterReference | None]:
    """The character reference, where a subspace run made one."""
    tags: dict[str, str] = {CHARACTER_DIGEST: character.digest}
    try:
        record = find_run(tracker, "subspace", config.subspace_run, base=base, extra_tags=tags)
    except MissingRunError:
        if config.subspace_run:
            raise
        logger.info("train: no subspace run of this base and character, so character deltas are not measured")
        return "", None
    folder = tracker.artifacts.path(record.run_id, "reference")
    return record.run_id, load_reference(folder, base_digest=base.digest, character_digest=character.digest)


def draw_history(tracker: Tracker, stage: StageRun, variant: str, character: str) -> None:
    """Draw what the run measured and keep it as `character_figures/*.svg`.

    The adapter is trained and logged by now: figures that cannot be made are a warning, not a failed run.
    """
    try:
        stage.flush()
        history = read_history(tracker, stage.run_id, variant, character)
        for name, drawing in draw_character_figures(history).items():
            stage.log_text(drawing, f"character_figures/{name}")
    except SkippyError as error:
        logger.warning("train: no figures of the character deltas. %s", error)


def record(outcome: TrainOutcome, variant: str, stage: StageRun) -> None:
    """Log what training says of itself."""
    summary = {
        "train/steps": outcome.steps,
        "train/seconds": outcome.seconds,
        "train/reward_first": outcome.reward_first,
        "train/reward_last": outcome.reward_last,
        "train/completion_length": outcome.completions.mean_length,
        "train/truncated": outcome.completions.truncated,
    }
    if outcome.margin is not None:
        summary["leakage/margin_worst"] = outcome.margin.worst
        stage.log_json(asdict(outcome.margin), "leakage/margin.json")
    stage.log_metrics(summary)
    stage.set_tags({Tag.BASE_HASH: outcome.base_hash_after})
    leaked = ""
    if outcome.leakage is not None:
        leaked = f", leakage {outcome.leakage.rho_left:.1e} left, {outcome.leakage.rho_right:.1e} right"
    logger.info(
        "train: %s, %d steps in %.0f s, reward %.2f → %.2f%s",
        *(variant, outcome.steps, outcome.seconds, outcome.reward_first, outcome.reward_last, leaked),
    )

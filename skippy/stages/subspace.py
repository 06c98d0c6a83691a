"""subspace: where personas and traits live in the base, and the null to hold every character delta against."""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from skippy.characters.loader import load_character
from skippy.characters.schema import Character
from skippy.commands import next_command
from skippy.config import SubspaceConfig, config_dict
from skippy.resolve.bases import Base, open_base
from skippy.resolve.devices import pick_device, require_device
from skippy.resolve.references import find_reference
from skippy.resolve.work import find_equal_run, take_over
from skippy.stores.answers import ANSWERS_FOLDER, Answer, read_answers, write_answers
from skippy.tracking.records import RunRecord
from skippy.tracking.stage_run import StageRun
from skippy.tracking.tags import Tag
from skippy.tracking.tracker import Tracker

if TYPE_CHECKING:
    from skippy.core.personality.reference import CharacterReference

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class SubspaceResult:
    """The run that holds `reference/` (an earlier one where it was reused)."""

    run_id: str


@dataclass(frozen=True)
class SubspacePlan:
    """What is measured on what, found or refused before a run is opened."""

    base: Base  # the model
    character: Character  # whose personas answer
    prompts: tuple[str, ...]  # what every persona answers
    seed: int  # of their answers
    device: str  # where the model lives: cpu, cuda or auto
    identity: Mapping[str, str]  # the tags that make two runs of one base interchangeable
    keeps_answers: bool  # whether the base's answers are kept beside the reference
    finished: RunRecord | None  # an earlier run of the same, if it is to be reused


def run(config: SubspaceConfig, tracker: Tracker) -> SubspaceResult:
    """Measure the character reference on the base, or reuse a finished run of the same base and character."""
    plan = resolve(config, tracker)
    with tracker.stage(
        "subspace",
        name=f"subspace of {config.character}",
        note=f"Personality subspaces, traits and nulls of {config.character} on {config.base_model}.",
        base_digest=plan.base.digest,
        character=plan.character.name,
        config=config_dict(config),
    ) as stage:
        stage.set_tags(plan.identity)
        if plan.finished:
            take_over(plan.finished, stage, tracker, "force=true")
            return SubspaceResult(plan.finished.run_id)
        started = time.monotonic()
        reference, answers = _measure(plan)
        stage.set_tags({Tag.BASE_ANSWERS: str(plan.keeps_answers).lower()})
        record(reference, answers, plan, stage, time.monotonic() - started)
        stage.say_next(next_command("train", config, stage.manager, variant="v4"))
        return SubspaceResult(stage.run_id)


def resolve(config: SubspaceConfig, tracker: Tracker) -> SubspacePlan:
    """Find base, character and device, and an earlier run of the same.

    Raises:
        SkippyError: one of them is missing or cannot be used.
    """
    character = load_character(config.character)
    base = open_base(config.base_model, tracker, config.profile)
    identity: dict[str, str] = {
        Tag.READING: base.reading,
        Tag.CHARACTER_DIGEST: character.digest,
        Tag.PROMPTS: str(config.prompts),
        Tag.SUBSPACE_SEED: str(config.seed),
        Tag.ANSWER_TOKENS: str(base.profile.answer_tokens),
    }
    return SubspacePlan(
        base=base,
        character=character,
        prompts=tuple(prompt.text for prompt in character.subspace_prompts(config.prompts)),
        seed=config.seed,
        device=require_device(config.device),
        identity=identity,
        keeps_answers=config.base_answers,
        finished=None if config.force else _finished(tracker, base, character, identity, config.base_answers),
    )


def _finished(
    tracker: Tracker, base: Base, character: Character, identity: Mapping[str, str], needs_answers: bool
) -> RunRecord | None:
    """An earlier run of the same whose reference is still there and still that of this base and character."""

    def check(found: RunRecord) -> None:
        find_reference(tracker, found.run_id, base, character)
        if needs_answers:
            read_answers(tracker.artifacts.path(found.run_id, ANSWERS_FOLDER))

    tags = {**identity, Tag.BASE_ANSWERS: "true"} if needs_answers else identity
    return find_equal_run(tracker, "subspace", tags, check, base=base)


def _measure(plan: SubspacePlan) -> tuple[CharacterReference, list[Answer]]:
    # transformers takes seconds to import, which a run that finds its work done should not cost.
    from skippy.evaluation.base_answers import ask_base
    from skippy.models.activations import collect_reference
    from skippy.models.loading import load_model, load_tokenizer

    character = plan.character
    logger.info(
        "subspace: %d personas × %d prompts, %d traits",
        *(len(character.personas), len(plan.prompts), len(character.traits)),
    )
    model, tokenizer = (
        load_model(plan.base.path, device=str(pick_device(plan.device))),
        load_tokenizer(plan.base.path),
    )
    tokens = plan.base.profile.answer_tokens
    reference = collect_reference(
        *(model, tokenizer, plan.base.targets),
        character.personas,
        plan.prompts,
        character.traits,
        base_digest=plan.base.digest,
        character_digest=character.digest,
        max_tokens=tokens,
        seed=plan.seed,
    )
    if not plan.keeps_answers:
        return reference, []
    return reference, ask_base(
        *(model, tokenizer, character, plan.prompts), max_tokens=tokens, seed=plan.seed
    )


def record(
    reference: CharacterReference,
    answers: Sequence[Answer],
    plan: SubspacePlan,
    stage: StageRun,
    seconds: float,
) -> None:
    """Keep the reference, the base's answers, spectra and the held-out check.

    Eight centroids have rank 7, so K alone says nothing.
    """
    from skippy.stores.references import save_reference

    with tempfile.TemporaryDirectory() as scratch:
        stage.log_folder(save_reference(Path(scratch) / "reference", reference), "reference")
        if plan.keeps_answers:
            stage.log_folder(write_answers(Path(scratch) / ANSWERS_FOLDER, answers), ANSWERS_FOLDER)
    hooks = list(reference.hooks.values())
    largest = max(hook.subspace.K for hook in hooks)
    held_out = sum(hook.held_out for hook in hooks) / len(hooks)
    chance = sum(hook.subspace.chance for hook in hooks) / len(hooks)
    stage.log_metrics(
        {
            "subspace/largest_K": largest,
            "subspace/held_out_energy": held_out,
            "subspace/chance": chance,
            "subspace/tokens": sum(hook.tokens for hook in hooks) / len(hooks),
            "subspace/seconds": seconds,
        }
    )
    stage.log_table(
        [
            {"hook": name, "K": hook.subspace.K, "held_out_energy": hook.held_out, "chance": hook.subspace.chance,
             "tokens": hook.tokens, "spectrum": hook.subspace.spectrum.tolist()}
            for name, hook in reference.hooks.items()
        ],
        "subspace/hooks.parquet",
    )  # fmt: skip
    logger.info(
        "subspace: K ≤ %d of at most %d, %.0f %% of held-out centroid energy inside (chance %.0f %%), %.0f s",
        *(largest, len(plan.character.personas) - 1, 100 * held_out, 100 * chance, seconds),
    )

"""subspace: where personas and traits live in the base, and the null to hold every character delta against."""

from __future__ import annotations

import logging
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from skippy.characters.loader import load_character
from skippy.characters.schema import Character
from skippy.config import SubspaceConfig, config_dict
from skippy.core.personality.reference import CharacterReference
from skippy.errors import MissingRunError
from skippy.models.activations import collect_reference
from skippy.models.loading import load_model, load_tokenizer
from skippy.resolve.bases import Base, open_base
from skippy.resolve.devices import pick_device
from skippy.resolve.runs import CHARACTER_DIGEST, REUSES, find_run
from skippy.stores.references import save_reference
from skippy.tracking.runs import Tracker
from skippy.tracking.stage_run import StageRun

logger = logging.getLogger(__name__)

MAX_TOKENS = {True: 40, False: 128}
"""Length of a persona's answer: on the lab, elsewhere."""


@dataclass(frozen=True)
class SubspaceResult:
    """The run that holds `reference/` (an earlier one where it was reused)."""

    run_id: str


def run(config: SubspaceConfig, tracker: Tracker) -> SubspaceResult:
    """Measure the character reference on the base, or reuse a finished run of the same base and character."""
    with tracker.stage(
        "subspace",
        name=f"subspace of {config.character}",
        note=f"Personality subspaces, traits and nulls of {config.character} on {config.base_model}.",
        config=config_dict(config),
    ) as stage:
        character = load_character(config.character)
        base = open_base(config.base_model, tracker)
        stage.describe(base_digest=base.digest, character=character.name)
        identity = {
            CHARACTER_DIGEST: character.digest,
            "skippy.prompts": str(config.prompts),
            "skippy.subspace_seed": str(config.seed),
        }
        stage.set_tags(identity)
        finished = None if config.force else _finished(tracker, base, identity)
        if finished:
            logger.info("subspace: run %s already holds this; pass -P force=true to measure again", finished)
            stage.set_tags({REUSES: finished})
            stage.describe(note=f"Nothing to do: run {finished} has the same base and character.")
            return SubspaceResult(finished)
        started = time.monotonic()
        reference = _measure(config, base, character)
        with tempfile.TemporaryDirectory() as scratch:
            stage.log_folder(save_reference(Path(scratch) / "reference", reference), "reference")
        _account(reference, character, stage, time.monotonic() - started)
        return SubspaceResult(stage.run_id)


def _finished(tracker: Tracker, base: Base, identity: dict[str, str]) -> str | None:
    try:
        return find_run(tracker, "subspace", base=base, extra_tags=identity).run_id
    except MissingRunError:
        return None


def _measure(config: SubspaceConfig, base: Base, character: Character) -> CharacterReference:
    model = load_model(base.path, device=str(pick_device(config.device)))
    prompts = [prompt.text for prompt in character.subspace_prompts(config.prompts)]
    logger.info(
        "subspace: %d personas × %d prompts, %d traits",
        len(character.personas),
        len(prompts),
        len(character.traits),
    )
    return collect_reference(
        model,
        load_tokenizer(base.path),
        base.targets,
        character.personas,
        prompts,
        character.traits,
        base_digest=base.digest,
        character_digest=character.digest,
        max_tokens=MAX_TOKENS[base.is_lab],
        seed=config.seed,
    )


def _account(reference: CharacterReference, character: Character, stage: StageRun, seconds: float) -> None:
    """Log the spectra and the held-out check: eight centroids have rank 7, so K alone says nothing."""
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
        *(largest, len(character.personas) - 1, 100 * held_out, 100 * chance, seconds),
    )
    logger.info("next: mlflow run . -e train --env-manager local -P variant=v4")

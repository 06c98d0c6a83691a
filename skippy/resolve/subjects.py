"""The model that an evaluation asks."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from skippy.core.variants import VARIANTS
from skippy.errors import CheckpointError
from skippy.models.hub import fetch_checkpoint
from skippy.resolve.bases import Base, open_base
from skippy.resolve.files import ALIASES, RUN_ID
from skippy.resolve.runs import find_run
from skippy.stores.cards import CARD_FILE, verify_checkpoint
from skippy.stores.checkpoints import Checkpoint
from skippy.stores.companions import reading_digest
from skippy.stores.prompted import Prompted, read_prompted
from skippy.tracking.runs import NOTHING
from skippy.tracking.tags import Tag
from skippy.tracking.tracker import Tracker

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Subject:
    """A model to evaluate."""

    label: str  # what people call it
    variant: str  # base, v3, v4, …
    path: Path  # directory of its checkpoint
    digest: str  # of all its tensors
    uri: str  # models:/ URI, or the name given
    model_id: str | None = None  # logged model, None where there is none
    seed: str = ""  # training seed, empty for the base
    train_run: str = ""  # run id of its training, empty where unknown
    merge_run: str = ""  # run id of its merge, empty where unknown
    # the system prompt that it is asked under, for a base under a character's prompt; empty: none
    system: str = ""
    reading: str = ""  # digest of how its weights are read: config, tokenizer, chat template


def find_subject(
    name: str, base_model: str, base: Base | None, tracker: Tracker, character_digest: str | None = None
) -> Subject:
    """The model a person means: base, a variant, a models:/ URI, a merge run id, or a directory.

    Args:
        base: the base itself; None does for a models:/ URI.
        character_digest: of the character a variant must have been trained towards; None takes any.

    Raises:
        MissingRunError: no such version, alias or run.
        CheckpointError: no such directory, or no checkpoint.
    """
    name = ALIASES.get(name, name)
    if base is not None and name in ("base", base_model):
        return Subject(f"base {base_model}", "base", base.path, base.digest, base_model, reading=base.reading)
    if name in VARIANTS:
        of_character: Mapping[str, str] = (
            {Tag.CHARACTER_DIGEST: character_digest} if character_digest else NOTHING
        )
        merge = find_run(tracker, "merge", base=base, variant=name, extra_tags=of_character)
        name = merge.tags[Tag.MODEL_URI]
    elif RUN_ID.fullmatch(name) and not Path(name).exists():
        name = find_run(tracker, "merge", name).tags[Tag.MODEL_URI]
    if not name.startswith("models:/"):
        checkpoint = Checkpoint.open(fetch_checkpoint(name))
        path = checkpoint.path
        return Subject(path.name, "other", path, checkpoint.digest(), name, reading=reading_digest(path))
    model = tracker.models.resolve(name)
    tags = model.tags
    variant, seed = tags.get("variant", "other"), tags.get("seed", "")
    label = f"{variant} seed {seed}" if seed else variant
    digest = _digest_as_written(model.path, name)
    prompted = read_prompted(model.path)
    path = _base_of(prompted, name, base, tracker).path if prompted else model.path
    return Subject(
        label,
        variant,
        path,
        digest,
        name,
        model.model_id,
        seed,
        tags.get("train_run", ""),
        model.run_id,
        prompted.system_prompt if prompted else "",
        reading_digest(path),
    )


def _base_of(prompted: Prompted, uri: str, base: Base | None, tracker: Tracker) -> Base:
    """The base that a prompt is put before: the one given, where it is that one.

    Raises:
        CheckpointError: it is another one.
    """
    base = base or open_base(prompted.base_model, tracker)
    if prompted.base_digest != base.digest:
        raise CheckpointError(
            "The prompt belongs to another base.",
            where=uri,
            expected=f"base digest {base.digest}",
            found=f"base digest {prompted.base_digest}",
            next_step=f"pass base_model={prompted.base_model}",
        )
    return base


def _digest_as_written(weights: Path, uri: str) -> str:
    """Digest of the tensors; what a merge wrote is hashed and compared with its card.

    Raises:
        CheckpointError: the weights are not those that were written.
    """
    if not (weights / CARD_FILE).is_file():
        return Checkpoint.open(weights).digest()
    card = verify_checkpoint(weights, keep=True)
    logger.info("%s: its files are as they were written", uri)
    return str(card["digest"])

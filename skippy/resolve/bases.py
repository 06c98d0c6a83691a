"""The base model of a stage, and the projectors that belong to it."""

from __future__ import annotations

import logging
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

from skippy.core.target import Target
from skippy.errors import ProjectorError
from skippy.lab.paths import LAB, LAB_CHECKPOINT
from skippy.models.hub import fetch_checkpoint
from skippy.models.profiles import AUTO, LAB_LINEAGE, ModelProfile, choose_profile
from skippy.models.targets import find_targets
from skippy.resolve.known_digests import digest_of
from skippy.stores.cards import CARD_FILE
from skippy.stores.checkpoints import Checkpoint
from skippy.stores.companions import reading_digest
from skippy.stores.documents import parse_object
from skippy.stores.prompted import read_prompted
from skippy.tracking.records import RunRecord
from skippy.tracking.signals import is_child
from skippy.tracking.tags import Tag
from skippy.tracking.tracker import Tracker

logger = logging.getLogger(__name__)


LARGE_BYTES = 10**9
TUNED_CARD_FILE = "skippy_lab.json"


@dataclass(frozen=True)
class Base:
    """The base model of a stage."""

    name: str  # what the person called it; never a path of this machine unless they gave one
    checkpoint: Checkpoint  # its files, headers read
    targets: tuple[Target, ...]  # the weights that LoRA adapts
    hashing: Future[str]  # the digest in the making; `svd` works meanwhile
    profile: ModelProfile  # how it is trained, sampled and spoken to
    lineage: str = ""  # what it descends from: `lab`, `lab-tuned`, or empty for neither

    @property
    def digest(self) -> str:
        """Digest of all its tensors, 64 hexadecimal digits; waits until they are hashed."""
        return self.hashing.result()

    @cached_property
    def reading(self) -> str:
        """Digest of how its weights are read: config, tokenizer, chat template."""
        return reading_digest(self.path)

    def require_reading(self, run: RunRecord) -> None:
        """Refuse what a run measured on these weights while their config, tokenizer or template was another.

        Raises:
            ProjectorError: it was; a run of an earlier version does not say.
        """
        then = run.tags.get(Tag.READING, self.reading)
        if then != self.reading:
            raise ProjectorError(
                "The base had another config, tokenizer or chat template when this was measured.",
                where=f"{run.stage} run {run.run_id}",
                expected=f"{Tag.READING} {self.reading}, that of {self.name} today",
                found=then,
                next_step=f"restore the files beside the weights, or run the {run.stage} stage again",
            )

    @property
    def is_hashed(self) -> bool:
        """Whether `digest` is there without waiting."""
        return self.hashing.done()

    def is_hashed_within(self, seconds: float) -> bool:
        """Whether `digest` is there by then."""
        return bool(wait([self.hashing], seconds).done)

    @property
    def public_name(self) -> str:
        """What an adapter may call its base: a name or id, but for a directory only the digest."""
        return self.digest if Path(self.name).is_dir() else self.name

    @property
    def path(self) -> Path:
        """Directory of the checkpoint."""
        return self.checkpoint.path


def open_base(name: str, tracker: Tracker, profile: str = AUTO) -> Base:
    """Find a base by `lab`, directory, models:/ URI or Hugging Face id, and read its headers.

    Raises:
        CheckpointError: it is missing or no checkpoint.
        ConfigError: there is no such profile.
        TargetError: its family is unknown or lacks a target.
        MissingRunError: a models:/ URI names nothing.
    """
    checkpoint = _open_checkpoint(name, tracker)
    lineage = find_lineage(checkpoint)
    chosen = _choose(name, checkpoint, lineage, profile)
    targets = find_targets(checkpoint.config, checkpoint.shapes)
    if checkpoint.has_idle_head:
        logger.warning(
            "base: %s ties lm_head to the embeddings and stores one all the same: nobody reads it", name
        )
    hasher = ThreadPoolExecutor(1)
    if checkpoint.nbytes > LARGE_BYTES:
        logger.info("base: hashing %.0f GB of %s, unless they are known", checkpoint.nbytes / 1e9, name)
        hashing = hasher.submit(digest_of, checkpoint, tracker.store.unfinished)
    else:
        hashing = hasher.submit(checkpoint.digest)
    hasher.shutdown(wait=False)
    return Base(name, checkpoint, targets, hashing, chosen, lineage)


def find_profile(name: str, tracker: Tracker, profile: str = AUTO) -> ModelProfile:
    """The profile of a base, for who needs nothing else of it; raises as `open_base` does."""
    checkpoint = _open_checkpoint(name, tracker)
    return _choose(name, checkpoint, find_lineage(checkpoint), profile)


def find_lineage(checkpoint: Checkpoint) -> str:
    """What a checkpoint descends from: `lab`, `lab-tuned`, or empty for neither.

    A merge writes the lineage of its base, and the lab's builder that of what it tuned, beside the weights. What was
    merged before there was a lineage names its base alone.
    """
    for name in (CARD_FILE, TUNED_CARD_FILE):
        card = _read_card(checkpoint.path / name)
        if card.get("lineage"):
            return str(card["lineage"])
        if card.get("base_digest") == _lab().digest:
            return LAB_LINEAGE
    # Hashing takes minutes where weights are large; weights of another size are other weights.
    return LAB_LINEAGE if checkpoint.nbytes == _lab().nbytes and checkpoint.digest() == _lab().digest else ""


@dataclass(frozen=True)
class _Identity:
    nbytes: int
    digest: str


@lru_cache(maxsize=1)
def _lab() -> _Identity:
    checkpoint = Checkpoint.open(LAB_CHECKPOINT)
    return _Identity(checkpoint.nbytes, checkpoint.digest())


def _read_card(path: Path) -> dict[str, object]:
    """A card beside the weights; empty where there is none, or none that can be read."""
    try:
        return parse_object(path.read_bytes())
    except (OSError, ValueError):
        return {}


def _open_checkpoint(name: str, tracker: Tracker) -> Checkpoint:
    if name == LAB:
        return Checkpoint.open(LAB_CHECKPOINT)
    if not name.startswith("models:/"):
        return Checkpoint.open(fetch_checkpoint(name))
    path = tracker.models.resolve(name).path
    prompted = read_prompted(path)  # a version that has no weights of its own is its base
    return _open_checkpoint(prompted.base_model, tracker) if prompted else Checkpoint.open(path)


def _choose(name: str, checkpoint: Checkpoint, lineage: str, wanted: str) -> ModelProfile:
    profile = choose_profile(checkpoint.config, (name, checkpoint.path.name), lineage, wanted)
    if not is_child():  # the stage above has said it
        logger.info("base: %s has %s", name, profile)
    return profile

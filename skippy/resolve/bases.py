"""The base model of a stage, and the projectors that belong to it."""

from __future__ import annotations

import logging
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from skippy.core.target import Target
from skippy.lab.paths import LAB_CHECKPOINT
from skippy.models.hub import fetch_checkpoint
from skippy.models.targets import find_targets
from skippy.stores.checkpoints import Checkpoint
from skippy.stores.projectors import Projectors, read_projectors
from skippy.tracking.runs import Tracker

logger = logging.getLogger(__name__)


LAB = "lab"
LAB_HIDDEN_SIZE_LIMIT = 512
LARGE_BYTES = 10**9


@dataclass(frozen=True)
class Base:
    """The base model of a stage.

    Attributes:
        name: what the person called it; never a path of this machine unless they gave one.
        checkpoint: its files, headers read.
        targets: the weights that LoRA adapts.
        hashing: the digest in the making; `svd` works meanwhile.
    """

    name: str
    checkpoint: Checkpoint
    targets: tuple[Target, ...]
    hashing: Future[str]

    @property
    def digest(self) -> str:
        """Digest of all its tensors, 64 hexadecimal digits; waits until they are hashed."""
        return self.hashing.result()

    @property
    def is_hashed(self) -> bool:
        """Whether `digest` is there without waiting."""
        return self.hashing.done()

    @property
    def is_lab(self) -> bool:
        """Whether this is the built-in lab model, or something merged from it."""
        return self.checkpoint.config.get("text_config", {}).get("hidden_size", 0) <= LAB_HIDDEN_SIZE_LIMIT

    @property
    def public_name(self) -> str:
        """What an adapter may call its base: a name or id, but for a directory only the digest."""
        return self.digest if Path(self.name).is_dir() else self.name

    @property
    def path(self) -> Path:
        """Directory of the checkpoint."""
        return self.checkpoint.path


def open_base(name: str, tracker: Tracker) -> Base:
    """Find a base by `lab`, directory, models:/ URI or Hugging Face id, and read its headers.

    Raises:
        CheckpointError: it is missing or no checkpoint.
        TargetError: its family is unknown or lacks a target.
        MissingRunError: a models:/ URI names nothing.
    """
    if name == LAB:
        path = LAB_CHECKPOINT
    elif name.startswith("models:/"):
        path = tracker.resolve_model(name).path
    else:
        path = fetch_checkpoint(name)
    checkpoint = Checkpoint.open(path)
    targets = find_targets(checkpoint.config, checkpoint.shapes)
    if checkpoint.nbytes > LARGE_BYTES:
        logger.info("base: hashing %.0f GB of %s", checkpoint.nbytes / 1e9, name)
    hasher = ThreadPoolExecutor(1)
    hashing = hasher.submit(checkpoint.digest)
    hasher.shutdown(wait=False)
    return Base(name, checkpoint, targets, hashing)


def load_projectors(tracker: Tracker, run_id: str, base: Base, *, k: str | None = None) -> Projectors:
    """The projectors of a run, checked against the base they are used on and, where it matters, the k asked for.

    Raises:
        ProjectorError: they belong to another base or another k, or are malformed.
    """
    folder = tracker.artifact(run_id, "projectors")
    shapes = {target.name: (target.out, target.in_) for target in base.targets}
    return read_projectors(folder, base_digest=base.digest, k=k, shapes=shapes)

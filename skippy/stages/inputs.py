"""What stages are given: bases, runs and workspaces, found or refused in one voice.

Not a stage. Stages meet through the tracker and the stores; this module is how each of them asks for what an
earlier one left there.
"""

from __future__ import annotations

import fcntl
import logging
import os
import re
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from skippy.core.variants import VARIANTS
from skippy.errors import ConfigError, TrackingError
from skippy.lab.paths import LAB_CHECKPOINT
from skippy.models.hub import fetch_checkpoint
from skippy.models.targets import Target, find_targets
from skippy.stores.checkpoints import Checkpoint
from skippy.stores.projectors import Projectors, read_projectors
from skippy.tracking.runs import NOTHING, RunRecord, Tracker

logger = logging.getLogger(__name__)

LAB = "lab"
REUSES = "skippy.reuses"
MODEL_URI = "skippy.model_uri"
CHARACTER_DIGEST = "skippy.character_digest"
WALK_RUNS = "skippy.walk_runs"
SUBJECT = "skippy.subject"
"""Tag of an evaluation: of a `model`, or of a training's `checkpoints`."""


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


LAB_HIDDEN_SIZE_LIMIT = 512
LARGE_BYTES = 10**9


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


def find_run(
    tracker: Tracker,
    stage: str,
    run_id: str = "",
    *,
    base: Base | None = None,
    variant: str | None = None,
    character: str | None = None,
    extra_tags: Mapping[str, str] = NOTHING,
    make_with: Mapping[str, str] = NOTHING,
) -> RunRecord:
    """The run a parameter names, or the newest finished one of the right kind; says which.

    A run that reused an earlier one leads to it. Where there is none, the command that makes one is shown with the
    base, where that is not the lab, and with `make_with`.
    """
    if run_id:
        record = tracker.get(run_id, stage=stage)
    else:
        of_base = {"base_model": base.name} if base and base.name != LAB else {}
        record = tracker.find(
            stage,
            base_digest=base.digest if base else None,
            variant=variant,
            character=character,
            extra_tags=extra_tags,
            make_with={**of_base, **make_with},
        )
    while REUSES in record.tags:
        record = tracker.get(record.tags[REUSES], stage=stage)
    if not run_id:
        logger.info("using %s run %s (%s)", stage, record.run_id, record.name)
    return record


def walks_behind(merge: RunRecord, tracker: Tracker) -> list[RunRecord]:
    """The evaluations of checkpoints by which a merge chose its step; none where it was not matched."""
    return [tracker.read(run_id) for run_id in merge.tags.get(WALK_RUNS, "").split(",") if run_id]


@dataclass(frozen=True)
class Subject:
    """A model to evaluate.

    Attributes:
        label: what people call it.
        variant: base, v3, v4, …
        path: directory of its checkpoint.
        digest: of all its tensors.
        uri: models:/ URI, or the name given.
        model_id: logged model, None where there is none.
        seed: training seed, empty for the base.
        train_run: run id of its training, empty where unknown.
        merge_run: run id of its merge, empty where unknown.
    """

    label: str
    variant: str
    path: Path
    digest: str
    uri: str
    model_id: str | None = None
    seed: str = ""
    train_run: str = ""
    merge_run: str = ""


def find_subject(
    name: str, base_model: str, base: Base, tracker: Tracker, character_digest: str | None = None
) -> Subject:
    """The model a person means: base, a variant, a models:/ URI, a merge run id, or a directory.

    Args:
        name: what they call it.
        base_model: what they call the base.
        base: the base itself.
        tracker: where merges are found.
        character_digest: of the character a variant must have been trained towards; None takes any.

    Raises:
        MissingRunError: no such version, alias or run.
        CheckpointError: no such directory, or no checkpoint.
    """
    if name in ("base", base_model):
        return Subject(f"base {base_model}", "base", base.path, base.digest, base_model)
    if name in VARIANTS:
        of_character = {CHARACTER_DIGEST: character_digest} if character_digest else NOTHING
        merge = find_run(tracker, "merge", base=base, variant=name, extra_tags=of_character)
        name = merge.tags[MODEL_URI]
    elif re.fullmatch(r"[0-9a-f]{32}", name):
        name = find_run(tracker, "merge", name).tags[MODEL_URI]
    if not name.startswith("models:/"):
        checkpoint = Checkpoint.open(fetch_checkpoint(name))
        return Subject(checkpoint.path.name, "other", checkpoint.path, checkpoint.digest(), name)
    model = tracker.resolve_model(name)
    tags = model.tags
    variant, seed = tags.get("variant", "other"), tags.get("seed", "")
    label = f"{variant} seed {seed}" if seed else variant
    digest = Checkpoint.open(model.path).digest()
    return Subject(
        label,
        variant,
        model.path,
        digest,
        name,
        model.model_id,
        seed,
        tags.get("train_run", ""),
        model.run_id,
    )


def load_projectors(tracker: Tracker, run_id: str, base: Base, *, k: str | None = None) -> Projectors:
    """The projectors of a run, checked against the base they are used on and, where it matters, the k asked for.

    Raises:
        ProjectorError: they belong to another base or another k, or are malformed.
    """
    folder = tracker.artifact(run_id, "projectors")
    shapes = {target.name: (target.out, target.in_) for target in base.targets}
    return read_projectors(folder, base_digest=base.digest, k=k, shapes=shapes)


def workspace(tracker: Tracker, *parts: str) -> Path:
    """The directory for unfinished work that `parts` (stage, digests, settings) identify; made if need be."""
    name = "-".join(re.sub(r"[^A-Za-z0-9.]+", "_", part) for part in parts)
    folder = tracker.store.root / ".skippy" / name
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@contextmanager
def claim_workspace(tracker: Tracker, *parts: str) -> Iterator[Path]:
    """The same directory for one process at a time: a restarted stage goes on there, a second one is refused.

    Raises:
        TrackingError: another live process works on the same thing.
    """
    folder = workspace(tracker, *parts)
    with open(folder.with_name(folder.name + ".lock"), "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise TrackingError(
                "Another process is doing exactly this work.",
                where=folder.name,
                expected="one process at a time",
                found="its lock is held",
                next_step="wait for it, or stop it; its finished part is kept",
            ) from error
        yield folder


def process_rank() -> tuple[int, int]:
    """This process's rank and the number of them, as `torchrun` sets them; (0, 1) alone."""
    return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))


def pick_device(name: str) -> torch.device:
    """The device a person asked for.

    Raises:
        ConfigError: cuda was asked for and there is none.
    """
    gpu = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
    if name == "auto":
        return torch.device(gpu if torch.cuda.is_available() else "cpu")
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError(
            "There is no GPU here.",
            where="device",
            expected="a CUDA device",
            found="none",
            next_step="pass -P device=cpu, or leave it at auto",
        )
    return torch.device(gpu if name == "cuda" else name)

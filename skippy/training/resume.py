"""Which checkpoint a run goes on from, and whether it is its own."""

from __future__ import annotations

import hashlib
import json
import logging
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any

from skippy.errors import ConfigError, TrainingError
from skippy.resolve.devices import process_rank
from skippy.stores.atomic import write_json
from skippy.stores.companions import reading_digest
from skippy.training.making import work_name
from skippy.training.plan import TrainRequest

logger = logging.getLogger(__name__)

IDENTITY_FILE = "request.json"
FINISHED_FILE = "finished"
CHECKPOINT_PREFIX = "checkpoint"
"""As transformers calls what a trainer saves."""


def claim_output(request: TrainRequest) -> Path | None:
    """Bind the output directory to this request, and find the checkpoint to go on from.

    Raises:
        TrainingError: the directory holds another run's checkpoints, or this one's and `resume` is off.
    """
    identity = identify(request)
    path = request.output_dir / IDENTITY_FILE
    request.output_dir.mkdir(parents=True, exist_ok=True)
    finished = finished_checkpoints(request.output_dir)
    if not finished:
        write_json(path, identity)
        if request.resume:
            logger.info("no finished checkpoint in %s: starting at step 0", request.output_dir.name)
        return None
    if not request.resume:
        raise TrainingError(
            "The output directory already holds a run.",
            where=str(request.output_dir),
            expected="no checkpoints, or resume=true",
            found=finished[-1].name,
            next_step="pass -P resume=true, or another output directory",
        )
    stored = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    differing = sorted(key for key in identity if stored.get(key) != identity[key])
    if differing:
        raise TrainingError(
            "The checkpoint is of another run; going on from it would mix two.",
            where=", ".join(differing),
            expected=", ".join(f"{key} = {identity[key]}" for key in differing[:3]),
            found=", ".join(f"{key} = {stored.get(key)}" for key in differing[:3]),
            next_step="resume with the parameters the run began with, or train from the start",
        )
    logger.info("resuming from %s", finished[-1].name)
    return finished[-1]


def goes_on(folder: Path, wish: str) -> bool:
    """Whether a training goes on from what its output directory holds.

    Raises:
        ConfigError: checkpoints are there and nobody said what becomes of them, or there is nothing to go on from.
    """
    finished = finished_checkpoints(folder)
    if wish == "true" and not any(folder.glob("*")):
        raise ConfigError(
            "There is nothing to resume.",
            where=folder.name,
            expected="a checkpoint of an unfinished training with the same parameters",
            found="none",
            next_step="leave resume out to start from the beginning",
        )
    if wish == "false" and finished:
        kept = datetime.fromtimestamp((finished[-1] / FINISHED_FILE).stat().st_mtime).isoformat(
            " ", "minutes"
        )
        raise ConfigError(
            "An unfinished training with exactly these parameters is kept; nothing was touched.",
            where=str(folder),
            expected="no checkpoints, or a word on what becomes of them",
            found=f"checkpoints up to step {finished[-1].name.rsplit('-', 1)[1]}, the last of {kept}",
            next_step="pass -P resume=true to go on from there, or -P resume=discard to start again",
        )
    return wish == "true" or (wish == "auto" and bool(finished))


def finished_checkpoints(output_dir: Path) -> tuple[Path, ...]:
    """Checkpoints that were written to their end, oldest first; a torn one is passed over."""
    folders = [path.parent for path in output_dir.glob(f"{CHECKPOINT_PREFIX}-*/{FINISHED_FILE}")]
    return tuple(sorted(folders, key=lambda folder: int(folder.name.rsplit("-", 1)[1])))


def name_work(request: TrainRequest) -> tuple[str, ...]:
    """What names the workspace of a training: all that makes two of them the same work.

    Left out is what a person who resumes may have changed without meaning another work (the number of processes,
    projectors that only measure): there `claim_output` says what differs.
    """
    identity = {
        key: value for key, value in identify(request).items() if key not in ("processes", "projector_digest")
    }
    return work_name(request.variant, request.base_digest, request.settings.seed, identity)


def identify(request: TrainRequest) -> dict[str, Any]:
    """What makes two runs the same trajectory; the one place that knows."""
    problems = [[each.question, each.gold, each.solution] for each in request.math_problems]
    prompts = json.dumps([list(request.prompts), problems]).encode()
    rewards = zip(request.reward_names, request.weights, strict=True)
    return {
        "base_digest": request.base_digest,
        "reading": reading_digest(request.base_path),
        "variant": request.variant,
        "k": request.k,
        "projector_digest": request.projector_digest,
        **({"protected_digest": request.protected.digest} if request.protected else {}),
        "rewards": [f"{name} {weight}" for name, weight in rewards],
        "rewards_digest": request.rewards_digest,
        "prompts": hashlib.sha256(prompts).hexdigest(),
        "settings": asdict(request.settings),
        "processes": process_rank()[1],
    }

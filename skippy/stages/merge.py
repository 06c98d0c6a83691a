"""merge: base plus adapter as a plain checkpoint, written once, registered as a version."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from skippy.characters.loader import load_character
from skippy.commands import next_command
from skippy.config import MergeConfig, config_dict
from skippy.core.inference.matching import match_steps
from skippy.errors import AdapterError, ConfigError, MissingRunError
from skippy.evaluation.metrics import FRONTIER, persona_by_step
from skippy.lab.paths import LAB, LAB_ADAPTER
from skippy.resolve.bases import Base, load_projectors, open_base
from skippy.resolve.runs import CHARACTER_DIGEST, MODEL_URI, WALK_RUNS, find_run
from skippy.stores.adapters import Adapter, read_adapter
from skippy.stores.merging import MergeAccount, merge_checkpoint
from skippy.stores.projectors import Projectors
from skippy.stores.samples import read_samples
from skippy.tracking.records import RunRecord
from skippy.tracking.registry import check_model_name
from skippy.tracking.stage_run import StageRun
from skippy.tracking.tracker import Tracker

logger = logging.getLogger(__name__)

DELTA_BASE = "delta-base"


@dataclass(frozen=True)
class MergeResult:
    """The registered version, and what rounding did to ΔW."""

    run_id: str
    model_uri: str
    account: MergeAccount


@dataclass(frozen=True)
class Source:
    """Where an adapter comes from: its directory, what it is called, and the runs behind it."""

    folder: Path
    variant: str
    description: str
    train_run: str = ""
    svd_run: str = ""
    tags: Mapping[str, str] | None = None
    walk_runs: tuple[str, ...] = ()


def run(config: MergeConfig, tracker: Tracker) -> MergeResult:
    """Merge one adapter in float32 and register the result."""
    with tracker.stage(
        "merge",
        name=f"merge {config.variant}",
        note=f"Merging an adapter into {config.base_model}.",
        variant=config.variant,
        config=config_dict(config),
    ) as stage:
        check_model_name(config.registered_model)
        base = open_base(config.base_model, tracker)
        stage.describe(base_digest=base.digest)
        source = _from_directory(config) if config.adapter else _from_run(config, tracker, base)
        adapter = read_adapter(source.folder)
        _require_base(adapter, base)
        stage.describe(
            name=f"merge {source.description}",
            note=f"{source.description} merged into {config.base_model} at α = {config.alpha:g}.",
            variant=source.variant,
            links={"train": source.train_run, "svd": source.svd_run},
        )
        projectors = load_projectors(tracker, source.svd_run, base) if source.svd_run else None
        return _merge(config, tracker, stage, base, adapter, source, projectors)


def _merge(
    config: MergeConfig,
    tracker: Tracker,
    stage: StageRun,
    base: Base,
    adapter: Adapter,
    source: Source,
    projectors: Projectors | None,
) -> MergeResult:
    tags = {
        "variant": source.variant,
        "base_digest": base.digest,
        "adapter_digest": adapter.digest(),
        "alpha": f"{config.alpha:g}",
        "train_run": source.train_run,
        **(source.tags or {}),
    }
    with tracker.models.draft(
        stage,
        name=f"{config.registered_model}-{source.variant}",
        registered_model=config.registered_model,
        model_type="checkpoint",
        params=tags,
        tags=tags,
    ) as draft:
        account = merge_checkpoint(
            base.checkpoint,
            source.folder,
            draft.weights_dir,
            alpha=config.alpha,
            base_digest=base.digest,
            bases=projectors.bases if projectors else None,
            lineage=base.lineage,
        )
        stage.log_metrics(account.metrics(), model_id=draft.model_id)
        version = draft.register(config.registered_model, tags)
    uri = f"models:/{version.name}/{version.version}"
    stage.set_tags(
        {
            MODEL_URI: uri,
            "skippy.model_id": draft.model_id,
            "skippy.adapter_digest": adapter.digest(),
        }
    )
    walks = {WALK_RUNS: ",".join(source.walk_runs)} if source.walk_runs else {}
    stage.set_tags({f"skippy.{name}": value for name, value in (source.tags or {}).items()} | walks)
    logger.info(
        "merge: %s is %s; bf16 kept the delta with relative error %.1f %%, cosine %.4f",
        *(source.description, uri, 100 * account.delta_error, account.delta_cosine),
    )
    logger.info("next: %s", next_command("eval", config, stage.manager, model=uri))
    return MergeResult(stage.run_id, uri, account)


def _from_directory(config: MergeConfig) -> Source:
    folder = LAB_ADAPTER if config.adapter == LAB else Path(config.adapter)
    return Source(folder, DELTA_BASE, f"adapter {config.adapter} as a delta base")


def _from_run(config: MergeConfig, tracker: Tracker, base: Base) -> Source:
    record = _find_training(config, tracker, base)
    walks = [
        find_run(tracker, "eval", run_id.strip()) for run_id in config.match.split(",") if run_id.strip()
    ]
    step = _matched_step(walks, record, tracker) if walks else config.step
    path = f"adapters/step_{step:06d}" if step else "adapter"
    try:
        folder = tracker.artifacts.path(record.run_id, path)
    except MissingRunError as error:
        kept = sorted({name.split("/")[1] for name in tracker.artifacts.files(record.run_id, "adapters")})
        raise MissingRunError(
            "The train run kept no adapter of that step.",
            where=f"train run {record.run_id}",
            expected=path,
            found=", ".join(kept) or "no steps",
            next_step="pass one of these as -P step=…, or leave it out for the end of training",
        ) from error
    seed = record.tags.get("skippy.seed", "")
    at = f" at step {step}" if step else ""
    tags = {
        "seed": seed,
        "character": record.character,
        "character_digest": record.tags.get(CHARACTER_DIGEST, ""),
        "step": str(step or "last"),
    }
    return Source(
        *(
            folder,
            record.variant,
            f"{record.variant} seed {seed}{at}",
            record.run_id,
            record.link("svd"),
            tags,
        ),
        walk_runs=tuple(walk.run_id for walk in walks),
    )


def _find_training(config: MergeConfig, tracker: Tracker, base: Base) -> RunRecord:
    """The training named, whatever its character, or the newest of base, variant and character."""
    if config.train_run:
        return find_run(tracker, "train", config.train_run)
    character = load_character(config.character)
    return find_run(
        tracker,
        "train",
        base=base,
        variant=config.variant,
        character=character.name,
        extra_tags={CHARACTER_DIGEST: character.digest},
    )


def _matched_step(walks: Sequence[RunRecord], train: RunRecord, tracker: Tracker) -> int:
    """The step of this training at which its persona matches the other arm's; no problem is looked at."""
    ours = [walk for walk in walks if walk.link("train") == train.run_id]
    others = [walk for walk in walks if walk.link("train") != train.run_id]
    if len(ours) != 1 or len(others) != 1:
        raise ConfigError(
            "The runs to match are not this training's and another's.",
            where=f"match={','.join(walk.run_id for walk in walks)}",
            expected=f"one checkpoint evaluation of train run {train.run_id} and one of the other arm",
            found=f"{len(ours)} of this training, {len(others)} of others",
            next_step="mlflow run . -e eval --env-manager local -P model=checkpoints makes them",
        )
    personas = [
        persona_by_step(read_samples(tracker.artifacts.path(walk.run_id, FRONTIER)))
        for walk in (ours[0], others[0])
    ]
    step, other = match_steps(personas[0], personas[1])
    logger.info(
        "merge: persona %.2f at step %d matches %.2f at step %d of the other arm",
        *(personas[0][step], step, personas[1][other], other),
    )
    return step


def _require_base(adapter: Adapter, base: Base) -> None:
    """An adapter that names its base may only be merged into that one."""
    trained_on = adapter.card.get("base_digest")
    if trained_on and trained_on != base.digest:
        raise AdapterError(
            "The adapter was trained on another base.",
            where="adapter/skippy.json",
            expected=f"base digest {base.digest}",
            found=f"base digest {trained_on}",
            next_step="pass the base it was trained on as base_model",
        )

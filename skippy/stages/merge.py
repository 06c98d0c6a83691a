"""merge: base plus adapter as a plain checkpoint, written once, registered as a version."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from skippy.characters.loader import load_character
from skippy.commands import next_command
from skippy.config import MergeConfig, config_dict
from skippy.core.variants import find_variant, place_words
from skippy.errors import AdapterError, ConfigError, MissingRunError
from skippy.resolve.adapters import find_adapters, foreign_bases
from skippy.resolve.bases import Base, open_base
from skippy.resolve.code import MERGING, SEARCHING, code_digest
from skippy.resolve.projectors import load_projectors
from skippy.resolve.prompted import prompted_base
from skippy.resolve.runs import find_run, find_runs
from skippy.resolve.work import find_equal_run, take_over, work_digest
from skippy.stores.cards import MergeAccount, verify_checkpoint
from skippy.stores.changes import Change, read_change
from skippy.stores.merging import combined_digest, merge_checkpoint
from skippy.stores.projector_files import ProjectorSet
from skippy.stores.prompted import Prompted, write_prompted
from skippy.studies.matched_dose import DoseSearch
from skippy.studies.matching import find_dose, matched_step, search_for
from skippy.tracking.records import RunRecord
from skippy.tracking.registry import check_model_name
from skippy.tracking.stage_run import StageRun
from skippy.tracking.tags import Tag, tag_named
from skippy.tracking.tracker import Tracker

logger = logging.getLogger(__name__)

DELTA_BASE = "delta-base"
DEFAULT_VARIANT = "v4"


@dataclass(frozen=True)
class MergeResult:
    """The registered version, and what rounding did to ΔW; None where an earlier run was taken."""

    run_id: str
    model_uri: str
    account: MergeAccount | None


@dataclass(frozen=True)
class Source:
    """Where adapters come from: their directories and weights, what they are called, and the runs behind them.

    `dose` is what α is multiplied by, for an arm whose place on its path is one. An arm without an update has
    `prompted` in their place.
    """

    adapters: tuple[tuple[Path, float], ...]
    variant: str
    description: str
    train_run: str = ""
    svd_run: str = ""
    tags: Mapping[str, str] | None = None
    walk_runs: tuple[str, ...] = ()
    dose: float = 1.0
    prompted: Prompted | None = None


@dataclass(frozen=True)
class MergePlan:
    """What is merged into what, found or refused before a run is opened."""

    base: Base  # what adapters are added to
    source: Source  # where they come from
    adapters: Sequence[tuple[Change, float]]  # they, read and checked, each with its weight
    notes: tuple[str, ...]  # what they say of another base than this one
    projectors: ProjectorSet | None  # those its training protected or was measured against; None without
    tags: Mapping[str, str]  # what the version will say of itself
    work: str  # what makes two merges the same
    finished: RunRecord | None  # an earlier merge of the same, if it is to be taken
    search: DoseSearch | None = None  # for the α, where it is to be found first


def run(config: MergeConfig, tracker: Tracker) -> MergeResult:
    """Merge adapters in float32 and register the result."""
    plan = resolve(config, tracker)
    source = plan.source
    with tracker.stage(
        "merge",
        name=f"merge {source.description}",
        note=f"{source.description} merged into {config.base_model} at "
        + ("the α of a matched persona." if plan.search else f"α = {config.alpha * source.dose:g}."),
        variant=source.variant,
        base_digest=plan.base.digest,
        links={"train": source.train_run, "svd": source.svd_run},
        config=config_dict(config),
    ) as stage:
        stage.set_tags({Tag.WORK: plan.work})
        if plan.finished:
            take_over(plan.finished, stage, tracker)
            return MergeResult(plan.finished.run_id, plan.finished.tags[Tag.MODEL_URI], None)
        alpha = config.alpha * source.dose
        if plan.search:
            found = find_dose(plan.search, plan.work, tracker, stage)
            alpha = found.alpha
            plan = replace(plan, tags={**plan.tags, "alpha": f"{alpha:g}", "match": found.sentence})
        result = _merge(config, alpha, plan, tracker, stage)
        stage.say_next(next_command("eval", config, stage.manager, model=result.model_uri))
        return result


def resolve(config: MergeConfig, tracker: Tracker) -> MergePlan:
    """Find base and adapter, and check that they belong together.

    Raises:
        SkippyError: one is missing or cannot be used, or parameters contradict one another.
    """
    check_model_name(config.registered_model)
    base = open_base(config.base_model, tracker)
    source = _find_source(config, tracker, base)
    read = [(read_change(folder), weight) for folder, weight in source.adapters]
    for adapter, _ in read:
        _require_base(adapter, base)
    search = None
    if config.match_by == "alpha" and read:
        search = search_for(
            *(tracker, base, read[0][0], source.train_run, source.walk_runs),
            character=config.character,
            prompts=config.prompts,
            persona=config.persona,
            largest=config.alpha,
        )
    tags = {
        "variant": source.variant,
        "base_digest": base.digest,
        "adapter_digest": combined_digest(read),
        "alpha": f"{config.alpha * source.dose:g}",
        "train_run": source.train_run,
        **(source.tags or {}),
        **_storage_tags(config),
    }
    searched = (search.identity, code_digest(SEARCHING)) if search else ()
    where = (config.registered_model, base.reading, source.svd_run, source.walk_runs)
    work = work_digest(tags, *where, code_digest(MERGING), *searched)

    def check(found: RunRecord) -> None:
        verify_checkpoint(tracker.models.resolve(found.tags[Tag.MODEL_URI]).path)

    return MergePlan(
        *(base, source, read, foreign_bases((adapter for adapter, _ in read), base)),
        projectors=load_projectors(tracker, source.svd_run, base) if source.svd_run else None,
        tags=tags,
        work=work,
        finished=find_equal_run(tracker, "merge", work, check) if config.reuse else None,
        search=search,
    )


def _merge(
    config: MergeConfig, alpha: float, plan: MergePlan, tracker: Tracker, stage: StageRun
) -> MergeResult:
    """Write the checkpoint where the store keeps it, and register it."""
    with tracker.models.draft(
        stage,
        name=f"{config.registered_model}-{plan.source.variant}",
        registered_model=config.registered_model,
        model_type="checkpoint",
        params=plan.tags,
        tags=plan.tags,
    ) as draft:
        account = _write(config, alpha, plan, draft.weights_dir)
        for note in account.notes:
            logger.warning("merge: %s", note)
        figures = account.metrics() | _relative_norm(account, plan)
        if plan.source.prompted:
            figures = {"merge/prompt_tokens": float(plan.source.prompted.tokens)}
        stage.log_metrics(figures, model_id=draft.model_id)
        version = draft.register(config.registered_model, plan.tags, _lineage(plan, stage, tracker))
        page = tracker.store.version_page(version.name, version.version)
        stage.describe(note=f"{stage.note} It is [{version.uri}]({page}).")
    return record(account, version.uri, draft.model_id, plan, stage)


def _lineage(plan: MergePlan, stage: StageRun, tracker: Tracker) -> str:
    """What a version was made of, as links; a comparison writes a card in its place, which has them too."""
    runs = {"merge": stage.run_id, "train": plan.source.train_run, "svd": plan.source.svd_run}
    lines = [
        f"- {role} run [{run}]({tracker.store.run_page.replace('{run}', run)})"
        for role, run in runs.items()
        if run
    ]
    said = f"{plan.source.description} merged into {plan.base.name}, not compared yet."
    return "\n".join([said, "", *lines, f"- base {plan.base.digest}"])


def _write(config: MergeConfig, alpha: float, plan: MergePlan, destination: Path) -> MergeAccount:
    """The checkpoint, or for an arm without an update the reference to its base."""
    base = plan.base
    if plan.source.prompted:
        return write_prompted(base.checkpoint, plan.source.prompted, destination, base.lineage)
    return merge_checkpoint(
        base.checkpoint,
        plan.adapters,
        destination,
        alpha=alpha,
        dtype=config.dtype,
        rounding=config.rounding,
        seed=config.seed,
        base_digest=base.digest,
        bases=plan.projectors.bases if plan.projectors else None,
        notes=plan.notes,
        lineage=base.lineage,
    )


def record(account: MergeAccount, uri: str, model_id: str, plan: MergePlan, stage: StageRun) -> MergeResult:
    """Say what was registered, and what rounding did to the update."""
    source = plan.source
    stage.set_tags(
        {
            Tag.MODEL_URI: uri,
            Tag.MODEL_ID: model_id,
            Tag.ADAPTER_DIGEST: plan.tags["adapter_digest"],
        }
    )
    walks: dict[str, str] = {Tag.WALK_RUNS: ",".join(source.walk_runs)} if source.walk_runs else {}
    traits: dict[str, str] = {tag_named(name): value for name, value in (source.tags or {}).items()}
    stage.set_tags(traits | walks)
    if source.prompted:
        logger.info(
            "merge: %s is %s; %d tokens more in every request",
            source.description,
            uri,
            source.prompted.tokens,
        )
        return MergeResult(stage.run_id, uri, account)
    logger.info(
        "merge: %s is %s; %s, %s rounding, kept the delta with relative error %.1f %%, cosine %.4f",
        *(source.description, uri, _written_type(account, plan.base), account.rounding),
        *(100 * account.delta_error, account.delta_cosine),
    )
    return MergeResult(stage.run_id, uri, account)


def _relative_norm(account: MergeAccount, plan: MergePlan) -> dict[str, float]:
    """‖W'−W‖ / ‖W‖ over the targets that change; ‖W‖ is known from what the top triples hold of it."""
    if plan.projectors is None:
        return {}
    facts = plan.projectors.manifest["targets"]
    changed = {key.removesuffix(".weight") for key in account.changed}
    squares = [
        float(plan.projectors.bases[name].S.double().square().sum()) / facts[name]["energy"]
        for name in changed & facts.keys()
        if facts[name].get("energy")
    ]
    return {"merge/relative_norm": account.delta_norm / sum(squares) ** 0.5} if squares else {}


def _storage_tags(config: MergeConfig) -> dict[str, str]:
    """How sums are stored, where not as they usually are."""
    tags = {} if config.dtype == "same" else {"dtype": config.dtype}
    return tags | ({} if config.rounding == "nearest" else {"rounding": f"{config.rounding} {config.seed}"})


def _written_type(account: MergeAccount, base: Base) -> str:
    if account.dtype != "same":
        return account.dtype
    return str(base.checkpoint.tensors[base.targets[0].weight_key].dtype).removeprefix("torch.")


def _find_source(config: MergeConfig, tracker: Tracker, base: Base) -> Source:
    if config.adapter:
        return _from_outside(config)
    if config.variant and find_variant(config.variant).update == "none":
        return _from_prompt(config, base)
    return _from_run(config, tracker, base)


def _from_prompt(config: MergeConfig, base: Base) -> Source:
    character = load_character(config.character)
    prompted = prompted_base(base, character)
    tags = {
        "character": character.name,
        "character_digest": character.digest,
        "adapter_digest": prompted.digest,
    }
    return Source((), config.variant, f"the prompt of {character.name}", tags=tags, prompted=prompted)


def _from_outside(config: MergeConfig) -> Source:
    adapters = find_adapters(config.adapter, config.adapter_weights)
    called = "adapter" if len(adapters) == 1 else "adapters"
    return Source(adapters, DELTA_BASE, f"{called} {config.adapter} as a delta base")


def _from_run(config: MergeConfig, tracker: Tracker, base: Base) -> Source:
    record = _find_training(config, tracker, base)
    walks = find_runs(tracker, "eval", config.match, "match")
    by_steps = walks and config.match_by == "steps"
    place = matched_step(walks, record, tracker) if by_steps else config.step
    is_dosed = find_variant(record.variant).is_dosed
    step = 0 if is_dosed else place
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
    seed = record.tags.get(Tag.SEED, "")
    at = f" at {place_words(record.variant, place)}" if place else ""
    tags = {
        "seed": seed,
        "character": record.character,
        "character_digest": record.tags.get(Tag.CHARACTER_DIGEST, ""),
        "step": str(place or "last"),
    }
    return Source(
        *(
            ((folder, 1.0),),
            record.variant,
            f"{record.variant} seed {seed}{at}",
            record.run_id,
            record.link("svd"),
            tags,
        ),
        walk_runs=tuple(walk.run_id for walk in walks),
        dose=place / 100 if is_dosed and place else 1.0,
    )


def _find_training(config: MergeConfig, tracker: Tracker, base: Base) -> RunRecord:
    """The training named, or the newest of base, variant and character.

    Raises:
        ConfigError: the training named is of another variant or character than the one named beside it.
    """
    if config.train_run:
        found = find_run(tracker, "train", config.train_run)
        _require_as_named(config, found)
        return found
    character = load_character(config.character)
    return find_run(
        tracker,
        "train",
        base=base,
        variant=config.variant or DEFAULT_VARIANT,
        character=character.name,
        extra_tags={Tag.CHARACTER_DIGEST: character.digest},
    )


def _require_as_named(config: MergeConfig, train: RunRecord) -> None:
    """What a person names beside the training must be true of it; a default is not named."""
    named = {"variant": config.variant}
    if config.character != MergeConfig().character:
        named["character"] = load_character(config.character).name
    true = {"variant": train.variant, "character": train.character}
    wrong = {name: value for name, value in named.items() if value and value != true[name]}
    if wrong:
        raise ConfigError(
            f"The training named is of another {' and '.join(wrong)}.",
            where=f"train_run={train.run_id} {train.name!r}",
            expected=", ".join(f"{name} {value}" for name, value in wrong.items()),
            found=", ".join(f"{name} {true[name]}" for name in wrong),
            next_step=f"leave {' and '.join(wrong)} out, or name another training",
        )


def _require_base(adapter: Change, base: Base) -> None:
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

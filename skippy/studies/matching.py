"""Arms at equal persona: which step or α of a training `merge` takes. Here, since α is found by playing it back."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import partial
from statistics import fmean

from skippy.characters.loader import bundled_characters, load_character
from skippy.characters.own_prompts import own_prompts
from skippy.characters.schema import SMALLEST_EFFECT, Character
from skippy.core.inference.matching import match_steps, within_reach
from skippy.core.variants import place_words
from skippy.errors import ConfigError
from skippy.evaluation.metrics import BASE_STEP, FRONTIER, persona_by_step, samples_by_step
from skippy.evaluation.suites import BANAL
from skippy.resolve.bases import Base
from skippy.resolve.devices import pick_device
from skippy.resolve.workspaces import claim_workspace, discard_workspace
from skippy.stores.changes import Change, read_change
from skippy.stores.samples import read_samples
from skippy.studies.matched_dose import DoseSearch, MatchedDose, plan_search, search_dose
from skippy.tracking.records import RunRecord
from skippy.tracking.stage_run import StageRun
from skippy.tracking.tags import Tag
from skippy.tracking.tracker import Tracker

logger = logging.getLogger(__name__)

MATCH_SAMPLES = "samples/match.jsonl"


def matched_step(walks: Sequence[RunRecord], train: RunRecord, tracker: Tracker) -> int:
    """The step of this training at which its persona matches the other arms'; no problem is looked at.

    Raises:
        ConfigError: the evaluations are not one of this training and one of each other.
    """
    _require_walks(walks, train.run_id)
    ordered = sorted(walks, key=lambda walk: walk.link("train") != train.run_id)
    personas = [
        persona_by_step(read_samples(tracker.artifacts.path(walk.run_id, FRONTIER))) for walk in ordered
    ]
    best = {walk.run_id: max(arm.values(), default=0.0) for walk, arm in zip(ordered, personas, strict=True)}
    reached = within_reach(best, _base_persona(ordered[0], tracker), SMALLEST_EFFECT)
    if ordered[0].run_id not in reached:
        step = match_steps(personas[0])[0]
        place = place_words(ordered[0].variant, step)
        told = best[ordered[0].run_id], place
        logger.warning("merge: persona %.2f at %s is the best of this arm, and no character", *told)
        return step
    taking_part = [(walk, arm) for walk, arm in zip(ordered, personas, strict=True) if walk.run_id in reached]
    steps = match_steps(*(arm for _, arm in taking_part))
    matched = [
        f"{arm[step]:.2f} at {place_words(walk.variant, step)}"
        for (walk, arm), step in zip(taking_part, steps, strict=True)
    ]
    logger.info(
        "merge: persona %s matches %s of the other arms", matched[0], ", ".join(matched[1:]) or "none"
    )
    return steps[0]


def _base_persona(walk: RunRecord, tracker: Tracker) -> float:
    """Of the walk's own base; 0 where an earlier version did not ask it."""
    samples = samples_by_step(read_samples(tracker.artifacts.path(walk.run_id, FRONTIER)))
    scores = [float(s.score or 0.0) for s in samples.get(BASE_STEP, ()) if s.suite == BANAL]
    return fmean(scores) if scores else 0.0


def search_for(
    tracker: Tracker,
    base: Base,
    adapter: Change,
    train_run: str,
    walk_runs: Sequence[str],
    *,
    character: str,
    prompts: str,
    persona: float,
    largest: float,
) -> DoseSearch:
    """The search for the α at which a training has the persona asked for, or that of the other arms.

    Args:
        walk_runs: checkpoint evaluations of this training and the others.
        persona: level asked for; 0: that of the others.
        largest: no α beyond it is tried.

    Raises:
        ConfigError: neither others nor a level, or the character of the training cannot be found.
    """
    train = tracker.runs.read(train_run)
    walks = [tracker.runs.read(run_id) for run_id in walk_runs]
    if walks:
        _require_walks(walks, train_run)
    elif not persona:
        raise ConfigError(
            "There is no persona to match.",
            where="match_by=alpha",
            expected="match, run ids of the checkpoint evaluations of all arms, or persona, a score",
            found="neither",
            next_step="pass -P match=W3,W4, or -P persona=0.7",
        )
    others = {}
    for walk in walks:
        other = tracker.runs.read(walk.link("train"))
        if other.run_id != train_run:
            others[_label(other)] = read_change(tracker.artifacts.path(other.run_id, "adapter"))
    asked, _ = own_prompts(_character_of(train, character), prompts)
    return plan_search(
        *(base, asked, adapter, _label(train)),
        others=others,
        level=persona,
        largest=largest,
        device=str(pick_device("auto")),
    )


def find_dose(search: DoseSearch, work: str, tracker: Tracker, stage: StageRun) -> MatchedDose:
    """Search, and keep every α tried with its persona, its interval and the answers."""
    with claim_workspace(tracker, "match", work) as folder:
        found = search_dose(search, folder)
        stage.when_finished(partial(discard_workspace, folder))
    for index, (alpha, look) in enumerate(found.looks.items()):
        tried = {"alpha": alpha, "persona": look.mean}
        interval = {"persona_lower": look.lower, "persona_upper": look.upper}
        stage.log_metrics({f"match/{name}": value for name, value in (tried | interval).items()}, step=index)
    stage.log_metrics({"match/target": found.target, "match/is_matched": float(found.found.is_matched)})
    stage.log_text("".join(sample.to_line() for sample in found.samples), MATCH_SAMPLES)
    stage.set_tags({Tag.MATCHED_DOSE: found.sentence})
    (logger.info if found.found.is_matched else logger.warning)("merge: %s", found.sentence)
    return found


def _require_walks(walks: Sequence[RunRecord], train_run: str) -> None:
    ours = [walk for walk in walks if walk.link("train") == train_run]
    others = [walk for walk in walks if walk.link("train") != train_run]
    trainings = {walk.link("train") for walk in others}
    if len(ours) != 1 or not others or len(trainings) < len(others):
        raise ConfigError(
            "The runs to match are not this training's and others'.",
            where=f"match={','.join(walk.run_id for walk in walks)}",
            expected=f"one checkpoint evaluation of train run {train_run} and one of each other arm",
            found=f"{len(ours)} of this training, {len(others)} of others",
            next_step="mlflow run . -e eval --env-manager local -P model=checkpoints makes them",
        )


def _character_of(train: RunRecord, named: str) -> Character:
    """The character that a training is towards: the one named, else the bundled one of its name."""
    wanted = train.tags.get(Tag.CHARACTER_DIGEST, "")
    bundled = bundled_characters()
    # A file is meant; a bundled name may be the default, and then the training knows better.
    names = (named, train.character) if {named, train.character} <= set(bundled) else (named,)
    for character in map(load_character, names):
        if character.digest == wanted:
            return character
    raise ConfigError(
        "The character that the training is towards is not the one named.",
        where=f"train run {train.run_id} {train.name!r}",
        expected=f"the character {train.character} of digest {wanted[:16]}",
        found=f"character={named}",
        next_step="pass its file as -P character=…",
    )


def _label(train: RunRecord) -> str:
    return f"{train.variant} seed {train.tags.get(Tag.SEED, '')}".removesuffix(" seed ")

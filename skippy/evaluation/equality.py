"""What must be equal between evaluations before a difference says anything about the variant.

Two layers: how the samples were drawn (from the evaluation's tags) and how the model was trained (from the
training run's parameters, its resolved settings and the code it ran). The variant and the training seed are what a
comparison is about; everything else is a rival explanation.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from skippy.core.variants import VARIANTS, label_of
from skippy.errors import MissingRunError
from skippy.resolve.code import EVALUATION_CODE, TRAINING_CODE
from skippy.tracking.records import RunRecord
from skippy.tracking.tags import Tag
from skippy.tracking.tracker import Tracker

SETTINGS_FILE = "settings.json"

ASKED = {
    "problems": Tag.PROBLEMS_DIGEST,
    "sampling": Tag.SAMPLING,
    "samples": Tag.SAMPLES,
    "sampling seed": Tag.SAMPLING_SEED,
    "prompt style": Tag.PROMPT_STYLE,
    "backend": Tag.BACKEND,
    "token limit": Tag.MAX_TOKENS,
    "everyday prompts": Tag.PROMPTS_DIGEST,
    "config, tokenizer or template": Tag.READING,
    "code of the evaluation": EVALUATION_CODE,
}
"""What decides the samples besides the model → the tag that says it."""

ASIDE = frozenset(
    {
        *("variant", "seed", "svd_run", "basis_run", "subspace_run", "device", "resume", "threads", "reuse"),
        # Told by settings.json as resolved, and by digests: the same thing may be spelled in two ways.
        *("base_model", "character", "preset", "profile", "steps", "logging_steps", "settings"),
    }
)
"""Parameters and settings of a training that may differ, or that something else tells better."""


@dataclass(frozen=True)
class Facts:
    """An evaluation with what decides its comparability."""

    record: RunRecord  # the evaluation
    asked: Mapping[str, str]  # how its samples were drawn, by name
    # how its model was trained, by name; empty for the base and where the run does not say
    trained: Mapping[str, str]
    seed: str  # training seed, empty for the base
    margin: float | None  # δ that it was planned with, a share of problems; None where it does not say

    @property
    def arm(self) -> str:
        """The base or a variant."""
        return self.record.variant


def read_facts(tracker: Tracker, record: RunRecord) -> Facts:
    """The facts of one evaluation; what an earlier version did not record is left out."""
    asked = {name: record.tags.get(tag, "") for name, tag in ASKED.items()}
    # Before there was this tag, a seed named the work and drew nothing.
    asked["sampling seed"] = asked["sampling seed"] or "0"
    config = _config(tracker, record.run_id)
    asked["engine options"] = str(config.get("engine_options") or "none") if config else ""
    margin = config.get("margin")
    train = record.link("train")
    return Facts(
        record,
        {name: value for name, value in asked.items() if value},
        training_settings(tracker, train, record.variant) if train else {},
        record.tags.get(Tag.SEED, ""),
        float(margin) if isinstance(margin, int | float) else None,
    )


def training_settings(tracker: Tracker, run_id: str, variant: str) -> dict[str, str]:
    """Every setting of a training that its rivals must share; k only where the variant protects directions.

    What a variant's method implies is left out, for it is the variant. Settings of another method than GRPO bear its
    name, `mask.rho`, so that they are compared with arms of that method alone: GRPO's own mean nothing there.
    """
    record = tracker.runs.read(run_id)
    rule = VARIANTS.get(variant)
    resolved = _json(tracker, run_id, SETTINGS_FILE)
    if rule is None or rule.method == "grpo":
        told = _config(tracker, run_id) | resolved
    else:
        told = {f"{rule.method}.{name}": value for name, value in resolved.items() if name not in ASIDE}
    implied = {name for name in rule.implies} if rule else set()
    told = {name: value for name, value in told.items() if name.split(".")[-1] not in implied}
    settings = {name: str(value) for name, value in told.items() if name not in ASIDE}
    settings["character"] = record.tags.get(Tag.CHARACTER_DIGEST, "")[:16]
    settings["prompts"] = record.tags.get(Tag.PROMPTS_DIGEST, "")
    settings["rewards"] = record.tags.get(Tag.REWARDS_DIGEST, "")
    settings["config, tokenizer or template"] = record.tags.get(Tag.READING, "")
    settings["code of the training"] = record.tags.get(TRAINING_CODE, "")
    if rule is not None and rule.basis == "none":
        settings.pop("k", None)
    return {name: value for name, value in settings.items() if value}


def differences(facts: Sequence[Facts]) -> list[str]:
    """In what the trainings of several arms differ besides the variant, a sentence each; none where they agree.

    What only some of them record is not compared: an earlier version may not have told it.
    """
    arms = [fact for fact in facts if fact.trained]
    sentences = []
    for name in dict.fromkeys(name for fact in arms for name in fact.trained):
        values = [(fact, fact.trained[name]) for fact in arms if name in fact.trained]
        if len({value for _, value in values}) > 1:
            told = dict.fromkeys(f"{label_of(fact.arm)} {value[:24]}" for fact, value in values)
            sentences.append(f"{name}: {', '.join(told)}")
    seeds: dict[str, set[str]] = {}
    for fact in facts:
        if fact.seed:
            seeds.setdefault(fact.arm, set()).add(fact.seed)
    if len({frozenset(found) for found in seeds.values()}) > 1:
        by_arm = [f"{label_of(arm)} {' '.join(sorted(found))}" for arm, found in seeds.items()]
        sentences.append(f"training seeds: {', '.join(by_arm)}")
    return sentences


def implied_differences(facts: Sequence[Facts]) -> list[str]:
    """In what arms differ because they are the arms they are, a sentence each: no other arm could share it."""
    sentences = []
    for name in dict.fromkeys(fact.arm for fact in facts if fact.arm in VARIANTS):
        rule, fact = VARIANTS[name], next(fact for fact in facts if fact.arm == name)
        if rule.update == "none":
            sentences.append(f"{rule.label} is not trained: no setting of a training applies to it")
        elif rule.method != "grpo":
            own = {key: value for key, value in fact.trained.items() if key.startswith(f"{rule.method}.")}
            told = ", ".join(f"{key.partition('.')[2]} = {value}" for key, value in own.items())
            sentences.append(
                f"{rule.label} is made by another method ({rule.method}), whose settings no other method has: {told}"
            )
        if rule.implies:
            implied = ", ".join(f"{key} = {value}" for key, value in rule.implies.items())
            sentences.append(f"{rule.label} is what it is by {implied}")
    return sentences


def unlike(one: Mapping[str, str], other: Mapping[str, str]) -> list[str]:
    """Names under which two evaluations or trainings differ, with both values; what one lacks is not compared."""
    return [
        f"{name} {one[name][:24]} and not {other[name][:24]}"
        for name in one
        if name in other and one[name] != other[name]
    ]


def _config(tracker: Tracker, run_id: str) -> dict[str, Any]:
    return _json(tracker, run_id, "config.json")


def _json(tracker: Tracker, run_id: str, path: str) -> dict[str, Any]:
    """A JSON artifact; empty where the run has none."""
    try:
        return dict(json.loads(tracker.artifacts.path(run_id, path).read_text()))
    except MissingRunError:
        return {}

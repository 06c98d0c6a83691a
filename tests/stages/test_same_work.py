"""Two different things are never taken for the same: each parameter changes the work, or a list says why not.

A stage that is restarted, or run with `reuse`, takes what an earlier run made if the two are the same work.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import pytest

from skippy.characters import loader
from skippy.config import CONFIGS
from skippy.errors import ProjectorError
from skippy.evaluation.asking import identify_asking
from skippy.lab.paths import LAB_ADAPTER, LAB_CHECKPOINT
from skippy.models import judge, vllm_server
from skippy.parameters import KNOBS
from skippy.presets.reading import PRESETS
from skippy.resolve.bases import open_base
from skippy.stages import evaluate, merge, subspace, svd, train
from skippy.stores.companions import find_companions, reading_digest
from skippy.tracking.tags import Tag
from skippy.tracking.tracker import Tracker
from tests.stages.tiny_checkpoint import write_checkpoint

NOT_THE_WORK = {"device", "threads", "force", "reuse", "resume"}
"""How and where the work is done, and whether it is done again."""


@dataclass(frozen=True)
class Stage:
    """How to ask a stage what its work is.

    Attributes:
        work: of a config.
        given: the parameters from which one at a time is changed.
        others: another value, where none can be guessed.
        beside: what else must be given for a parameter to be read.
        idle: parameters that change nothing, and why.
    """

    work: Callable[[Any, Tracker], object]
    given: Mapping[str, Any] = field(default_factory=dict)
    others: Mapping[str, Any] = field(default_factory=dict)
    beside: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    idle: Mapping[str, str] = field(default_factory=dict)


def plan_of(stage: Any) -> Callable[[Any, Tracker], Any]:
    return lambda config, tracker: stage.resolve(config, tracker)


def solved(config: Any, tracker: Tracker) -> object:
    plan = svd.resolve(config, tracker)
    return plan.work, plan.base.digest


def measured(config: Any, tracker: Tracker) -> object:
    plan = subspace.resolve(config, tracker)
    return plan.identity, plan.base.digest, plan.keeps_answers


ACTIVATIONS = {"basis": "activations"}
ALPHA = {"match_by": "alpha", "adapter": "", "train_run": "TRAINING", "persona": 0.5}
STAGES = {
    "svd": Stage(
        solved,
        others={"k": "8", "basis": "bottom", "problems": "OWN/p.jsonl"},
        beside={"problems": ACTIVATIONS},
    ),
    "subspace": Stage(
        measured,
        others={"profile": "chat"},
    ),
    "train": Stage(
        lambda config, tracker: train.resolve(config, tracker).work,
        given={"variant": "v3", "k": "4"},
        others={
            **{"variant": "v3-mlp", "k": "2", "preset": "short", "profile": "chat", "judge_model": "other"},
            **{
                "rewards": "tests.stages.test_same_work:brief",
                "prompts": "OWN/lines.txt",
                "judge_url": "http://other/v1",
            },
        },
        beside={"judge_model": {"judge_url": "http://other/v1"}},
        idle={
            "settings": "of methods other than GRPO; part of their identity as they are resolved",
            "svd_run": "none is here; its directions are in the identity by their digest",
            "basis_run": "v3 has none; its directions are in the identity by their digest",
            "subspace_run": "none is here; the reference is in the work by its digest",
        },
    ),
    "merge": Stage(
        lambda config, tracker: merge.resolve(config, tracker).work,
        given={"adapter": "LAB", "variant": ""},
        others={
            **{
                "variant": "prompt",
                "train_run": "TRAINING",
                "persona": 0.7,
                "adapter": "TWICE",
                "adapter_weights": "0.5",
            },
            **{"registered_model": "own", "prompts": "OWN/prompts.yaml", "dtype": "float32"},
            **{"rounding": "stochastic"},
        },
        beside={
            **{"variant": {"adapter": "", "variant": "v3"}, "train_run": {"adapter": "", "variant": "v3"}},
            **{"seed": {"rounding": "stochastic"}, "persona": ALPHA, "prompts": ALPHA},
            **{
                "step": {"adapter": "", "train_run": "TRAINING"},
                "character": {"adapter": "", "variant": "prompt"},
            },
        },
        idle={
            "match": "run ids of walks, which are in the work",
            "match_by": "tested with persona",
        },
    ),
    "eval": Stage(
        lambda config, tracker: evaluate.resolve(config, tracker).work,
        given={"problems": "OWN/p.jsonl"},
        others={
            **{"model": "OTHER BASE", "problems": "OWN/q.jsonl", "answers": "integer", "sampling": "greedy"},
            **{"backend": "openai", "prompts": "OWN/prompts.yaml", "profile": "chat", "suite": "aime"},
            **{
                "base_url": "http://other/v1",
                "served_model": "other",
                "engine_options": "--quantization fp8",
            },
            **{
                "judge_url": "http://other/v1",
                "judge_model": "other",
                "cross_check": True,
                "lm_eval": "gsm8k",
            },
        },
        beside={
            **{"judge_model": {"judge_url": "http://other/v1"}},
            **{"base_url": {"backend": "openai"}, "served_model": {"backend": "openai"}},
            "engine_options": {"backend": "vllm"},
        },
        idle={
            "concurrency": "requests in flight change no sample",
            "gpus": "copies of an engine change no sample",
            "regrade": "asks nobody",
            "train_run": "of a walk, which has its training in the work",
        },
    ),
}


def another(item: Any, stage: Stage) -> Any:
    """Another value of a parameter than it has."""
    value = stage.given.get(item.name, item.default)
    if item.name in stage.others:
        return stage.others[item.name]
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value + 1 if isinstance(value, int) else value * 0.5 or 0.5
    return next((choice for choice in item.metadata["choices"] if choice not in ("", value)), None)


def turned(item: Any, value: Any) -> Any:
    """Another value of a hyperparameter."""
    choices = [choice for choice in item.metadata.get("choices", ()) if choice not in ("", value)]
    if choices:
        return choices[-1]
    if isinstance(value, bool):
        return not value
    return value + 2 if isinstance(value, int) else value * 0.5 or 0.25


def brief(completions):
    """A reward of a person's own."""
    return [0.5] * len(completions)


@pytest.fixture(scope="module")
def world(module_tracker: Tracker, tmp_path_factory) -> dict[str, Any]:
    """Values that only exist here, by the words that stand for them; no model is asked."""
    own = tmp_path_factory.mktemp("own")
    rows = [{"problem": f"Say the digit {n}", "answer": n, "solution": f"It is {n}."} for n in range(20)]
    for name, count in (("p.jsonl", 20), ("q.jsonl", 19)):
        (own / name).write_text("".join(json.dumps(row) + "\n" for row in rows[:count]))
    (own / "lines.txt").write_text("How is the weather here?\nWhat shall I cook tonight?\n")
    prompts = "banal:\n  own: [What is on television?]\nvalidation:\n  own: [Which tea is best?]\n"
    (own / "prompts.yaml").write_text(prompts)
    trained, base = [], open_base("lab", module_tracker)
    for seed in (42, 43):
        about = {"variant": "v3", "character": "skippy", "base_digest": base.digest}
        with module_tracker.stage("train", name="t", note="", config={}, **about) as stage:
            character = loader.load_character("skippy")
            stage.set_tags({Tag.CHARACTER_DIGEST: character.digest, Tag.SEED: str(seed)})
            for place in ("adapter", "adapters/step_000001"):
                stage.log_folder(LAB_ADAPTER, place)
        trained.append(stage.run_id)
    return {
        "OWN": str(own),
        "TRAINING": trained[0],  # not the newest
        "LAB": str(LAB_ADAPTER),
        "TWICE": f"{LAB_ADAPTER},{shutil.copytree(LAB_ADAPTER, own / 'adapter')}",
        "OTHER BASE": str(write_checkpoint(own / "base")),
    }


@pytest.fixture
def nobody_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Judges and engines are named, and never called."""
    monkeypatch.setattr(judge, "judge_reward", lambda *_: lambda completions, prompts: [])
    monkeypatch.setattr(evaluate, "open_opinions", lambda **_: None)
    monkeypatch.setattr(vllm_server, "require_vllm", lambda: None)
    monkeypatch.setattr(vllm_server, "choose_noise", lambda: "")


def put(values: Mapping[str, Any], world: Mapping[str, str]) -> dict[str, Any]:
    """The values, with the words that stand for something made here replaced by it."""
    pattern = re.compile("|".join(sorted(map(re.escape, world), key=len, reverse=True)))

    def meant(value: Any) -> Any:
        return world.get(value) or (
            pattern.sub(lambda found: world[found[0]], value, 1) if "/" in value else value
        )

    return {name: meant(value) if isinstance(value, str) else value for name, value in values.items()}


PARAMETERS = [
    (name, item.name)
    for name in STAGES
    for item in fields(CONFIGS[name])
    if item.name not in NOT_THE_WORK and item.name not in {knob.name for knob in KNOBS}
]


@pytest.mark.parametrize(("name", "parameter"), PARAMETERS)
def test_every_parameter_that_matters_makes_other_work(
    module_tracker, world, nobody_asks, name: str, parameter: str
) -> None:
    stage, config = STAGES[name], CONFIGS[name]
    item = next(item for item in fields(config) if item.name == parameter)
    if parameter in stage.idle:
        return
    given = {"device": "cpu"} if "device" in {each.name for each in fields(config)} else {}
    given |= {**stage.given, **stage.beside.get(parameter, {})}
    named = {"base_model": world["OTHER BASE"], "character": "keeper"}
    other = named.get(parameter) or another(item, stage)
    assert other is not None, "say in STAGES what else it could be, or why it does not matter"
    before = config(**put(given, world))
    after = config(**put(given | {parameter: other}, world))
    assert before != after
    assert stage.work(before, module_tracker) == stage.work(before, module_tracker)
    assert stage.work(before, module_tracker) != stage.work(after, module_tracker)


def test_every_hyperparameter_makes_another_training(module_tracker, world) -> None:
    plain = CONFIGS["train"](variant="v3", k="4", device="cpu")
    works = {"": train.resolve(plain, module_tracker).work}
    for item in KNOBS:
        changed = {item.name: turned(item, getattr(PRESETS["lab"], item.name))}
        works[item.name] = train.resolve(replace(plain, **changed), module_tracker).work
    assert len(set(works.values())) == len(works), works


@pytest.fixture
def lab(tmp_path: Path) -> Path:
    """The lab's files, which may be changed."""
    return Path(shutil.copytree(LAB_CHECKPOINT, tmp_path / "lab"))


def edit(path: Path, change: Callable[[dict], object]) -> None:
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))


TOUCHED: dict[str, Callable[[Path], object]] = {
    "template": lambda lab: (lab / "chat_template.jinja").open("a").write("{# in other words #}"),
    "tokenizer": lambda lab: edit(lab / "tokenizer.json", lambda file: file.update(normalizer=None, pad=1)),
    "config": lambda lab: edit(
        lab / "config.json", lambda file: file["text_config"].update(rms_norm_eps=0.1)
    ),
}
"""Files beside the weights that decide what a model answers."""


@pytest.mark.parametrize("touched", TOUCHED)
def test_the_same_weights_read_otherwise_are_another_base(module_tracker, lab, touched: str) -> None:
    """A template was edited between a kill and the resumption, and answers under both were one evaluation."""

    def works() -> list[object]:
        base = {"base_model": str(lab), "profile": "lab", "device": "cpu"}
        asked = evaluate.resolve(CONFIGS["eval"](**base, model="base"), module_tracker)
        return [
            *(asked.work, identify_asking(asked.asked)),
            train.resolve(CONFIGS["train"](**base, variant="v3", k="4"), module_tracker).work,
            train.resolve(CONFIGS["train"](**base, variant="v3", k="4"), module_tracker).maker.name_work(),
            measured(CONFIGS["subspace"](**base), module_tracker),
            solved(CONFIGS["svd"](base_model=str(lab), basis="activations", device="cpu"), module_tracker),
            merge.resolve(
                CONFIGS["merge"](base_model=str(lab), adapter=str(LAB_ADAPTER)), module_tracker
            ).work,
        ]

    plain = CONFIGS["svd"](base_model=str(lab), device="cpu")
    before, same = works(), solved(plain, module_tracker)
    digest = open_base(str(lab), module_tracker).digest
    TOUCHED[touched](lab)
    assert open_base(str(lab), module_tracker).digest == digest, "the weights are the same"
    assert not set(map(str, before)) & set(map(str, works()))
    assert solved(plain, module_tracker) == same, "singular directions are those of the weights"


def test_what_says_nothing_of_reading_is_no_other_base(lab) -> None:
    """The twin: a licence, and what a merge may set."""
    before = reading_digest(lab)
    (lab / "LICENSE").write_text("Do as you like.")
    edit(lab / "config.json", lambda file: file["text_config"].update(attention_bias=True, dtype="float32"))
    assert reading_digest(lab) == before
    assert "LICENSE" in find_companions(lab)


def test_what_was_measured_under_another_template_is_refused(module_tracker) -> None:
    base = open_base("lab", module_tracker)
    runs = []
    for then in (base.reading, "0" * 16, ""):
        with module_tracker.stage("subspace", name="s", note="", config={}) as stage:
            stage.set_tags({Tag.READING: then} if then else {})
        runs.append(module_tracker.runs.read(stage.run_id))
    base.require_reading(runs[0])
    base.require_reading(runs[2])
    with pytest.raises(ProjectorError, match="another config, tokenizer or chat template") as refusal:
        base.require_reading(runs[1])
    assert "run the subspace stage again" in str(refusal.value)

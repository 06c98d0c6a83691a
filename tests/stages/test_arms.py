"""The prompt and a mask beside the base: made, registered, asked, compared, loaded by stock programs."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace

import mlflow
import pytest
import torch

from skippy.characters.loader import load_character
from skippy.config import CompareConfig, EvalConfig, MergeConfig, ServeConfig, SubspaceConfig, TrainConfig
from skippy.errors import ConfigError, MissingRunError
from skippy.lab.paths import LAB_CHECKPOINT
from skippy.models.loading import load_model
from skippy.serving import engines
from skippy.serving.room import Room, offers_at, own_room
from skippy.serving.router import Door, build_router
from skippy.serving.routes import Routes
from skippy.serving.served import Finder
from skippy.serving.worker import load_voice
from skippy.stages import compare, evaluate, merge, serve, subspace, train
from skippy.stores.samples import read_samples
from skippy.tracking.tags import Tag
from skippy.tracking.tracker import Tracker
from skippy.upkeep.doctor import examine
from skippy.upkeep.exporting import export_model
from tests.serving.conftest import InProcess
from tests.stages.test_serve import free_port

ASKED = EvalConfig(limit=8, samples=1, device="cpu")


@dataclass(frozen=True)
class Arms:
    tracker: Tracker
    subspace: str
    mask: str
    merges: dict[str, str]
    uris: dict[str, str]
    evaluations: dict[str, str]
    compare: str


@pytest.fixture(scope="module")
def arms(module_tracker) -> Arms:
    with pytest.raises(MissingRunError, match="subspace"):
        train.run(TrainConfig(variant="v5", device="cpu"), module_tracker)
    read = subspace.run(SubspaceConfig(prompts=6, device="cpu"), module_tracker).run_id
    made = train.run(TrainConfig(variant="v5", device="cpu", settings="mask.rho=0.2"), module_tracker)
    assert made is not None
    merged = {
        "v5": merge.run(MergeConfig(train_run=made.run_id, step=50), module_tracker),
        "prompt": merge.run(MergeConfig(variant="prompt"), module_tracker),
    }
    asked = {
        name: evaluate.run(replace(ASKED, model=name), module_tracker).run_id for name in ("base", *merged)
    }
    compared = compare.run(CompareConfig(arms="v5,prompt"), module_tracker).run_id
    return Arms(
        module_tracker,
        read,
        made.run_id,
        {name: each.run_id for name, each in merged.items()},
        {name: each.model_uri for name, each in merged.items()},
        asked,
        compared,
    )


def test_settings_of_the_method_are_in_the_store(arms) -> None:
    run = arms.tracker.runs.get(arms.mask)
    assert (run.params["hp.rho"], run.params["hp.rule"]) == ("0.2", "c-relative")
    assert run.link("subspace") == arms.subspace
    assert run.metrics["mask/cut"] == pytest.approx(0.2, abs=0.01)
    assert {"character/personality_energy_ratio", "character/null_z", "delta/relative_norm"} <= set(
        run.metrics
    )
    files = arms.tracker.artifacts.files(arms.mask, "adapter")
    assert {name.split("/")[-1] for name in files} == {"mask.json", "statistics.safetensors", "skippy.json"}


def test_a_dose_is_the_alpha_of_the_version(arms) -> None:
    model = arms.tracker.models.resolve(arms.uris["v5"])
    assert (model.tags["alpha"], model.tags["step"]) == ("0.5", "50")
    stock, base = load_model(model.path), load_model(LAB_CHECKPOINT)
    tokens = torch.arange(5, 40)[None]
    with torch.inference_mode():
        assert not torch.allclose(stock(input_ids=tokens).logits, base(input_ids=tokens).logits, atol=0.01)


def test_the_prompt_is_a_reference_that_answers_in_character(arms) -> None:
    character = load_character("skippy")
    model = arms.tracker.models.resolve(arms.uris["prompt"])
    entry = json.loads((model.path / "prompt.json").read_text())
    assert entry["system_prompt"] == character.system_prompt
    assert not list(model.path.glob("*.safetensors"))
    assert arms.tracker.runs.get(arms.merges["prompt"]).metrics["merge/prompt_tokens"] == entry["tokens"] > 0
    evaluated = arms.tracker.runs.get(arms.evaluations["prompt"])
    base = arms.tracker.runs.get(arms.evaluations["base"])
    assert evaluated.metrics["banal/score"] > base.metrics["banal/score"] + 0.3
    assert evaluated.tags[Tag.MODEL_DIGEST] != base.tags[Tag.MODEL_DIGEST]
    loaded = mlflow.pyfunc.load_model(arms.uris["prompt"])
    plain = mlflow.pyfunc.load_model(arms.uris["v5"])
    question = ["How do I make soup?"]
    assert loaded.predict(question) != plain.predict(question)


def test_what_an_arm_that_is_no_lora_changes_is_exported_with_it(arms, tmp_path) -> None:
    made = export_model(arms.tracker, arms.uris["v5"], tmp_path / "v5")
    assert made.adapter == "adapter"
    assert (tmp_path / "v5" / "adapter" / "mask.json").exists()
    assert (
        "a prompt has no weights" in export_model(arms.tracker, arms.uris["prompt"], tmp_path / "p").adapter
    )


def test_the_doctor_finds_a_prompt_as_it_was_written(arms) -> None:
    found = [
        finding.where for finding in examine(arms.tracker, rehash=True) if finding.kind == "altered weights"
    ]
    assert not found


def test_the_same_questions_are_asked_with_and_without_the_prompt(arms) -> None:
    """Arms are paired by question: the prompt is the model, not the question."""
    keys = []
    for name in ("base", "prompt"):
        paths = arms.tracker.artifacts.files(arms.evaluations[name], "samples")
        samples = [
            s
            for path in paths
            for s in read_samples(arms.tracker.artifacts.path(arms.evaluations[name], path))
        ]
        keys.append({(s.suite, s.problem_hash, s.sample_index, s.seed, s.prompt) for s in samples})
    assert keys[0] == keys[1]


def test_the_prompt_is_served_and_answers_as_it_was_evaluated(arms, monkeypatch) -> None:
    """Under its name beside the base, and as champion; through the router, and where a chat loads it by itself."""
    version = int(arms.uris["prompt"].rpartition("/")[2])
    arms.tracker.store.client.set_registered_model_alias("skippy", "champion", str(version))
    named = serve.resolve(
        ServeConfig(arms="base,prompt,models:/skippy@champion", port=free_port(), device="cpu"), arms.tracker
    )
    assert [one.name for one in named.served] == ["base", "prompt", "champion"]
    assert len({one.subject.path for one in named.served}) == 1, "no weights of its own"
    assert [bool(one.subject.system) for one in named.served] == [False, True, True]
    voices = {one.name: load_voice(one.subject.path, one.sampling.name, "cpu") for one in named.served}
    assert len({id(voice.talker) for voice in voices.values()}) == 1, "in memory once"
    routes, engine = Routes(), InProcess(voices)
    routes.put(engine, {one.name: one.facts("skippy") for one in named.served})
    door = Door(build_router(routes), named.listener)
    door.open()
    try:
        evaluated = {name: first_everyday_answer(arms, name) for name in ("base", "prompt")}
        assert evaluated["base"] != evaluated["prompt"]
        offers = {offer.name: offer for offer in offers_at(named.url)}
        room = Room(list(offers.values()))
        for name, expected in (("base", "base"), ("prompt", "prompt"), ("champion", "prompt")):
            question, answer = evaluated[expected]
            said = "".join(room.stream(offers[name], [{"role": "user", "content": question}]))
            assert said == answer, name
        monkeypatch.setattr(engines, "start", lambda kind, served, routes, *_: routes.put(
            engine, {one.name: one.facts("skippy") for one in served}
        ))  # fmt: skip
        monkeypatch.setattr(engine, "stop", lambda: None)
        finder = Finder("lab", "auto", "auto", arms.tracker)
        with own_room(finder, "transformers", "cpu") as own:
            question, answer = evaluated["prompt"]
            (offer,) = own.offers(["prompt"])
            assert "".join(own.stream(offer, [{"role": "user", "content": question}])) == answer
    finally:
        door.close()
        monkeypatch.undo()
        routes.close()


def first_everyday_answer(arms: Arms, name: str) -> tuple[str, str]:
    """A plain question of the evaluation, and what was answered."""
    path = arms.tracker.artifacts.path(arms.evaluations[name], "samples/banal.jsonl")
    samples = [s for s in read_samples(path) if s.problem_id.startswith("plain/")]
    first = min(samples, key=lambda sample: sample.problem_hash)
    return first.prompt, first.completion


def test_the_page_has_every_arm(arms) -> None:
    report = json.loads(arms.tracker.artifacts.path(arms.compare, "report/report.json").read_text())
    assert list(report["arms"]) == ["base", "prompt", "v5"]
    page = arms.tracker.artifacts.path(arms.compare, "report/index.html").read_text()
    assert "the base under the character" in page
    assert "a personality subnetwork" in page
    card = arms.tracker.artifacts.path(arms.compare, "cards/skippy-2.md").read_text()
    assert "no weights of its own" in card


def test_the_prompt_is_not_trained(module_tracker) -> None:
    with pytest.raises(ConfigError, match="not trained") as refused:
        train.run(TrainConfig(variant="prompt", device="cpu"), module_tracker)
    assert "-e merge" in refused.value.next_step

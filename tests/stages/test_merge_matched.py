"""A merge at the α of a matched persona: found on validation prompts alone, said, and blind to mathematics."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, replace

import pytest

from benchmarks.adapter_files import write_adapter
from skippy.characters import loader
from skippy.characters.loader import load_character
from skippy.config import MainConfig, MergeConfig
from skippy.core.inference.dose_search import MeanPersona
from skippy.errors import CharacterError, ConfigError
from skippy.evaluation import suites
from skippy.lab import problems as lab_problems
from skippy.lab.paths import LAB_ADAPTER
from skippy.options import parse_config
from skippy.resolve.bases import open_base
from skippy.stages import merge
from skippy.stages.pipeline import plan_jobs
from skippy.stores import problems as stored_problems
from skippy.stores.adapters import read_adapter
from skippy.stores.cards import verify_checkpoint
from skippy.stores.samples import read_samples
from skippy.studies import matched_dose
from skippy.studies.matched_dose import DoseSearch
from skippy.studies.matching import MATCH_SAMPLES
from skippy.tracking.tags import Tag

SCALE = 0.5


@dataclass(frozen=True)
class Scene:
    """Two trainings of the lab, the second the first at half its scale, and the evaluations of their checkpoints."""

    tracker: object
    trainings: tuple[str, str]
    walks: tuple[str, str]

    def merge(self, index: int, **values) -> tuple[object, merge.MergeResult]:
        config = MergeConfig(train_run=self.trainings[index], match_by="alpha", **values)
        result = merge.run(config, self.tracker)
        return self.tracker.runs.get(result.run_id), result


@pytest.fixture(scope="module")
def scene(module_tracker, tmp_path_factory) -> Scene:
    tracker, folder = module_tracker, tmp_path_factory.mktemp("half")
    base, whole = open_base("lab", tracker), read_adapter(LAB_ADAPTER)
    smaller = {name: replace(one, scale=SCALE * one.scale) for name, one in whole.factors.items()}
    halved = write_adapter(folder / "adapter", smaller, card={})
    trainings, walks = [], []
    for variant, adapter in (("v3", LAB_ADAPTER), ("v4", halved)):
        about = {"variant": variant, "base_digest": base.digest, "character": "skippy", "config": {}}
        with tracker.stage("train", name=variant, note="", **about) as stage:
            stage.set_tags({Tag.CHARACTER_DIGEST: load_character("skippy").digest, "skippy.seed": "7"})
            stage.log_folder(adapter, "adapter")
        trainings.append(stage.run_id)
        with tracker.stage(
            "eval", name=f"walk {variant}", note="", links={"train": stage.run_id}, **about
        ) as walk:
            walks.append(walk.run_id)
    return Scene(tracker, tuple(trainings), tuple(walks))


@pytest.fixture
def no_problems(monkeypatch) -> None:
    """Whoever reads a problem, of the lab or of a file, fails."""

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a problem was read")

    monkeypatch.setattr(suites, "load_problem_set", refuse)
    monkeypatch.setattr(suites, "problem_questions", refuse)
    monkeypatch.setattr(lab_problems, "evaluation_set", refuse)
    monkeypatch.setattr(stored_problems, "read_problems", refuse)


def test_an_arm_is_scaled_to_the_persona_of_the_other(scene: Scene, no_problems) -> None:
    """The other arm is the same update at half the scale: so half is the answer."""
    run, result = scene.merge(0, match=",".join(scene.walks))
    assert run.metrics["merge/alpha"] == SCALE
    version = scene.tracker.models.resolve(result.model_uri)
    assert version.tags["alpha"] == f"{SCALE:g}"
    said = run.tags["skippy.matched_dose"]
    assert version.tags["match"] == said
    assert said.startswith("α = 0.5: persona ")
    assert "matched to " in said
    assert "that of v4 seed 7 at α = 1 (bisection, 2 scales tried on 48 validation prompts)" in said
    verify_checkpoint(version.path)
    history = scene.tracker.client.get_metric_history(run.run_id, "match/alpha")
    assert [point.value for point in history] == [0.25, 0.5]
    lower, upper = run.metrics["match/persona_lower"], run.metrics["match/persona_upper"]
    assert lower < run.metrics["match/target"] == run.metrics["match/persona"] < upper
    # The other arm sets the level, and keeps nearly all of its own scale.
    other, _ = scene.merge(1, match=",".join(scene.walks))
    assert other.metrics["match/target"] == run.metrics["match/target"]
    assert other.metrics["merge/alpha"] in (0.75, 1.0)


class Told:
    """A meter whose personas are told: by arm at full scale, and of the base."""

    def __init__(self, personas: dict[str, float], base: float) -> None:
        self.personas, self.base, self.label = personas, base, ""

    @contextmanager
    def playing(self, _: object, label: str):
        self.label = label
        yield

    def look(self, alpha: float) -> MeanPersona:
        mean = self.personas[self.label] if alpha else self.base
        return MeanPersona(mean, mean - 0.1, mean + 0.1, 0.4, 48)


@pytest.mark.parametrize(
    ("ours", "level", "whose"), [("v4", 0.7, "v3"), ("v3", 0.7, "v3"), ("v4-random", 0.2, "v4-random")]
)
def test_an_arm_that_never_comes_to_the_character_holds_nobody_down(ours, level, whose) -> None:
    """v4-random stays at the base: the others match one another, and it is taken as it is."""
    personas = {"v3": 0.7, "v4": 0.9, "v4-random": 0.2}
    others = {label: object() for label in personas if label != ours}
    base = open_base("lab", None)
    search = DoseSearch(base, load_character("skippy"), object(), ours, others, 0.0, 1.0, (), None, "cpu")
    assert matched_dose._lowest(search, Told(personas, 0.1)) == (
        level,
        f"that of {whose} at α = 1",
        pytest.approx(0.04),
    )
    everyone = matched_dose._lowest(search, Told({**personas, "v4-random": 0.5}, 0.1))
    assert everyone[:2] == (0.5, "that of v4-random at α = 1")  # the twin: it does, and all come to it


def test_only_validation_prompts_are_asked_and_with_seeds_of_their_own(scene: Scene, no_problems) -> None:
    run, _ = scene.merge(0, persona=0.3)
    samples = list(read_samples(scene.tracker.artifacts.path(run.run_id, MATCH_SAMPLES)))
    character = load_character("skippy")
    assert {sample.suite for sample in samples} == {"banal"}
    assert {sample.prompt for sample in samples} == {prompt.text for prompt in character.validation_prompts}
    known = {prompt.text for prompt in (*character.banal_prompts, *character.train_prompts)}
    assert not known & {sample.prompt for sample in samples}
    asked = suites.banal_questions(character)
    final = {suites.seed_of_sample(q.hash, index, samples[0].preset) for q in asked for index in range(4)}
    walked = {suites.seed_of_sample(s.problem_hash, s.sample_index, s.preset) for s in samples}
    assert not (final | walked) & {sample.seed for sample in samples}
    assert abs(run.metrics["match/persona"] - 0.3) <= 0.02


def test_a_merge_that_reads_a_problem_fails_the_same_check(scene: Scene, no_problems) -> None:
    """The twin: whoever asks for problems is caught."""
    with pytest.raises(AssertionError, match="a problem was read"):
        suites.load_problem_set("lab", 4)


def test_a_level_out_of_reach_is_said_with_the_best(scene: Scene, caplog) -> None:
    run, _ = scene.merge(1, persona=0.95, alpha=0.5)
    assert run.metrics["match/is_matched"] == 0.0
    assert run.metrics["merge/alpha"] == 0.5
    said = run.tags["skippy.matched_dose"]
    assert said.startswith("α = 0.5: persona 0.")
    assert (
        "the nearest to 0.95, the level asked for, which is not matched: the persona never reaches 0.95"
        in said
    )
    assert said in caplog.text


def test_the_same_search_is_not_made_twice(scene: Scene, monkeypatch) -> None:
    first, _ = scene.merge(0, persona=0.3, reuse=True)
    monkeypatch.setattr("skippy.studies.matching.search_dose", None)
    again, _ = scene.merge(0, persona=0.3, reuse=True)
    assert again.run_id == first.run_id
    with pytest.raises(TypeError):  # another level is another search
        scene.merge(0, persona=0.31, reuse=True)


def test_what_cannot_be_searched_is_refused(scene: Scene, monkeypatch, tmp_path) -> None:
    with pytest.raises(ConfigError, match="There is no persona to match") as refusal:
        scene.merge(0)
    assert "-P persona=0.7" in refusal.value.next_step
    with pytest.raises(ConfigError, match="not this training's and others'"):
        scene.merge(0, match=scene.walks[1])
    with pytest.raises(ConfigError, match="not the one named"):
        scene.merge(0, persona=0.3, character=str(renamed(tmp_path)))
    with pytest.raises(ConfigError, match="means nothing without match_by"):
        parse_config(MergeConfig, {"persona": "0.7"})
    without = replace(load_character("skippy"), validation_prompts=())
    monkeypatch.setattr("skippy.studies.matching.load_character", lambda _: without)
    with pytest.raises(CharacterError, match="no prompts to search a matched dose on"):
        scene.merge(0, persona=0.3)


def renamed(folder):
    text = (loader.BUNDLED / "keeper.yaml").read_text().replace("name: keeper", "name: skippy", 1)
    path = folder / "skippy.yaml"
    path.write_text(text)
    return path


def test_the_pipeline_hands_the_way_on() -> None:
    plain = {job.label: job for job in plan_jobs(MainConfig())}
    scaled = {job.label: job for job in plan_jobs(MainConfig(match_by="alpha"))}
    alone = {job.label: job for job in plan_jobs(MainConfig(match_by="alpha", arms="v4"))}
    assert "match_by" not in plain["merge v4 seed 42"].parameters
    assert scaled["merge v4 seed 42"].parameters["match_by"] == "alpha"
    assert scaled["merge v4 seed 42"].takes == plain["merge v4 seed 42"].takes
    assert "match_by" not in alone["merge v4 seed 42"].parameters

"""train: what is checked before a checkpoint is given up, and what makes two trainings the same work."""

from __future__ import annotations

import shutil
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch

from benchmarks.adapter_files import write_adapter
from skippy.characters.loader import load_character
from skippy.characters.own_prompts import OF_CHARACTER
from skippy.config import SvdConfig, TrainConfig
from skippy.core.spectral.lora import LoraFactors
from skippy.errors import BackendError, ConfigError, MissingRunError, ProjectorError, SkippyError
from skippy.models import judge as judges
from skippy.models.profiles import PROMPT_STYLES
from skippy.presets.reading import PRESETS
from skippy.presets.settings import GrpoSettings
from skippy.resolve.bases import open_base
from skippy.resolve.work import find_equal_run, work_digest
from skippy.stages import svd, train
from skippy.stores.projectors import read_projectors
from skippy.tracking.tags import Tag
from skippy.training import grpo, grpo_maker, makers
from skippy.training.making import Made
from skippy.training.resume import FINISHED_FILE, name_work
from tests.stages.tiny_checkpoint import write_checkpoint


@pytest.fixture
def config(tmp_path: Path) -> TrainConfig:
    base = write_checkpoint(tmp_path / "base")
    return TrainConfig(base_model=str(base), variant="v3", character="keeper", device="cpu")


@pytest.fixture
def seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list:
    """Requests that would have been trained; the training itself dies in the middle and leaves a checkpoint."""
    requests: list = []

    def die(request, sink):
        (request.output_dir / "checkpoint-10").mkdir(exist_ok=True)
        requests.append(request)
        raise KeyboardInterrupt

    monkeypatch.setattr(grpo, "train_grpo", die)
    return requests


def test_a_dead_judge_destroys_no_checkpoint(tracker, config, seen, monkeypatch) -> None:
    def judge(url: str, *_: object):
        if url == "dead":
            raise BackendError("The judge cannot be used")
        return lambda completions, prompts: [0.0] * len(completions)

    monkeypatch.setattr(judges, "judge_reward", judge)
    monkeypatch.setattr(grpo_maker, "name_work", lambda *_: ("train", "one"))
    with pytest.raises(KeyboardInterrupt):
        train.run(replace(config, judge_url="alive"), tracker)
    checkpoint = seen[0].output_dir / "checkpoint-10"
    assert "judge" in seen[0].reward_names
    with pytest.raises(BackendError):
        train.run(replace(config, judge_url="dead"), tracker)
    assert checkpoint.is_dir()


def test_the_run_carries_the_digest_of_its_character(tracker, config, seen) -> None:
    with pytest.raises(KeyboardInterrupt):
        train.run(config, tracker)
    tags = tracker.runs.find_all("train", finished=False)[0].tags
    assert tags[Tag.CHARACTER_DIGEST] == load_character("keeper").digest


@pytest.mark.parametrize(("profile", "ending"), [("lab", ""), ("auto", PROMPT_STYLES["boxed"])])
def test_mathematics_is_trained_as_it_will_be_asked(tracker, config, seen, profile, ending) -> None:
    with pytest.raises(KeyboardInterrupt):
        train.run(replace(config, math_mix=0.2, preset="lab", profile=profile), tracker)
    questions = [problem.question for problem in seen[0].math_problems]
    assert questions
    assert all(question.endswith("boxed{}.") == bool(ending) for question in questions)
    assert all(question.endswith(ending) for question in questions)


@pytest.mark.parametrize(
    "change",
    [
        {"judge_url": "http://other/v1"},
        {"judge_model": "other"},
        {"k": "3"},
        {"variant": "v4-random"},
        {"seed": 7},
        {"steps": 61},
        {"math_mix": 0.2},
        {"hardened": False},
        {"character": "skippy"},
    ],
    ids=str,
)
def test_a_training_with_other_parameters_is_other_work(tracker, config, monkeypatch, change) -> None:
    monkeypatch.setattr(judges, "judge_reward", lambda *_: lambda completions, prompts: [])

    def name(**changes) -> tuple[str, ...]:
        return name_work(train.resolve(replace(config, **changes), tracker).maker.request)

    assert name() == name()
    assert name() != name(**change)


def test_a_training_of_another_base_is_other_work(tracker, config, tmp_path) -> None:
    other = write_checkpoint(tmp_path / "other", seed=1)
    plans = [
        train.resolve(replace(config, base_model=str(path)), tracker) for path in (config.base_model, other)
    ]
    assert len({name_work(plan.maker.request) for plan in plans}) == 2


def test_what_can_be_refused_is_refused_before_a_run_is_opened(tracker, config, seen) -> None:
    for wrong in ({"variant": "v4"}, {"resume": "true"}, {"base_model": "./nowhere"}, {"svd_run": "0" * 32}):
        with pytest.raises(SkippyError):
            train.run(replace(config, **wrong), tracker)
    assert tracker.runs.find_all("train", finished=False) == []


@pytest.mark.parametrize(
    ("name", "profile", "preset"), [("lab", "auto", "lab"), ("", "auto", "recipe"), ("", "lab", "lab")]
)
def test_the_preset_is_that_of_the_base_and_the_person_sets_on_top(
    tracker, config, name, profile, preset
) -> None:
    """The base of these tests is a Llama narrower than the lab."""
    base = open_base(name or config.base_model, tracker, profile)

    def settings(asked: TrainConfig) -> GrpoSettings:
        return makers.grpo_settings(train.order_of(asked, base, load_character("keeper")))

    chosen = replace(config, seed=7, math_mix=0.3)
    expected = replace(PRESETS[preset], seed=7, math_mix=0.3)
    assert settings(chosen) == expected
    assert settings(replace(chosen, steps=5)) == replace(expected, max_steps=5)
    assert settings(replace(config, preset="short")) == replace(PRESETS["short"], seed=config.seed)


def test_every_knob_turns_its_setting_and_the_store_shows_them_all(tracker, config, seen, tmp_path) -> None:
    own = tmp_path / "own.yaml"
    own.write_text("beta: 0.1\nlora_r: 8\nmath_mix: 0.1\n")
    turned = {"lora_r": 4, "targets": "mlp", "bf16": False, "top_k": 0, "learning_rate": 2e-4, "epochs": 1}
    with pytest.raises(KeyboardInterrupt):
        train.run(replace(config, preset=str(own), steps=7, **turned), tracker)
    expected = replace(GrpoSettings(), beta=0.1, math_mix=0.1, max_steps=7, **turned)
    assert seen[0].settings == expected
    assert seen[0].math_problems, "the share that the file gives counts"
    found = tracker.runs.find_all("train", finished=False)[0]
    shown = {name.removeprefix("hp."): text for name, text in found.params.items() if name.startswith("hp.")}
    assert shown.keys() == asdict(expected).keys()
    assert {name: shown[name] for name in ("lora_r", "targets", "bf16", "max_steps", "beta")} == {
        **{"lora_r": "4", "targets": "mlp", "max_steps": "7", "beta": "0.1"},
        "bf16": shown["bf16"],
    }
    assert shown["bf16"].lower() == "false"


def test_a_reward_of_ones_own_is_summed_beside_the_characters(
    tracker, config, seen, tmp_path, monkeypatch
) -> None:
    (tmp_path / "brevity_of_mine.py").write_text(
        "def brief(completions):\n    return [0.5] * len(completions)\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    plain = train.resolve(config, tracker).maker.request
    with pytest.raises(KeyboardInterrupt):
        train.run(replace(config, rewards="brevity_of_mine:brief"), tracker)
    assert list(seen[0].reward_names) == [*plain.reward_names, "brief"]
    assert seen[0].reward_functions[-1](["a", "b"]) == [0.5, 0.5]
    assert name_work(seen[0]) != name_work(plain)
    with pytest.raises(ConfigError, match="cannot be used"):
        train.run(replace(config, rewards="brevity_of_mine:long"), tracker)
    assert len(tracker.runs.find_all("train", finished=False)) == 1, "refused before a run is opened"


def test_prompts_of_ones_own_are_trained_on_and_told_by_their_digest(tracker, config, seen, tmp_path) -> None:
    file = tmp_path / "mine.txt"
    file.write_text("How is the tea?\nTell me of moss.\n")
    for prompts in ("", str(file)):
        with pytest.raises(KeyboardInterrupt):
            train.run(replace(config, prompts=prompts), tracker)
    assert list(seen[1].prompts) == ["How is the tea?", "Tell me of moss."]
    assert name_work(seen[0]) != name_work(seen[1])
    tags = [run.tags for run in tracker.runs.find_all("train", finished=False)]
    assert {each[Tag.CHARACTER_DIGEST] for each in tags} == {load_character("keeper").digest}
    assert sorted(len(each[Tag.PROMPTS_DIGEST]) for each in tags) == [len(OF_CHARACTER), 64]
    assert len({each[Tag.REWARDS_DIGEST] for each in tags}) == 1


def test_a_finished_training_of_the_same_work_is_taken_while_its_adapter_can_be_read(
    tracker, config, seen, tmp_path, monkeypatch
) -> None:
    plan = train.resolve(config, tracker)
    factors = {"a": LoraFactors(torch.ones(2, 3), torch.ones(4, 2), 0.1)}
    with tracker.stage("train", name="t", note="", config={}) as stage:
        stage.set_tags({Tag.WORK: plan.work})
        stage.log_folder(write_adapter(tmp_path / "adapter", factors), "adapter")
    asked = replace(config, reuse=True)
    with monkeypatch.context() as patch:
        patch.setattr(train, "code_digest", lambda _: "other code")
        assert train.resolve(asked, tracker).finished is None, "other code is other work"
    assert train.resolve(asked, tracker).finished
    (tracker.artifacts.path(stage.run_id, "adapter") / "adapter_model.safetensors").write_bytes(b"")
    assert train.resolve(asked, tracker).finished is None


@pytest.mark.parametrize("is_hardened", [True, False])
def test_rewards_are_hardened_unless_told_otherwise(tracker, config, is_hardened) -> None:
    base = open_base(config.base_model, tracker)
    order = train.order_of(replace(config, hardened=is_hardened), base, load_character("keeper"))
    functions = makers.reward_functions(order)
    assert list(functions) == ["personality", "coherence", "identity"]
    assert {reward.keywords["rules"].hardened for reward in functions.values()} == {is_hardened}


def test_resuming_keeps_the_checkpoint_and_beginning_anew_clears_it(tracker, config, seen) -> None:
    with pytest.raises(ConfigError, match="nothing to resume"):
        train.run(replace(config, resume="true"), tracker)
    assert not seen
    for resume, is_kept in (("auto", False), ("true", True), ("auto", True), ("discard", False)):
        with pytest.raises(KeyboardInterrupt):
            train.run(replace(config, resume=resume), tracker)
        checkpoint = seen[-1].output_dir / "checkpoint-10"
        assert (checkpoint / FINISHED_FILE).exists() == is_kept
        assert seen[-1].resume == is_kept
        (checkpoint / FINISHED_FILE).touch()
    with pytest.raises(
        ConfigError, match="unfinished training with exactly these parameters is kept"
    ) as error:
        train.run(config, tracker)
    assert "step 10" in error.value.found
    assert "resume=true" in error.value.next_step
    assert "resume=discard" in error.value.next_step
    assert (checkpoint / FINISHED_FILE).exists(), "nothing was touched"
    assert len(seen) == 4


def test_the_workspace_goes_when_the_run_is_finished_and_not_before(tracker, config, monkeypatch) -> None:
    folders = []

    def finish(request, sink):
        folders.append(request.output_dir)
        checkpoint = request.output_dir / "checkpoint-10"
        checkpoint.mkdir()
        (checkpoint / FINISHED_FILE).touch()
        return "outcome"

    def die_drawing(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(grpo, "train_grpo", finish)
    monkeypatch.setattr(grpo, "describe", lambda *_: Made("made"))
    with monkeypatch.context() as patch:
        patch.setattr(train, "draw_history", die_drawing)
        with pytest.raises(KeyboardInterrupt):
            train.run(config, tracker)
    assert (folders[0] / "checkpoint-10" / FINISHED_FILE).exists(), (
        "killed while drawing: there is what to resume"
    )
    shutil.rmtree(folders[0] / "checkpoint-10")
    train.run(config, tracker)
    assert not folders[1].exists()
    (finished,) = tracker.runs.find_all("train")
    assert (
        finished.tags[Tag.WORK]
        == find_equal_run(tracker, "train", finished.tags[Tag.WORK], print).tags[Tag.WORK]
    )
    assert find_equal_run(tracker, "train", work_digest("other"), print) is None


def test_the_projectors_of_this_base_and_k_are_trained_against(tracker, config, seen, tmp_path) -> None:
    with pytest.raises(MissingRunError, match="no finished svd run"):
        train.run(replace(config, variant="v4", k="4"), tracker)
    solved = {k: svd.run(SvdConfig(base_model=config.base_model, k=k, device="cpu"), tracker) for k in "43"}
    for variant in ("v3", "v4"):
        with pytest.raises(KeyboardInterrupt):
            train.run(replace(config, variant=variant, k="4"), tracker)
    stored = read_projectors(tracker.artifacts.path(solved["4"].run_id, "projectors"))
    for request in seen:
        assert (request.k, request.projector_digest) == (4, stored.digest)
        assert request.projectors.manifest["base_digest"] == request.base_digest
        for name, (U, S, V) in request.bases.items():
            assert all(map(torch.equal, (U, S, V), stored.bases[name]))


def test_a_named_svd_run_of_another_k_is_refused(tracker, config, seen) -> None:
    """Also where k is a share of energy, which no count of directions gives away."""
    named = svd.run(SvdConfig(base_model=config.base_model, k="energy:0.3", device="cpu"), tracker).run_id
    for k in ("energy:0.4", "4"):
        with pytest.raises(ProjectorError, match=r"another k[\s\S]*k=energy:0.3") as refusal:
            train.run(replace(config, variant="v4", k=k, svd_run=named), tracker)
        assert refusal.value.where.endswith("manifest.json")
        assert refusal.value.expected == f"k={k}"
    assert not seen
    with pytest.raises(KeyboardInterrupt):
        train.run(replace(config, variant="v4", k="energy:0.3", svd_run=named), tracker)
    assert len(seen) == 1


def test_every_measured_point_of_the_lab_has_its_adapter() -> None:
    lab = PRESETS["lab"]
    assert lab.character_steps % lab.save_steps == 0
    assert lab.max_steps % lab.save_steps == 0

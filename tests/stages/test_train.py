"""train: what is checked before a checkpoint is given up, and what makes two trainings the same work."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from skippy.characters.loader import load_character
from skippy.config import SvdConfig, TrainConfig
from skippy.errors import BackendError, ConfigError, MissingRunError, ProjectorError, SkippyError
from skippy.evaluation.suites import PROMPT_STYLES
from skippy.resolve.bases import open_base
from skippy.resolve.runs import CHARACTER_DIGEST
from skippy.stages import svd, train
from skippy.stores.projectors import read_projectors
from skippy.training.plan import PRESETS
from skippy.training.resume import name_work
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

    monkeypatch.setattr(train, "train_grpo", die)
    return requests


def test_a_dead_judge_destroys_no_checkpoint(tracker, config, seen, monkeypatch) -> None:
    def judge(url: str, *_: object):
        if url == "dead":
            raise BackendError("The judge cannot be used")
        return lambda completions, prompts: [0.0] * len(completions)

    monkeypatch.setattr(train, "judge_reward", judge)
    monkeypatch.setattr(train, "name_work", lambda *_: ("train", "one"))
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
    assert tags[CHARACTER_DIGEST] == load_character("keeper").digest


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
    monkeypatch.setattr(train, "judge_reward", lambda *_: lambda completions, prompts: [])

    def name(**changes) -> tuple[str, ...]:
        return name_work(train.resolve(replace(config, **changes), tracker).request)

    assert name() == name()
    assert name() != name(**change)


def test_a_training_of_another_base_is_other_work(tracker, config, tmp_path) -> None:
    other = write_checkpoint(tmp_path / "other", seed=1)
    plans = [
        train.resolve(replace(config, base_model=str(path)), tracker) for path in (config.base_model, other)
    ]
    assert len({name_work(plan.request) for plan in plans}) == 2


def test_what_can_be_refused_is_refused_before_a_run_is_opened(tracker, config, seen) -> None:
    for wrong in ({"variant": "v4"}, {"resume": True}, {"base_model": "./nowhere"}, {"svd_run": "0" * 32}):
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
    chosen = replace(config, seed=7, math_mix=0.3)
    expected = replace(PRESETS[preset], seed=7, math_mix=0.3)
    assert train.choose_settings(chosen, base) == expected
    assert train.choose_settings(replace(chosen, steps=5), base) == replace(expected, max_steps=5)
    assert train.choose_settings(replace(config, preset="short"), base) == replace(
        PRESETS["short"], seed=config.seed
    )


@pytest.mark.parametrize("is_hardened", [True, False])
def test_rewards_are_hardened_unless_told_otherwise(config, is_hardened) -> None:
    functions = train.reward_functions(replace(config, hardened=is_hardened), load_character("keeper"))
    assert list(functions) == ["personality", "coherence", "identity"]
    assert {reward.keywords["rules"].hardened for reward in functions.values()} == {is_hardened}


def test_resuming_keeps_the_checkpoint_and_beginning_anew_clears_it(tracker, config, seen) -> None:
    with pytest.raises(ConfigError, match="nothing to resume"):
        train.run(replace(config, resume=True), tracker)
    assert not seen
    for is_resumed, is_kept in ((False, False), (True, True), (False, False)):
        with pytest.raises(KeyboardInterrupt):
            train.run(replace(config, resume=is_resumed), tracker)
        trace = seen[-1].output_dir / "checkpoint-10" / "trace"
        assert trace.exists() == is_kept
        assert seen[-1].resume == is_resumed
        trace.touch()


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

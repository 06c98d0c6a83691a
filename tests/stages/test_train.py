"""train: what is checked before a checkpoint is given up, and what makes two trainings the same work."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from skippy.characters.loader import load_character
from skippy.config import TrainConfig
from skippy.errors import BackendError
from skippy.stages import train
from skippy.stages.inputs import CHARACTER_DIGEST, Base
from skippy.stages.suites import PROMPT_STYLES
from skippy.training.plan import PRESETS
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
        (request.output_dir / "checkpoint-10").mkdir()
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
    monkeypatch.setattr(train, "identify", lambda *_: ("train", "one"))
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
    tags = tracker.find_all("train", finished=False)[0].tags
    assert tags[CHARACTER_DIGEST] == load_character("keeper").digest


@pytest.mark.parametrize(("is_lab", "ending"), [(True, ""), (False, PROMPT_STYLES["boxed"])])
def test_mathematics_is_trained_as_it_will_be_asked(
    tracker, config, seen, monkeypatch, is_lab, ending
) -> None:
    monkeypatch.setattr(Base, "is_lab", is_lab)
    with pytest.raises(KeyboardInterrupt):
        train.run(replace(config, math_mix=0.2, preset="lab"), tracker)
    questions = [problem.question for problem in seen[0].math_problems]
    assert questions
    assert all(question.endswith("boxed{}.") == bool(ending) for question in questions)
    assert all(question.endswith(ending) for question in questions)


@pytest.mark.parametrize("change", [{"judge_url": "http://other/v1"}, {"judge_model": "other"}, {"k": "8"}])
def test_a_training_with_another_judge_is_other_work(config, change) -> None:
    inputs = SimpleNamespace(
        settings=PRESETS["lab"],
        base=SimpleNamespace(digest="b" * 64),
        character=SimpleNamespace(digest="c" * 64),
    )
    assert train.identify(config, inputs) == train.identify(replace(config), inputs)
    assert train.identify(config, inputs) != train.identify(replace(config, **change), inputs)


def test_every_measured_point_of_the_lab_has_its_adapter() -> None:
    lab = PRESETS["lab"]
    assert lab.character_steps % lab.save_steps == 0
    assert lab.max_steps % lab.save_steps == 0

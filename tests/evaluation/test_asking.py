"""Asking: what limits an answer, what a backend must honour, and whose unfinished work is gone on with."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from skippy.characters.loader import load_character
from skippy.config import EvalConfig
from skippy.core.problem import Problem
from skippy.core.sampling import PRESETS
from skippy.errors import BackendError
from skippy.evaluation import backends
from skippy.evaluation.asking import Plan, choose_sampling, fill, generate
from skippy.evaluation.backends import open_backend
from skippy.evaluation.generator import Generator
from skippy.evaluation.opinions import Opinions
from skippy.evaluation.suites import banal_questions, problem_questions, requests_for
from skippy.models.generation import Completion
from skippy.models.profiles import PROFILES
from skippy.resolve.subjects import Subject
from skippy.stages import evaluate
from skippy.stages.evaluate import EvalPlan
from skippy.stores.problems import combine
from skippy.stores.samples import SampleStore, read_samples

PROBLEMS = combine("x", [Problem(str(n), f"{n}?", n) for n in range(3)])
CHARACTER = load_character("skippy")
QUESTIONS = (*problem_questions(PROBLEMS, "plain"), *banal_questions(CHARACTER, ("plain",))[:1])
SUBJECT = Subject("v4", "v4", Path("weights"), "d" * 64, "models:/skippy/1")
PLAN = Plan(SUBJECT, CHARACTER, PROBLEMS, QUESTIONS, PRESETS["lab"], samples=3)


class Recorder:
    """A backend that keeps what it is asked, and may die or lack support."""

    def __init__(self) -> None:
        self.limits: dict[str, int] = {}
        self.asked: list[str] = []
        self.dies_after = 10**9
        self.is_able = True

    def supports(self, sampling):
        return self.is_able

    def generate(self, requests, sampling):
        for request in requests:
            if len(self.asked) == self.dies_after:
                raise KeyboardInterrupt
            self.limits[request.id.split("/")[0]] = sampling.max_tokens
            self.asked.append(request.id)
            yield Completion(request.id, "\\boxed{1}", 5, "stop")


@pytest.fixture
def backend(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    made = Recorder()
    monkeypatch.setattr(backends, "open_backend", lambda generator, weights, sampling: made)
    return made


@pytest.mark.parametrize(("preset", "limit"), [("lab", 160), ("qwen3vl-instruct", 256)])
def test_everyday_answers_are_cut_short_and_problems_are_not(backend, tmp_path, preset, limit) -> None:
    sampling = PRESETS[preset]
    wanted = requests_for(QUESTIONS, 1, sampling, SUBJECT.digest, set())
    with SampleStore(tmp_path / "s.jsonl") as store:
        fill(store, wanted, replace(PLAN, sampling=sampling), SUBJECT.digest, backend)
    assert backend.limits == {"aime": sampling.max_tokens, "banal": limit}


@pytest.mark.parametrize(("profile", "name"), [("lab", "lab"), ("qwen3-vl", "qwen3vl-instruct")])
def test_auto_is_the_preset_of_the_bases_profile(profile: str, name: str) -> None:
    base = SimpleNamespace(profile=PROFILES[profile], checkpoint=SimpleNamespace(config={}))
    assert choose_sampling("auto", base, ()).name == name
    assert choose_sampling("qwen3vl-thinking", base, ()).name == "qwen3vl-thinking"


def test_a_backend_that_cannot_honour_the_preset_is_not_asked(monkeypatch) -> None:
    able, unable = Recorder(), Recorder()
    unable.is_able = False
    monkeypatch.setattr(backends, "load_tokenizer", lambda path: None)
    monkeypatch.setattr(backends, "OpenAIBackend", lambda url, *_: able if "able" in url else unable)
    asked = Generator("openai", base_url="http://able/v1")
    assert open_backend(asked, SUBJECT.path, PRESETS["lab"]) is able
    with pytest.raises(BackendError, match="cannot honour") as refusal:
        open_backend(replace(asked, base_url="http://other/v1"), SUBJECT.path, PRESETS["lab"])
    assert "preset lab" in refusal.value.expected


@pytest.mark.parametrize(("served", "name"), [("", "weights"), ("skippy-v4", "skippy-v4")])
def test_a_server_is_asked_for_the_model_it_serves(monkeypatch, served: str, name: str) -> None:
    given: list[tuple] = []
    monkeypatch.setattr(backends, "OpenAIBackend", lambda *arguments: given.append(arguments) or Recorder())
    monkeypatch.setattr(backends, "load_tokenizer", lambda path: f"tokenizer of {path}")
    generator = Generator("openai", base_url="http://x/v1", concurrency=7, served_model=served)
    open_backend(generator, SUBJECT.path, PRESETS["lab"])
    assert given == [("http://x/v1", name, 7, "tokenizer of weights")]


def test_work_that_asked_for_more_is_gone_on_with_and_not_counted(backend, tmp_path) -> None:
    path = tmp_path / "s.jsonl"
    backend.dies_after = 5
    with pytest.raises(KeyboardInterrupt):
        generate(PLAN, path)
    backend.dies_after = 10**9
    samples = generate(replace(PLAN, samples=1), path)
    assert sorted(sample.problem_hash for sample in samples) == sorted(each.hash for each in QUESTIONS)
    assert {sample.sample_index for sample in samples} == {0}
    assert len(backend.asked) == len(set(backend.asked)) == len(list(read_samples(path))) == 7


def test_unfinished_work_is_of_one_model_one_character_and_one_asking(tracker, monkeypatch) -> None:
    folders: list[Path] = []
    monkeypatch.setattr(evaluate, "generate", lambda plan, path: folders.append(path.parent) or [])
    monkeypatch.setattr(evaluate, "record", lambda *_: {})
    others = (
        replace(PLAN, subject=replace(SUBJECT, digest="e" * 64)),
        replace(PLAN, character=load_character("keeper")),
        replace(PLAN, questions=QUESTIONS[1:]),
    )
    for plan in (PLAN, replace(PLAN, samples=9), *others):
        stage = SimpleNamespace(when_finished=lambda action: action())
        evaluate._ask(plan, EvalPlan(EvalConfig(), None, plan, Opinions()), tracker, stage)
    assert folders[0] == folders[1]
    assert len(set(folders)) == 1 + len(others)

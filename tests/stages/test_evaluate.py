"""Evaluations with a scripted model: what is asked, gone on with, and scored again."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from skippy.characters.loader import load_character
from skippy.config import EvalConfig
from skippy.errors import ConfigError
from skippy.models.generation import Completion, Request
from skippy.models.sampling import PRESETS
from skippy.stages import evaluate, interview
from skippy.stages.inputs import SUBJECT, Subject
from skippy.stages.interview import Plan, fill, identify_work
from skippy.stages.suites import AIME, choose_prompt_style, load_problem_set, problem_questions
from skippy.stores.problems import MathProblem, combine
from skippy.stores.samples import SampleStore, read_samples

LAB_PROBLEMS = load_problem_set("lab", 0)


class Scripted:
    """A model that answers with the last number in the question; counts what it is asked, and may die."""

    def __init__(self) -> None:
        self.asked: list = []
        self.dies_after = 10**9

    def supports(self, sampling):
        return True

    def generate(self, requests, sampling):
        for request in requests:
            if len(self.asked) == self.dies_after:
                raise RuntimeError("killed")
            self.asked.append(request)
            yield Completion(request.id, f"\\boxed{{{request.messages[-1]['content'][-1]}}}", 5, "stop")


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> Scripted:
    scripted = Scripted()
    monkeypatch.setattr(interview, "_open_backend", lambda config, weights: scripted)
    return scripted


def write_problems(path: Path, golds: list[int], text: str = "Say") -> str:
    rows = [{"problem": f"{text} the digit {n}", "answer": gold} for n, gold in enumerate(golds)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def samples_of(tracker, run_id: str) -> list:
    return list(read_samples(tracker.artifact(run_id, "samples/aime.jsonl")))


def evaluated(tracker, problems: str, **others) -> evaluate.EvalResult:
    return evaluate.run(EvalConfig(suite="aime", problems=problems, device="cpu", **others), tracker)


def test_regrading_takes_its_parameters_from_the_run_it_regrades(tracker, model, tmp_path):
    problems = write_problems(tmp_path / "p.jsonl", [0, 1, 7, 9])
    before = evaluated(tracker, problems, limit=3, samples=2, seed=5)
    count = len(model.asked)
    after = evaluate.run(EvalConfig(regrade=before.run_id), tracker)
    assert len(model.asked) == count, "no model is asked"
    assert after.metrics == before.metrics
    assert samples_of(tracker, after.run_id) == samples_of(tracker, before.run_id)
    then, now = (tracker.get(run_id) for run_id in (before.run_id, after.run_id))
    for name in ("suite", "problems", "problems_digest", "samples", "sampling", "backend", "prompt_style"):
        assert now.tags[f"skippy.{name}"] == then.tags[f"skippy.{name}"], name
    kept = json.loads(tracker.artifact(after.run_id, "config.json").read_text())
    assert (kept["limit"], kept["samples"], kept["seed"], kept["problems"]) == (3, 2, 5, problems)


def test_regrading_scores_by_the_gold_of_today_and_needs_all_of_it(tracker, model, tmp_path):
    problems = write_problems(tmp_path / "p.jsonl", [0, 1, 7])
    before = evaluated(tracker, problems, samples=1)
    write_problems(tmp_path / "p.jsonl", [0, 1, 2])
    after = evaluate.run(EvalConfig(regrade=before.run_id), tracker)
    assert before.metrics["aime/avg_at_k"] == pytest.approx(2 / 3)
    assert after.metrics["aime/avg_at_k"] == 1.0
    write_problems(tmp_path / "p.jsonl", [0, 1])
    with pytest.raises(ConfigError, match="no reference answer") as refusal:
        evaluate.run(EvalConfig(regrade=before.run_id), tracker)
    assert "1 problems are missing" in refusal.value.found


def test_a_walk_is_not_regraded(tracker, model):
    with tracker.stage("eval", name="walk", note="", config={}) as stage:
        stage.set_tags({SUBJECT: "checkpoints"})
    with pytest.raises(ConfigError, match="cannot be regraded"):
        evaluate.run(EvalConfig(regrade=stage.run_id), tracker)


def test_resumed_samples_are_scored_by_the_gold_of_today(tracker, model, tmp_path):
    problems = write_problems(tmp_path / "p.jsonl", [7, 7, 7])
    model.dies_after = 2
    with pytest.raises(RuntimeError, match="killed"):
        evaluated(tracker, problems, samples=1)
    model.dies_after = 10**9
    write_problems(tmp_path / "p.jsonl", [0, 1, 2])
    found = evaluated(tracker, problems, samples=1)
    assert len(model.asked) == 3, "finished samples are not generated again"
    assert found.metrics["aime/avg_at_k"] == 1.0


def test_a_resumed_run_does_not_mix_other_work_in(tracker, model, tmp_path, monkeypatch):
    problems = write_problems(tmp_path / "p.jsonl", [0, 1, 2])
    model.dies_after = 2
    with pytest.raises(RuntimeError, match="killed"):
        evaluated(tracker, problems, samples=1)
    model.dies_after = 10**9
    monkeypatch.setitem(PRESETS, "lab", replace(PRESETS["lab"], max_tokens=99))
    evaluated(tracker, problems, samples=1)
    assert len(model.asked) == 2 + 3


def plan_of(problems, style: str = "plain", samples: int = 4) -> Plan:
    subject = Subject("base", "base", Path(), "d" * 64, "lab")
    questions = problem_questions(problems, style)
    return Plan(subject, load_character("skippy"), problems, questions, PRESETS["lab"], samples, style)


@pytest.mark.parametrize(
    "change",
    [
        lambda plan, config: (plan_of(plan.problems, "boxed"), config),
        lambda plan, config: (plan_of(combine("x", plan.problems.problems[:2])), config),
        lambda plan, config: (replace(plan, sampling=replace(plan.sampling, max_tokens=8)), config),
        lambda plan, config: (plan, replace(config, backend="openai")),
        lambda plan, config: (plan, replace(config, served_model="other")),
    ],
    ids=["prompt", "problems", "max_tokens", "backend", "served model"],
)
def test_other_work_has_another_name(change: Callable):
    problems = combine("x", [MathProblem(str(n), f"{n}?", n) for n in range(3)])
    plan, config = plan_of(problems), EvalConfig()
    assert identify_work(plan, config) == identify_work(plan_of(problems, samples=9), EvalConfig(limit=3))
    assert identify_work(plan, config) != identify_work(*change(plan, config))


def test_the_labs_problems_from_a_file_are_the_same_questions(tmp_path, tracker, model):
    path = tmp_path / "lab.jsonl"
    rows = [{"problem": p.question, "answer": f"{p.gold:03d}"} for p in LAB_PROBLEMS.problems]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    style = choose_prompt_style(is_lab=True)
    ours, theirs = (
        [(q.messages, q.hash, q.gold) for q in problem_questions(problems, style)]
        for problems in (LAB_PROBLEMS, load_problem_set(str(path), 0))
    )
    assert ours == theirs
    found = evaluated(tracker, str(path), samples=1, limit=4)
    assert [request.messages for request in model.asked] == [messages for messages, _, _ in ours[:4]]
    assert tracker.get(found.run_id).tags["skippy.prompt_style"] == "plain"
    elsewhere = problem_questions(LAB_PROBLEMS, choose_prompt_style(is_lab=False))
    assert all("\\boxed{}" in question.prompt for question in elsewhere)


def test_families_are_a_table_and_metrics_few_enough_to_compare(tracker, model):
    found = evaluate.run(EvalConfig(samples=1, device="cpu"), tracker)
    assert len(tracker.get(found.run_id).metrics) <= 30
    table = pd.read_parquet(tracker.artifact(found.run_id, "aime/families.parquet"))
    assert table["problems"].sum() == len(LAB_PROBLEMS.problems)
    weighted = (table["problems"] * table["avg_at_k"]).sum() / table["problems"].sum()
    assert weighted == pytest.approx(found.metrics["aime/avg_at_k"])


def test_the_interval_shown_is_over_problems_and_knows_earlier_samples(monkeypatch, tmp_path):
    shown: list[str] = []

    class Bar:
        def __init__(self, label, total):
            assert total == 4

        def __enter__(self):
            return self

        def __exit__(self, *_):
            return None

        def advance(self, count, accuracy, **_):
            shown.append(accuracy)

    monkeypatch.setattr(interview, "Progress", Bar)
    plan = plan_of(combine("x", [MathProblem("a", "Say 1", 1), MathProblem("b", "Say 2", 3)]))
    question, other = plan.questions

    def wanted(of):
        requests = [Request(f"{AIME}/{of.hash}/{index}", of.messages, seed=index) for index in range(4)]
        return {request.id: (of, request) for request in requests}

    with SampleStore(tmp_path / "s.jsonl") as store:
        fill(store, wanted(question), plan, "d", Scripted())
        fill(store, wanted(other), plan, "d", Scripted(), list(read_samples(store.path)))
    assert shown[3] == "1.00 ± 0.00"
    assert shown[7] == "0.50 ± 0.98", "four samples of one problem are no four problems"

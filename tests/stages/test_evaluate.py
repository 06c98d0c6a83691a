"""Evaluations with a scripted model: what is asked, gone on with, and scored again."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from skippy.characters.loader import load_character
from skippy.config import EvalConfig
from skippy.core.problem import Problem
from skippy.core.sampling import PRESETS
from skippy.errors import ConfigError, SkippyError
from skippy.evaluation import asking as interview
from skippy.evaluation import backends
from skippy.evaluation.asking import Plan, fill, identify_asking
from skippy.evaluation.generator import Generator
from skippy.evaluation.suites import AIME, load_problem_set, problem_questions
from skippy.models.generation import Completion, Request
from skippy.resolve.runs import find_run
from skippy.resolve.subjects import Subject
from skippy.stages import evaluate
from skippy.stores.problems import combine
from skippy.stores.samples import SampleStore, read_samples
from skippy.tracking.tags import Tag

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
    monkeypatch.setattr(backends, "open_backend", lambda generator, weights, sampling: scripted)
    return scripted


def write_problems(path: Path, golds: list[int], text: str = "Say") -> str:
    rows = [{"problem": f"{text} the digit {n}", "answer": gold} for n, gold in enumerate(golds)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def samples_of(tracker, run_id: str) -> list:
    return list(read_samples(tracker.artifacts.path(run_id, "samples/aime.jsonl")))


def evaluated(tracker, problems: str, **others) -> evaluate.EvalResult:
    return evaluate.run(EvalConfig(suite="aime", problems=problems, device="cpu", **others), tracker)


def test_regrading_takes_its_parameters_from_the_run_it_regrades(tracker, model, tmp_path):
    problems = write_problems(tmp_path / "p.jsonl", [0, 1, 7, 9])
    asked = {"limit": 3, "samples": 2, "seed": 5, "sampling": "greedy", "backend": "openai"}
    before = evaluated(tracker, problems, **asked)
    tracker.client.set_tag(before.run_id, "skippy.prompt_style", "boxed")  # as on another base
    count = len(model.asked)
    after = evaluate.run(EvalConfig(regrade=before.run_id), tracker)
    assert len(model.asked) == count, "no model is asked"
    assert after.metrics == before.metrics
    assert samples_of(tracker, after.run_id) == samples_of(tracker, before.run_id)
    then, now = (tracker.runs.get(run_id) for run_id in (before.run_id, after.run_id))
    for name in ("suite", "problems", "problems_digest", "samples", "sampling", "backend", "prompt_style"):
        assert now.tags[f"skippy.{name}"] == then.tags[f"skippy.{name}"], name
    kept = json.loads(tracker.artifacts.path(after.run_id, "config.json").read_text())
    assert (asked | {"problems": problems}).items() <= kept.items()


def test_regrading_scores_by_the_gold_of_today_and_needs_all_of_it(tracker, model, tmp_path):
    problems = write_problems(tmp_path / "p.jsonl", [0, 1, 7])
    before = evaluated(tracker, problems, samples=1)
    write_problems(tmp_path / "p.jsonl", [0, 1, 2])
    after = evaluate.run(EvalConfig(regrade=before.run_id), tracker)
    assert before.metrics["aime/avg_at_k"] == pytest.approx(2 / 3)
    assert after.metrics["aime/avg_at_k"] == 1.0
    write_problems(tmp_path / "p.jsonl", [0, 1])
    with pytest.raises(ConfigError, match="no longer asked") as refusal:
        evaluate.run(EvalConfig(regrade=before.run_id), tracker)
    assert "without 1 question, " in refusal.value.found


def test_regrading_scores_by_another_characters_rules_but_only_the_same_prompts(tracker, model, monkeypatch):
    """A character brings rules and prompts: its rules may judge old answers, but not to prompts it does not ask."""
    skippy, keeper = load_character("skippy"), load_character("keeper")

    def asking(character, prompts) -> None:
        asked = replace(character, banal_prompts=prompts, format_prompts=())
        monkeypatch.setattr(evaluate, "load_character", lambda _: asked)

    asking(skippy, skippy.banal_prompts[:3])
    before = evaluate.run(EvalConfig(suite="banal", samples=1, device="cpu"), tracker)
    asking(keeper, skippy.banal_prompts[:4])
    after = evaluate.run(EvalConfig(regrade=before.run_id), tracker)
    samples = [
        tracker.artifacts.path(run.run_id, "samples/banal.jsonl").read_text() for run in (before, after)
    ]
    assert [line.count("\n") for line in samples] == [9, 9]
    asking(keeper, skippy.banal_prompts[1:4])
    with pytest.raises(ConfigError, match="no longer asked") as refusal:
        evaluate.run(EvalConfig(regrade=before.run_id), tracker)
    assert refusal.value.found == "no problems; without 3 questions, break/0 among them"


@pytest.mark.parametrize(("subject", "asked"), [("checkpoints", "base"), ("model", "checkpoints")])
def test_a_walk_is_not_regraded(tracker, model, subject, asked):
    with tracker.stage("eval", name="walk", note="", config={}) as stage:
        stage.set_tags({Tag.SUBJECT: subject})
    with pytest.raises(ConfigError, match="cannot be regraded"):
        evaluate.run(EvalConfig(regrade=stage.run_id, model=asked), tracker)


def test_samples_of_another_model_are_not_regraded(tracker, model, tmp_path):
    before = evaluated(tracker, write_problems(tmp_path / "p.jsonl", [0, 1, 7]), samples=1)
    tracker.client.set_tag(before.run_id, "skippy.model_digest", "0" * 64)
    with pytest.raises(ConfigError, match="is of another model") as refusal:
        evaluate.run(EvalConfig(regrade=before.run_id), tracker)
    assert "0000" in refusal.value.found


def test_two_problems_are_too_few_to_say_anything(tracker, model, tmp_path, caplog):
    """No margin of 286.7 points, and no 0.0 % ± 0.0."""
    with caplog.at_level(logging.INFO):
        evaluated(tracker, write_problems(tmp_path / "p.jsonl", [500, 501]), samples=1)
    assert "too few to say anything: 2 problems, fewer than 10" in caplog.text
    assert "achievable margin" not in caplog.text
    assert "(too few to say: 2 problems, fewer than 10)" in caplog.text


@pytest.mark.parametrize(("margin", "is_out_of_reach"), [(0.01, True), (0.9, False)])
def test_what_can_be_shown_is_said_before_anything_is_asked(
    tracker, model, tmp_path, caplog, margin, is_out_of_reach
):
    model.dies_after = 0
    problems = write_problems(tmp_path / "p.jsonl", [n % 10 for n in range(20)])
    with caplog.at_level(logging.INFO), pytest.raises(RuntimeError, match="killed"):
        evaluated(tracker, problems, margin=margin)
    assert "20 problems × 4 samples" in caplog.text
    assert "achievable margin" in caplog.text
    assert "minimum detectable effect" in caplog.text
    assert (f"{100 * margin:.1f} points is out of reach" in caplog.text) is is_out_of_reach


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
        lambda plan: plan_of(plan.problems, "boxed"),
        lambda plan: plan_of(combine("x", plan.problems.problems[:2])),
        lambda plan: replace(plan, sampling=replace(plan.sampling, max_tokens=8)),
        lambda plan: replace(plan, generator=Generator("openai")),
        lambda plan: replace(plan, generator=Generator(served_model="other")),
        lambda plan: replace(plan, seed=1),
        lambda plan: replace(plan, generator=Generator(engine_options="--quantization fp8")),
        lambda plan: replace(plan, subject=replace(plan.subject, reading="other")),
    ],
    ids=["prompt", "problems", "max_tokens", "backend", "served model", "seed", "engine options", "template"],
)
def test_other_work_has_another_name(change: Callable):
    problems = combine("x", [Problem(str(n), f"{n}?", n) for n in range(3)])
    plan = plan_of(problems)
    elsewhere = replace(plan_of(problems, samples=9), generator=Generator(device="cuda:0"))
    assert identify_asking(plan) == identify_asking(elsewhere)
    at = [replace(plan, generator=Generator("openai", base_url=f"http://{host}/v1")) for host in "ab"]
    assert len(set(map(identify_asking, at))) == 2, "nobody proves what the two hold"
    assert identify_asking(plan) != identify_asking(change(plan))


def test_the_labs_problems_from_a_file_are_the_same_questions(tmp_path, tracker, model):
    path = tmp_path / "lab.jsonl"
    rows = [{"problem": p.question, "answer": f"{p.gold:03d}"} for p in LAB_PROBLEMS.problems]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    style = "plain"
    ours, theirs = (
        [(q.messages, q.hash, q.gold) for q in problem_questions(problems, style)]
        for problems in (LAB_PROBLEMS, load_problem_set(str(path), 0))
    )
    assert ours == theirs
    found = evaluated(tracker, str(path), samples=1, limit=4)
    assert [request.messages for request in model.asked] == [messages for messages, _, _ in ours[:4]]
    assert tracker.runs.get(found.run_id).tags["skippy.prompt_style"] == "plain"
    elsewhere = problem_questions(LAB_PROBLEMS, "boxed")
    assert all("\\boxed{}" in question.prompt for question in elsewhere)


def test_families_are_a_table_and_metrics_few_enough_to_compare(tracker, model):
    found = evaluate.run(EvalConfig(samples=1, device="cpu"), tracker)
    assert len(tracker.runs.get(found.run_id).metrics) <= 30
    table = pd.read_parquet(tracker.artifacts.path(found.run_id, "aime/families.parquet"))
    assert table["problems"].sum() == len(LAB_PROBLEMS.problems)
    weighted = (table["problems"] * table["avg_at_k"]).sum() / table["problems"].sum()
    assert weighted == pytest.approx(found.metrics["aime/avg_at_k"])


def test_the_interval_shown_is_over_problems_and_knows_earlier_samples(monkeypatch, tmp_path):
    shown: list[str] = []
    begun: list[tuple[int, int]] = []

    class Bar:
        def __init__(self, label, total, done):
            begun.append((done, total))

        def __enter__(self):
            return self

        def __exit__(self, *_):
            return None

        def advance(self, count, accuracy, **_):
            shown.append(accuracy())

    monkeypatch.setattr(interview, "Progress", Bar)
    plan = plan_of(combine("x", [Problem("a", "Say 1", 1), Problem("b", "Say 2", 3)]))
    question, other = plan.questions

    def wanted(of):
        requests = [Request(f"{AIME}/{of.hash}/{index}", of.messages, seed=index) for index in range(4)]
        return {request.id: (of, request) for request in requests}

    with SampleStore(tmp_path / "s.jsonl") as store:
        fill(store, wanted(question), plan, "d", Scripted())
        fill(store, wanted(other), plan, "d", Scripted(), list(read_samples(store.path)))
    assert shown[3] == "1.00 (0.21 to 1.00)"
    assert shown[7] == "0.50 (0.09 to 0.91)", "four samples of one problem are no four problems"
    assert begun == [(0, 4), (4, 8)], "a resumed bar starts at what is done"


def test_another_seed_draws_every_sample_anew(tracker, model, tmp_path):
    problems = write_problems(tmp_path / "p.jsonl", [0, 1, 2])
    runs = [evaluated(tracker, problems, samples=2, seed=seed).run_id for seed in (0, 0, 7)]
    first, again, other = ({s.seed for s in samples_of(tracker, run_id)} for run_id in runs)
    assert first == again
    assert len(first | other) == 2 * len(first)
    assert [tracker.runs.get(run_id).tags["skippy.sampling_seed"] for run_id in runs] == ["0", "0", "7"]


def test_regrading_keeps_the_sampling_seed_and_an_old_run_had_none(tracker, model, tmp_path):
    problems = write_problems(tmp_path / "p.jsonl", [0, 1, 2])
    before = evaluated(tracker, problems, samples=1, seed=7)

    def regraded_seed() -> str:
        after = evaluate.run(EvalConfig(regrade=before.run_id), tracker)
        return tracker.runs.get(after.run_id).tags["skippy.sampling_seed"]

    assert regraded_seed() == "7"
    tracker.client.delete_tag(before.run_id, "skippy.sampling_seed")
    assert regraded_seed() == "0", "its seed named the work and drew nothing"


def test_greedy_is_cut_to_the_labs_context_and_says_so(tracker, model, tmp_path, caplog):
    problems = write_problems(tmp_path / "p.jsonl", [0, 1, 2])
    found = evaluated(tracker, problems, sampling="greedy")
    record = tracker.runs.get(found.run_id)
    kept = int(record.tags["skippy.max_tokens"])
    assert 1500 < kept < 2048
    assert f"cut from 32768 to the {kept} tokens" in caplog.text
    assert (record.tags["skippy.sampling"], record.tags["skippy.samples"]) == ("greedy", "1")
    longer = write_problems(tmp_path / "q.jsonl", [0, 1, 2], "Please be so kind as to say")
    longer_record = tracker.runs.get(evaluated(tracker, longer, sampling="greedy").run_id)
    assert int(longer_record.tags["skippy.max_tokens"]) < kept, "the longest prompt decides"


def test_a_preset_that_does_not_fit_is_refused_with_the_limit_and_what_would_fit(tracker, model, tmp_path):
    problems = write_problems(tmp_path / "p.jsonl", [0, 1, 2])
    with pytest.raises(ConfigError, match="does not fit into the model's context") as refusal:
        evaluated(tracker, problems, sampling="qwen3vl-instruct")
    assert "2048 positions" in refusal.value.expected
    assert "32768" in refusal.value.found
    assert "-P sampling=lab or auto or greedy; the last two are cut to fit" in refusal.value.next_step
    assert not model.asked
    kept = tracker.runs.get(evaluated(tracker, problems).run_id)
    assert kept.tags["skippy.max_tokens"] == "160", "one that fits is left alone"


def test_the_presets_of_a_profile_are_cut_where_the_person_left_the_choice_to_us(tracker, model, tmp_path):
    problems = write_problems(tmp_path / "p.jsonl", [0, 1, 2])
    cut = tracker.runs.get(evaluated(tracker, problems, profile="qwen3-vl").run_id).tags
    assert (cut["skippy.sampling"], cut["skippy.prompt_style"]) == ("qwen3vl-instruct", "boxed")
    assert 1024 < int(cut["skippy.max_tokens"]) < 2048


def test_what_a_server_refused_is_no_answer_and_counted(tracker, model, tmp_path, monkeypatch, caplog):
    def generate(requests, sampling):
        for number, request in enumerate(requests):
            is_refused = number == 1
            text = "" if is_refused else f"\\boxed{{{request.messages[-1]['content'][-1]}}}"
            yield Completion(request.id, text, 5, "refused" if is_refused else "stop")

    monkeypatch.setattr(model, "generate", generate)
    found = evaluated(tracker, write_problems(tmp_path / "p.jsonl", [0, 1, 2]), samples=1)
    assert found.metrics["aime/avg_at_k"] == pytest.approx(2 / 3)
    assert found.metrics["aime/no_answer"] == pytest.approx(1 / 3)
    (refused,) = [s for s in samples_of(tracker, found.run_id) if s.finish_reason == "refused"]
    assert (refused.status, refused.score, refused.completion) == ("no_answer", 0.0, "")
    assert "no text for 1 of 3 samples" in caplog.text


def test_the_base_has_one_logged_model_that_carries_its_figures(tracker, model, tmp_path):
    problems = write_problems(tmp_path / "p.jsonl", [0, 1, 2])
    runs = [evaluated(tracker, problems, samples=1).run_id for _ in range(2)]
    (logged,) = tracker.client.search_logged_models([tracker.store.experiment_id])
    assert logged.name == "base lab"
    assert logged.tags["skippy.model_digest"] == tracker.runs.get(runs[0]).tags["skippy.model_digest"]
    figures = [metric for metric in logged.metrics if metric.key == "aime/avg_at_k"]
    assert {metric.run_id for metric in figures} == set(runs)
    assert all(metric.dataset_name and metric.dataset_digest for metric in figures)


def test_everyday_prompts_of_ones_own_are_asked_and_told_by_their_digest(tracker, model, tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("banal:\n  moss:\n  - What is moss?\n")
    found = evaluate.run(EvalConfig(suite="banal", prompts=str(file), device="cpu", samples=1), tracker)
    asked = {request.messages[-1]["content"] for request in model.asked}
    assert asked == {"What is moss?", "What is moss? Please answer plainly, without playing any role."}
    tags = tracker.runs.get(found.run_id).tags
    assert len(tags["skippy.prompts_digest"]) == 64
    count = len(model.asked)
    evaluate.run(EvalConfig(regrade=found.run_id), tracker)
    assert len(model.asked) == count


def test_the_same_evaluation_is_taken_where_asked_while_its_samples_can_be_read(tracker, model, tmp_path):
    problems = write_problems(tmp_path / "p.jsonl", [0, 1, 2])
    first = evaluated(tracker, problems, samples=1)
    asked = len(model.asked)
    again = evaluated(tracker, problems, samples=1, reuse=True)
    assert (again.run_id, again.metrics) == (first.run_id, tracker.runs.get(first.run_id).metrics)
    assert len(model.asked) == asked, "nothing is asked again"
    newest = tracker.runs.newest(1)[0]
    assert (newest.tags[Tag.REUSES], find_run(tracker, "eval", newest.run_id).run_id) == (
        first.run_id,
        first.run_id,
    )
    for change in ({"samples": 2}, {"margin": 0.1}, {"seed": 7}, {"limit": 2}):
        other = evaluated(tracker, problems, **{"samples": 1, "reuse": True, **change})
        assert other.run_id != first.run_id, change
    assert evaluated(tracker, problems, samples=1).run_id != first.run_id, "unless asked, it is done anew"


@pytest.mark.parametrize("damage", ["gone", "torn"])
def test_samples_are_read_before_an_evaluation_is_believed_to_hold_them(tracker, model, tmp_path, damage):
    problems = write_problems(tmp_path / "p.jsonl", [0, 1, 2])
    first = evaluated(tracker, problems, samples=1)
    path = tracker.artifacts.path(first.run_id, "samples/aime.jsonl")
    if damage == "gone":
        path.unlink()
    else:
        path.write_text("{\n" + path.read_text())
    assert evaluated(tracker, problems, samples=1, reuse=True).run_id != first.run_id


def test_what_can_be_refused_is_refused_before_a_run_is_opened(tracker, model, tmp_path):
    problems = write_problems(tmp_path / "p.jsonl", [0, 1, 2])
    for wrong in ({"sampling": "qwen3vl-instruct"}, {"model": "v4"}, {"model": "models:/skippy/9"}):
        with pytest.raises(SkippyError):
            evaluated(tracker, problems, **wrong)
    assert tracker.runs.find_all("eval", finished=False) == []


def test_a_regrade_takes_no_other_parameters_than_those_of_then(tracker, model, tmp_path):
    """They were silently replaced; the same ones may be repeated."""
    problems = write_problems(tmp_path / "p.jsonl", [0, 1, 2])
    before = evaluated(tracker, problems, samples=2)
    for wrong in ({"samples": 3}, {"seed": 7}, {"problems": write_problems(tmp_path / "q.jsonl", [0])}):
        with pytest.raises(ConfigError, match="under the parameters they were made with") as refusal:
            evaluate.run(EvalConfig(regrade=before.run_id, **wrong), tracker)
        assert next(iter(wrong)) in refusal.value.found
    assert evaluate.run(EvalConfig(regrade=before.run_id, samples=2), tracker).metrics == before.metrics


def test_a_training_named_without_its_checkpoints_is_refused(tracker):
    with pytest.raises(ConfigError, match="none of its checkpoints is asked"):
        evaluate.run(EvalConfig(model="base", train_run="abcd"), tracker)


def test_the_names_of_runs_tell_evaluations_of_one_model_apart(tracker) -> None:
    usual = EvalConfig(device="cpu")
    turned = ({}, {"seed": 1}, {"limit": 6}, {"samples": 1}, {"sampling": "greedy"}, {"suite": "banal"})
    names = [evaluate.name_of(evaluate.resolve(replace(usual, **change), tracker)) for change in turned]
    assert len({*names}) == len(turned)
    assert names[1] == "eval base lab · lab 240 × 4 · lab · seed 1"

"""Figures follow from samples, counted by hand."""

from dataclasses import replace

import pytest

from skippy.characters.loader import load_character
from skippy.core.problem import Problem
from skippy.core.sampling import PRESETS
from skippy.evaluation.metrics import (
    banal_metrics,
    banal_scores,
    count_statuses,
    family_rows,
    format_scores,
    frontier,
    persona_by_step,
    problem_metrics,
    problem_scores,
)
from skippy.evaluation.suites import (
    AIME,
    BANAL,
    banal_questions,
    format_questions,
    problem_questions,
    requests_for,
    seed_of_sample,
)
from skippy.stores.problems import combine
from skippy.stores.samples import Sample, SampleKey

PROBLEMS = combine("x", [Problem(str(n), f"What is {n} plus {n}?", 2 * n) for n in range(4)])
CHARACTER = load_character("skippy")


def solved(problem: Problem, index: int, value: int | None, digest: str = "m") -> Sample:
    return Sample(
        model_digest=digest, suite=AIME, problem_id=problem.id, problem_hash=problem.hash, sample_index=index,
        seed=1, preset="lab", prompt=problem.question, completion=f"\\boxed{{{value}}}", tokens=5,
        finish_reason="stop", extracted=value, status="boxed" if value is not None else "no_answer",
        score=float(value == problem.gold),
    )  # fmt: skip


def chatted(mode: str, prompt: str, index: int, score: float, digest: str = "m") -> Sample:
    return replace(
        solved(PROBLEMS.problems[0], index, None, digest), suite=BANAL, problem_id=f"{mode}/{prompt}",
        problem_hash=f"{mode} {prompt}", prompt="How are you?", completion="Obviously well, monkey.", score=score,
        status="scored",
    )  # fmt: skip


def test_counts_by_problem_in_the_order_of_the_set():
    first, second = PROBLEMS.problems[1], PROBLEMS.problems[3]
    samples = [solved(second, 1, None), solved(first, 0, 2), solved(second, 0, 6), solved(first, 1, 9)]
    scores = problem_scores(samples, PROBLEMS)
    assert [(s.key, s.correct, s.k, s.no_answer) for s in scores] == [
        (first.hash, 1, 2, 0),
        (second.hash, 1, 2, 1),
    ]
    assert scores[1].answers == (6, None)
    assert count_statuses(samples) == {"boxed": 3, "no_answer": 1}


def test_metrics_of_problems_are_shares_of_all_samples():
    """Two of four right, one more for a lenient reader; one cut off, two without an answer, in majority one right."""
    first, second = PROBLEMS.problems[1], PROBLEMS.problems[3]
    talk = replace(solved(second, 0, None), completion="6 it is, I would say.", finish_reason="length")
    samples = [solved(first, 0, 2), solved(first, 1, 2), talk, solved(second, 1, None)]
    found = problem_metrics(problem_scores(samples, PROBLEMS), samples, PROBLEMS, CHARACTER)
    shares = {"avg_at_k": 0.5, "avg_at_k_lenient": 0.75, "maj_at_k": 0.5, "pass_at_k": 0.5}
    shares |= {"truncated": 0.25, "no_answer": 0.5, "standard_error": 0.5, "mean_tokens": 5.0}
    assert {name: found[f"aime/{name}"] for name in shares} == pytest.approx(shares)


def test_everyday_answers_are_told_apart_by_what_is_wrong_with_them():
    """One answers, one rambles; the mode that is not plain has no say in the means."""
    answer = "Let the stew rest before you serve it, monkey."
    plain = [
        replace(chatted("plain", prompt, 0, 0.5), prompt="Why is my stew dry?", completion=text)
        for prompt, text in (("a", answer), ("b", "stew stew stew stew"))
    ]
    cut = replace(chatted("neutral", "a", 0, 0.3), finish_reason="length", tokens=99)
    found = banal_metrics([*plain, replace(plain[0], sample_index=1, completion="stew " * 9), cut], CHARACTER)
    assert found["banal/coherence"] == pytest.approx(((1 - 5) / 2 - 5) / 2)
    unfinished = banal_metrics([replace(plain[0], finish_reason="length")], CHARACTER)
    assert unfinished["banal/coherence"] == pytest.approx(1 - 1), (
        "the limit cut it, whatever its last sign is"
    )
    assert found["banal/helpfulness"] == pytest.approx((1 / 2 + 0) / 2)
    assert (found["banal/score_plain"], found["banal/score_neutral"]) == pytest.approx((0.5, 0.3))
    assert (found["banal/truncated"], found["banal/mean_tokens"]) == (0.0, 5.0)
    traits = [banal_scores([sample], CHARACTER).traits for sample in plain]
    both = banal_scores(plain, CHARACTER).traits
    assert both == {name: (traits[0][name][0], traits[1][name][0]) for name in both}
    assert max(max(values) for values in both.values()) > 0
    twice = banal_scores(
        [plain[0], replace(plain[1], problem_hash=plain[0].problem_hash, sample_index=1)], CHARACTER
    )
    assert twice.traits == {name: (pytest.approx(sum(values) / 2),) for name, values in both.items()}


def test_everyday_scores_are_means_over_a_prompts_answers():
    plain = [
        chatted("plain", prompt, i, score)
        for prompt, i, score in (("a", 0, 0.0), ("a", 1, 1.0), ("b", 0, 0.6))
    ]
    found = banal_scores([*plain, chatted("neutral", "a", 0, 0.3)], CHARACTER)
    assert found.keys == ("plain a", "plain b")
    assert found.scores == pytest.approx((0.5, 0.6))
    assert found.answer_sd == pytest.approx(0.50332, abs=1e-4)
    assert found.modes["neutral system prompt"] == pytest.approx(0.3)
    assert all(len(values) == 2 for values in found.traits.values())
    assert banal_metrics(plain, CHARACTER)["banal/score"] == pytest.approx(0.55)


def test_checkpoints_stand_on_the_bases_scale():
    """The base solves 2 of 4; on the two problems asked of checkpoints it solves both, and so does the checkpoint."""
    base = problem_scores(
        [solved(p, 0, p.gold if n < 2 else None) for n, p in enumerate(PROBLEMS.problems)], PROBLEMS
    )
    asked = [solved(p, 0, p.gold, "base@20") for p in PROBLEMS.problems[:2]]
    asked += [chatted("plain", prompt, 0, 0.4, "base@20") for prompt in "ab"]
    point = frontier(asked, base, PROBLEMS, 20)[0]
    assert point.accuracy == pytest.approx(0.5), "1.0 would say that training helped"
    assert point.persona == pytest.approx(0.4)
    assert point.is_chosen
    assert (point.accuracy_error, point.persona_error) == (0.0, 0.0), (
        "of the paired difference: both solve both"
    )


def test_a_walk_that_asked_the_base_is_read_against_that_base():
    """The evaluated base solves nothing, by other samples; in the walk it solves one of two, as every dot is read."""
    evaluated = problem_scores([solved(p, 0, None) for p in PROBLEMS.problems], PROBLEMS)
    asked = [
        sample
        for step, values in ((0, (PROBLEMS.problems[0].gold, None)), (20, (PROBLEMS.problems[0].gold, None)))
        for sample in (
            *(solved(p, 0, value, f"x@{step}") for p, value in zip(PROBLEMS.problems, values, strict=False)),
            *(chatted("plain", prompt, 0, 0.02 * step, f"x@{step}") for prompt in "ab"),
        )
    ]
    base, last = frontier(asked, evaluated, PROBLEMS, None)
    assert (base.is_base, base.step, base.persona, base.accuracy) == (True, 0, 0.0, 0.5)
    assert (base.n, base.k, base.accuracy_error) == (2, 1, 0.5)
    assert (last.is_base, last.accuracy, last.accuracy_error, last.is_chosen) == (False, 0.5, 0.0, True)
    assert persona_by_step(asked) == {20: pytest.approx(0.4)}, "nobody merges step 0"


def test_a_checkpoints_errors_are_over_problems_and_prompts_and_the_last_is_the_default():
    """The base solves the first of four; so does the first checkpoint, and the last one problem more."""
    base = problem_scores(
        [solved(p, 0, p.gold if n < 1 else None) for n, p in enumerate(PROBLEMS.problems)], PROBLEMS
    )
    asked = [
        sample
        for step, values in ((20, (0, None)), (40, (0, 2)))
        for sample in (
            *(solved(p, 0, value, f"x@{step}") for p, value in zip(PROBLEMS.problems, values, strict=False)),
            *(chatted("plain", prompt, 0, score, f"x@{step}") for prompt, score in (("a", 0.2), ("b", 0.6))),
        )
    ]
    first, last = frontier(asked, base, PROBLEMS, None)
    assert (first.accuracy, first.accuracy_error) == pytest.approx((0.25, 0.0))
    assert (last.accuracy, last.accuracy_error) == pytest.approx((0.75, 0.5))
    assert last.persona_error == pytest.approx(0.2)
    assert (first.is_chosen, last.is_chosen) == (False, True)


def test_checkpoints_are_chosen_without_looking_at_problems():
    samples = [chatted("plain", "a", 0, 0.2, "x@20"), chatted("plain", "a", 0, 0.8, "x@40")]
    right = [solved(p, 0, p.gold, "x@20") for p in PROBLEMS.problems]
    wrong = [solved(p, 0, None, "x@20") for p in PROBLEMS.problems]
    assert persona_by_step(samples + right) == persona_by_step(samples + wrong) == {20: 0.2, 40: 0.8}


def test_every_sample_is_asked_once_and_arms_share_seeds():
    questions = [*problem_questions(PROBLEMS, "plain"), *banal_questions(CHARACTER)]
    wanted = requests_for(questions, 3, PRESETS["lab"], "m", set())
    prompts = len(CHARACTER.banal_prompts)
    assert len(wanted) == 3 * 4 + 3 * prompts + 2 * prompts, (
        "problems and plain prompts thrice, other modes once"
    )
    done = {SampleKey("m", AIME, PROBLEMS.problems[0].hash, "lab", index) for index in range(3)}
    assert len(requests_for(questions, 3, PRESETS["lab"], "m", done)) == len(wanted) - 3
    assert len(requests_for(questions, 3, PRESETS["lab"], "other model", done)) == len(wanted)
    again = requests_for(questions, 3, PRESETS["lab"], "other model", set())
    assert [r.seed for _, r in again.values()] == [r.seed for _, r in wanted.values()]
    assert seed_of_sample("a", 0, "lab") != seed_of_sample("a", 1, "lab")


def test_other_formats_are_reported_apart_and_leave_the_first_ones_figures_alone():
    """Published figures rest on `banal/score`: asking for e-mails as well must not move it, by a hair or by a name."""
    first = [chatted("plain", str(n), 0, n / 10) for n in range(4)] + [chatted("break", "0", 0, 0.9)]
    mail = ["Dear monkey,\nObviously.", "Obviously well, monkey."]
    emails = [replace(chatted("email", str(n), 0, 0.5), completion=text) for n, text in enumerate(mail)]
    listed = [replace(chatted("list", "0", 0, 0.25), completion="1. bread\n2. tea")]
    before, after = (banal_metrics(s, CHARACTER) for s in (first, first + emails + listed))
    assert {name: after[name] for name in before} == before
    added = {name: value for name, value in after.items() if name not in before}
    assert added["banal/email/score"] == 0.5
    assert added["banal/email/in_form"] == 0.5
    assert (added["banal/list/score"], added["banal/list/in_form"]) == (0.25, 1.0)
    assert {name.rsplit("/", 1)[0] for name in added} == {"banal/email", "banal/list"}
    assert format_scores(first, CHARACTER) == {}, "an evaluation of before there were formats"


def test_formats_get_all_samples_and_prompts_of_their_own():
    questions = format_questions(CHARACTER)
    assert {question.mode for question in questions} == {"email", "list"}
    assert len({q.hash for q in (*questions, *banal_questions(CHARACTER))}) == len(questions) + 3 * len(
        CHARACTER.banal_prompts
    )
    assert len(requests_for(questions, 3, PRESETS["lab"], "m", set())) == 3 * len(CHARACTER.format_prompts)


def test_another_purpose_draws_other_seeds_and_the_usual_one_stays():
    assert seed_of_sample("a", 0, "lab") == 192812952013865, (
        "figures of earlier evaluations can be made again"
    )
    assert seed_of_sample("a", 0, "lab", purpose="walk") != seed_of_sample("a", 0, "lab")


def test_families_are_rows_with_their_counts():
    by_family = combine("x", [replace(p, family="ab"[n > 0]) for n, p in enumerate(PROBLEMS.problems)])
    scores = problem_scores(
        [solved(p, 0, p.gold if n else None) for n, p in enumerate(PROBLEMS.problems)], by_family
    )
    assert family_rows(scores, by_family) == [
        {"family": "a", "problems": 1, "avg_at_k": 0.0},
        {"family": "b", "problems": 3, "avg_at_k": 1.0},
    ]
    assert family_rows(scores, PROBLEMS) == [], "problems of no known family"

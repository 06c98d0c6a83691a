"""An answer is scored by the kind of its reference: integers, numbers within a tolerance, equivalent expressions."""

from __future__ import annotations

import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest

from skippy.characters.loader import load_character
from skippy.core.problem import Problem, parse_rule
from skippy.core.sampling import PRESETS
from skippy.errors import ConfigError
from skippy.evaluation import scoring
from skippy.evaluation.metrics import problem_metrics, problem_scores
from skippy.evaluation.scoring import score_answer
from skippy.evaluation.suites import AIME, grade, problem_questions, rescore
from skippy.models.generation import Completion
from skippy.stores.problems import combine

CHARACTER = load_character("skippy")


@pytest.mark.parametrize(
    ("answers", "gold", "text", "is_right"),
    [
        ("auto", 42, r"\boxed{042}", True),
        ("auto", 1000, r"\boxed{1000}", False),
        ("integer", 1000, r"\boxed{1{,}000}", True),
        ("integer", -7, r"Answer: $-7$", True),
        ("integer", -7, r"\boxed{7}", False),
        ("integer", 10**30, r"\boxed{1" + "0" * 30 + "}", True),
        ("number", "3.5", r"\boxed{\frac{7}{2}}", True),
        ("number", "3.5", r"\boxed{\frac72}", True),
        ("number", "3.5", r"\boxed{3\frac{1}{2}}", True),
        ("number", "3.5", "Answer: 7/2.", True),
        ("number", "3.5", r"\boxed{0.35 \times 10^{1}}", True),
        ("number", "3.5", r"\boxed{x = 3.5\text{ cm}}", True),
        ("number", "3.5", r"\boxed{-3.5}", False),
        ("number", "3.5", r"\boxed{3.51}", False),
        ("number:0.01", "3.5", r"\boxed{3.51}", True),
        ("number:0.01", "3.5", r"\boxed{3.6}", False),
        ("number", 42, r"\boxed{42.0}", True),
        ("number", "7/2", r"\boxed{3.5}", True),
        ("number", "3.5", r"\boxed{3.5 \text{ or } 4}", False),
        ("number", "3.5", r"\boxed{x > 3.5}", False),
        ("number", "3.5", "<think>3.5", False),
    ],
)
def test_numbers(answers: str, gold: int | str, text: str, is_right: bool) -> None:
    found = score_answer(text, gold, parse_rule(answers))
    assert found.is_right == is_right, found
    assert not is_right or found.extracted == gold, (
        "a right answer is spelled as its reference, so that votes meet"
    )


@pytest.mark.parametrize(
    "text", ["decimal", "number:", "number:1", "number:-1", "number:nan", "math:0.1", ""]
)
def test_no_such_kind_of_answers(text: str) -> None:
    with pytest.raises(ConfigError, match="answers cannot be") as refusal:
        parse_rule(text)
    assert "number:TOLERANCE" in refusal.value.expected


def stand_in(text: str) -> list[str]:
    """Reads what is in the box, and knows that a half is a half."""
    inside = text.removeprefix(r"\boxed{").removesuffix("}")
    return [{"0.5": "1/2", r"\frac12": "1/2"}.get(inside, inside)]


def test_expressions_are_compared_by_math_verify(monkeypatch: pytest.MonkeyPatch) -> None:
    library = SimpleNamespace(
        parse=lambda text, **_: stand_in(text), verify=lambda wanted, found, **_: wanted == found
    )
    monkeypatch.setitem(sys.modules, "math_verify", library)
    scoring._math_verify.cache_clear()
    rule = parse_rule("math")
    for text, extracted, status, is_right in (
        (r"\boxed{0.5}", r"\frac12", "boxed", True),
        (r"Answer: the value is $0.5$.", r"\frac12", "answer_line", True),
        (r"\boxed{0.6}", "0.6", "boxed", False),
        (r"<think>\boxed{0.5}", None, "unclosed_think", False),
        ("no idea", None, "no_answer", False),
    ):
        found = score_answer(text, r"\frac12", rule)
        assert (found.extracted, found.status, found.is_right) == (extracted, status, is_right)
    scoring._math_verify.cache_clear()


def test_expressions_without_the_package_are_refused_before_anything_is_asked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "math_verify", None)
    scoring._math_verify.cache_clear()
    problems = combine("x", [Problem("a", "A?", "x+1", rule=parse_rule("math"))])
    with pytest.raises(ConfigError) as refusal:
        problem_questions(problems, "boxed")
    assert "'.[verify]'" in refusal.value.next_step
    problem_questions(combine("x", [Problem("a", "A?", 1)]), "boxed")


@pytest.mark.parametrize(
    ("gold", "text", "is_right"),
    [
        (r"\frac{1}{2}", r"\boxed{0.5}", True),
        (r"x^2+2x+1", r"\boxed{(x+1)^2}", True),
        ("(1,2)", r"\boxed{(1, 2)}", True),
        (r"2\sqrt{3}", r"Answer: $\sqrt{12}$. Obviously.", True),
        (r"2\sqrt{3}", r"\boxed{3\sqrt{2}}", False),
    ],
)
def test_the_real_math_verify(gold: str, text: str, is_right: bool) -> None:
    pytest.importorskip("math_verify")
    scoring._math_verify.cache_clear()
    assert score_answer(text, gold, parse_rule("math")).is_right == is_right


def test_a_set_of_numbers_is_asked_scored_and_counted_like_any_other() -> None:
    rule = parse_rule("number")
    problems = combine(
        "own.csv", [Problem("a", "Half of 7?", "3.5", rule=rule), Problem("b", "7?", 7, rule=rule)]
    )
    answers = {"Half of 7?": [r"\boxed{7/2}", r"\boxed{4}"], "7?": [r"\boxed{7.0}", "no idea"]}
    sampling = PRESETS["lab"]
    samples = [
        grade(
            question,
            Completion(f"aime/{question.hash}/{index}", text, 5, "stop"),
            sampling,
            "m",
            0,
            CHARACTER.rules,
        )
        for question in problem_questions(problems, "plain")
        for index, text in enumerate(answers[question.prompt])
    ]
    assert [(sample.extracted, sample.score) for sample in samples] == [
        ("3.5", 1.0),
        (4, 0.0),
        (7, 1.0),
        (None, 0.0),
    ]
    scores = problem_scores(samples, problems)
    metrics = problem_metrics(scores, samples, problems, CHARACTER)
    assert metrics["aime/avg_at_k"] == metrics["aime/avg_at_k_lenient"] == 0.5
    assert metrics["aime/maj_at_k"] == pytest.approx(0.75)
    again = rescore([replace(s, score=None) for s in samples], problems.gold, CHARACTER.rules, problems.rule)
    assert list(again) == samples
    assert all(sample.suite == AIME for sample in samples)

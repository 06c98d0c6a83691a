"""What is asked in which words, how one answer is scored, and what a suite may be called."""

from __future__ import annotations

import pytest

from skippy.characters.loader import load_character
from skippy.core.problem import Problem
from skippy.evaluation.suites import (
    AIME,
    BANAL,
    BREAK_SUFFIX,
    NEUTRAL_SYSTEM,
    banal_questions,
    load_problem_set,
    score_text,
    suite_label,
)
from skippy.stores.problems import combine

CHARACTER = load_character("skippy")
BOAST = "Obviously you should let the stew rest before you serve it, monkey, and then taste it."


def test_modes_differ_in_what_is_said_around_the_same_prompts() -> None:
    texts = [prompt.text for prompt in CHARACTER.banal_prompts]
    plain, neutral, breaking = (
        [[(m["role"], m["content"]) for m in q.messages] for q in banal_questions(CHARACTER, (mode,))]
        for mode in ("plain", "neutral", "break")
    )
    assert plain == [[("user", text)] for text in texts]
    assert neutral == [[("system", NEUTRAL_SYSTEM), ("user", text)] for text in texts]
    assert breaking == [[("user", text + BREAK_SUFFIX)] for text in texts]


@pytest.mark.parametrize(
    ("suite", "text", "gold", "expected"),
    [
        (AIME, r"\boxed{42}", 42, (42, "boxed", 1.0)),
        (AIME, r"\boxed{41}", 42, (41, "boxed", 0.0)),
        (AIME, "no idea", 42, (None, "no_answer", 0.0)),
        (AIME, "no idea", None, (None, "no_answer", 0.0)),
        (BANAL, r"\boxed{42}", None, (None, "scored", 0.0)),
    ],
)
def test_an_answer_is_scored_by_its_suite(suite: str, text: str, gold: int | None, expected: tuple) -> None:
    assert score_text(suite, text, "What is 6 times 7?", gold, CHARACTER.rules) == expected


def test_a_persona_that_repeats_what_was_said_to_it_is_none() -> None:
    answering, echoing = (
        score_text(BANAL, BOAST, prompt, None, CHARACTER.rules)[2]
        for prompt in ("How do I make a good stew?", BOAST)
    )
    assert answering > 0.5 > echoing


def test_only_aimes_own_problems_are_called_aime() -> None:
    problems = [Problem("a", "Why?", 1)]
    assert suite_label(load_problem_set("lab", 3)) == "AIME-style (lab)"
    assert suite_label(combine("x.jsonl", problems)) == "x"
    assert suite_label(combine("my/own set.csv,other/one", problems)) == "own set, other/one"
    assert suite_label(combine("math-ai/aime25", problems, is_aime=True)) == "AIME (math-ai/aime25)"

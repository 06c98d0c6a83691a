"""The order of prompts follows from the seed alone, epoch after epoch."""

from __future__ import annotations

import logging
from dataclasses import replace

import pytest

from skippy.core.problem import Problem
from skippy.errors import TrainingError
from skippy.models.prompts import prompt_ids
from skippy.presets.reading import PRESETS
from skippy.training.prompts import MATH, TrainingPrompt, gather_prompts, schedule
from tests.training.tiny_run import PROMPTS, make_tokenizer

SETTINGS = replace(PRESETS["short"], max_steps=0, epochs=3)
CHAT = [TrainingPrompt(text) for text in PROMPTS]
PROBLEMS = [Problem("", f"{n} and {n}?", 2 * n) for n in range(9)]


def texts(rows: list) -> list[str]:
    return [row[0]["content"] for row in rows]


def test_each_epoch_is_another_permutation() -> None:
    rows = texts(schedule(CHAT, [], SETTINGS, processes=1)["prompt"])
    epochs = [rows[start : start + len(PROMPTS)] for start in range(0, len(rows), len(PROMPTS))]
    assert len(epochs) == 3
    assert all(sorted(epoch) == sorted(PROMPTS) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3


def test_order_is_the_seeds() -> None:
    first, again = (texts(schedule(CHAT, [], SETTINGS, 1)["prompt"]) for _ in range(2))
    other = texts(schedule(CHAT, [], replace(SETTINGS, seed=1), 1)["prompt"])
    assert first == again
    assert first != other


def test_no_system_prompt() -> None:
    assert {len(row) for row in schedule(CHAT, [], SETTINGS, 1)["prompt"]} == {1}


def test_math_mix() -> None:
    settings = replace(SETTINGS, epochs=60, math_mix=0.25)
    chat, problems = gather_prompts(PROMPTS, PROBLEMS, make_tokenizer(), settings)
    rows = schedule(chat, problems, settings, 1)
    maths = [answer for kind, answer in zip(rows["kind"], rows["answer"], strict=True) if kind == MATH]
    assert 0.18 < len(maths) / len(rows) < 0.32
    assert set(maths) == {2 * n for n in range(9)}
    assert all(a is None for k, a in zip(rows["kind"], rows["answer"], strict=True) if k != MATH)


def gather_problems(problems: list[Problem], limit: int) -> list[int | None]:
    settings = replace(SETTINGS, math_mix=0.25, max_completion_length=limit)
    return [prompt.answer for prompt in gather_prompts(PROMPTS, problems, make_tokenizer(), settings)[1]]


def test_a_problem_whose_solution_does_not_fit_is_left_out_and_counted(caplog) -> None:
    """The toy tokenizer has a token a letter; the end of the answer is a token too."""
    problems = [Problem("", f"{n} and {n}?", n, solution="x" * n) for n in (3, 7, 8)]
    with caplog.at_level(logging.INFO):
        assert gather_problems(problems, limit=8) == [3, 7]
        assert gather_problems(problems, limit=9) == [3, 7, 8]
    assert "1 of 3 problems have worked solutions longer than 8 tokens and are left out" in caplog.messages


def test_of_a_problem_without_a_solution_nothing_can_be_told(caplog) -> None:
    with caplog.at_level(logging.INFO):
        assert gather_problems([*PROBLEMS, Problem("", "9 and 9?", 18, solution="x" * 99)], limit=8) == [
            2 * n for n in range(9)
        ]
    assert "1 of 10 problems" in caplog.text
    assert "of 9 without one that cannot be told" in caplog.text


def test_no_problem_that_can_be_solved() -> None:
    with pytest.raises(TrainingError, match="at most 8 tokens"):
        gather_problems([Problem("", "1 and 1?", 2, solution="x" * 8)], limit=8)


def test_long_prompts_are_left_out() -> None:
    tokenizer = make_tokenizer()
    limit = len(prompt_ids(tokenizer, TrainingPrompt("how are you?").messages))
    chat, _ = gather_prompts(PROMPTS, [], tokenizer, replace(SETTINGS, max_prompt_length=limit))
    assert [prompt.text for prompt in chat] == [text for text in PROMPTS if len(text) <= len("how are you?")]
    assert 0 < len(chat) < len(PROMPTS)


def test_nothing_short_enough() -> None:
    with pytest.raises(TrainingError, match="at most 3 tokens"):
        gather_prompts(PROMPTS, [], make_tokenizer(), replace(SETTINGS, max_prompt_length=3))

"""The lab's problems: right by brute force, split without leaks, reproducible."""

from __future__ import annotations

import re
from itertools import pairwise

import pytest

from skippy.core.answers import extract_integer
from skippy.errors import ProblemError
from skippy.lab.families import FAMILIES, LEVELS
from skippy.lab.problems import SPLITS, evaluation_set, generate, is_held_out
from tests.lab.brute_force import SOLVERS

PER_LEVEL = 50


@pytest.mark.parametrize("family", FAMILIES)
def test_brute_force_agrees_on_hundreds_of_problems(family: str) -> None:
    for level in LEVELS:
        for problem in generate(PER_LEVEL, 3, "train", families=[family], levels=[level]):
            assert SOLVERS[family](problem.question) == problem.gold, problem


@pytest.mark.parametrize("family", FAMILIES)
def test_the_brute_force_would_notice_another_question(family: str) -> None:
    problems = list(generate(PER_LEVEL, 4, "train", families=[family], levels=[2]))
    wrong = sum(SOLVERS[family](later.question) != problem.gold for problem, later in pairwise(problems))
    assert wrong > PER_LEVEL // 4


@pytest.mark.parametrize("family", FAMILIES)
def test_every_line_of_every_solution_is_true(family: str) -> None:
    for problem in generate(100, 5, "train", families=[family]):
        for line in problem.solution.splitlines():
            sides = line.split("=")
            if len(sides) > 1:
                assert len({_value(side) for side in sides}) == 1, problem


def _value(side: str) -> int:
    """Sums, differences and products, by Python's own arithmetic on a checked expression."""
    assert re.fullmatch(r"[\d+*-]+", side)
    return int(eval(side, {"__builtins__": {}}))


def test_answers_are_integers_from_0_to_999_in_a_final_box() -> None:
    for split in SPLITS:
        for problem in generate(500, 6, split):
            assert 0 <= problem.gold <= 999
            assert problem.solution.endswith(f"\\boxed{{{problem.gold}}}")
            assert extract_integer(problem.solution).value == problem.gold
            assert "AIME" not in problem.question


def test_splits_share_no_key_whatever_the_seed() -> None:
    train = {problem.id for seed in range(2) for problem in generate(4000, seed, "train")}
    held_out = {problem.id for seed in range(2) for problem in generate(1000, seed, "heldout")}
    assert not train & held_out
    assert all(is_held_out(key) for key in held_out)


def test_two_seeds_of_one_split_do_share_keys() -> None:
    first = {problem.id for problem in generate(2000, 0, "train")}
    second = {problem.id for problem in generate(2000, 1, "train")}
    assert first & second


def test_the_key_ignores_the_wording() -> None:
    wordings: dict[str, set[str]] = {}
    for problem in generate(1000, 0, "train", families=["bases"], levels=[1]):
        wordings.setdefault(problem.id, set()).add(problem.question)
    assert max(len(questions) for questions in wordings.values()) == 2


def test_the_same_seed_gives_the_same_problems_and_another_seed_others() -> None:
    assert list(generate(50, 1, "train")) == list(generate(50, 1, "train"))
    assert list(generate(50, 1, "train")) != list(generate(50, 2, "train"))


def test_evaluation_set_is_held_out_distinct_balanced_and_fixed() -> None:
    problems = evaluation_set()
    assert problems == evaluation_set(240, 0)
    assert len({problem.id for problem in problems}) == 240
    assert all(is_held_out(problem.id) for problem in problems)
    counts = [sum(problem.family == family for problem in problems) for family in FAMILIES]
    assert max(counts) - min(counts) <= 1
    assert {problem.id for problem in evaluation_set(240, 1)} != {problem.id for problem in problems}


def test_a_shorter_evaluation_set_is_part_of_the_longer_one() -> None:
    short, long = evaluation_set(57), evaluation_set(120)
    assert len(short) == 57
    assert {problem.id for problem in short} <= {problem.id for problem in long}


@pytest.mark.parametrize(
    ("arguments", "where", "found"),
    [
        ({"split": "test"}, "split", "test"),
        ({"split": "train", "families": ["knots"]}, "families", "knots"),
        ({"split": "train", "levels": [6]}, "levels of remainder", "[6]"),
    ],
)
def test_unknown_names_are_refused(arguments: dict, where: str, found: str) -> None:
    with pytest.raises(ProblemError) as caught:
        next(generate(1, 0, **arguments))
    assert f"where: {where}" in str(caught.value)
    assert f"found: {found}" in str(caught.value)


def test_more_problems_than_there_are_is_refused() -> None:
    with pytest.raises(ProblemError, match="not enough held-out problems"):
        evaluation_set(3000)

"""What the base can do: accuracy by family and level, and the levels worth evaluating at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from skippy.core.answers import extract_integer
from skippy.core.problem import Problem
from skippy.core.sampling import PRESETS, Sampling
from skippy.lab.families import FAMILIES, LEVELS
from skippy.lab.problems import distinct_held_out
from skippy.models.generation import Backend, Request
from skippy.progress import Progress

SAMPLING = PRESETS["lab"]  # the evaluation's own, so that the figures are the ones it will meet
WANTED_RANGE = (0.35, 0.85)
MIDDLE = 0.62
FEWEST_KEYS = 30  # a level with fewer distinct held-out problems is no basis for an evaluation

Accuracies = dict[str, dict[int, float]]


def answer_problems(
    backend: Backend, problems: Sequence[Problem], sampling: Sampling = SAMPLING, seed: int = 0
) -> list[bool]:
    """Whether one completion of each problem holds the right integer.

    Args:
        seed: of the draws, together with a problem's place in the list.
    """
    requests = [
        Request(problem.id, ({"role": "user", "content": problem.question},), seed * len(problems) + place)
        for place, problem in enumerate(problems)
    ]
    answers = {problem.id: problem.gold for problem in problems}
    right: dict[str, bool] = {}
    with Progress("answer problems", len(problems)) as bar:
        for completion in backend.generate(requests, sampling):
            right[completion.id] = extract_integer(completion.text).value == answers[completion.id]
            bar.advance(1, right=f"{sum(right.values()) / len(right):.2f}")
    return [right[problem.id] for problem in problems]


def measure_accuracies(backend: Backend, *, count: int = 64, seed: int = 0) -> Accuracies:
    """Accuracy on held-out problems by family and level, `count` problems each where there are as many."""
    accuracies: Accuracies = {}
    for family in FAMILIES:
        cells = {level: distinct_held_out(family, [level], count, seed) for level in LEVELS}
        # A key may belong to two levels; each level asks it for itself.
        accuracies[family] = {
            level: round(sum(right) / len(right), 3)
            for level, problems in cells.items()
            if (right := answer_problems(backend, problems, seed=seed))
        }
    return accuracies


def choose_levels(accuracies: Mapping[str, Mapping[int, float]], seed: int = 0) -> dict[str, tuple[int, ...]]:
    """The levels of each family inside the wanted range, else the two around it, else the nearest one.

    Levels with fewer than `FEWEST_KEYS` distinct held-out problems are left out where another remains.
    """
    chosen: dict[str, tuple[int, ...]] = {}
    low, high = WANTED_RANGE
    for family, by_level in accuracies.items():
        wide = [level for level in by_level if _is_wide(family, level, seed)] or list(by_level)
        inside = tuple(level for level in wide if low <= by_level[level] <= high)
        easier = [level for level in wide if by_level[level] > high]
        harder = [level for level in wide if by_level[level] < low]
        if inside or not (easier and harder):
            chosen[family] = inside or (min(wide, key=lambda level: abs(by_level[level] - MIDDLE)),)
        else:
            around = (min(easier, key=by_level.__getitem__), max(harder, key=by_level.__getitem__))
            chosen[family] = tuple(sorted(around))
    return chosen


def _is_wide(family: str, level: int, seed: int) -> bool:
    return len(distinct_held_out(family, [level], FEWEST_KEYS, seed)) >= FEWEST_KEYS

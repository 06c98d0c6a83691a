"""AIME-style problems: integer answers, worked solutions, and a split that cannot leak.

Whether an exercise is held out is a hash of its family and parameters, so that training and held-out
problems are disjoint by construction, in any order, from any seed, in any wording.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from itertools import zip_longest

from skippy.core.problem import Problem
from skippy.errors import ProblemError
from skippy.lab.families import FAMILIES, LARGEST_ANSWER, LEVELS, TRAINED_LEVELS
from skippy.lab.paths import LAB_MANIFEST

SPLITS = ("train", "heldout")
HELD_OUT_SHARE = 10  # one key in so many is held out
LEVEL_WEIGHTS = {1: 0.3, 2: 0.3, 3: 0.25, 4: 0.15, 5: 0.15}
DEFAULT_LEVEL = 2
FRUITLESS_DRAWS = 200  # draws in a row without a new key: the family is taken to be exhausted


def is_held_out(key: str) -> bool:
    """Whether the problem with this key is never trained on."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") % HELD_OUT_SHARE == 0


def generate(
    count: int,
    seed: int,
    split: str,
    families: Sequence[str] | None = None,
    levels: Sequence[int] | Mapping[str, Sequence[int]] | None = None,
) -> Iterator[Problem]:
    """Problems in turn over the families, keys possibly repeating where a family is small.

    Args:
        levels: levels to draw from, for all families or by family; by default the trained ones, easy ones oftener.

    Raises:
        ProblemError: an unknown split, family or level.
    """
    names = list(families) if families is not None else list(FAMILIES)
    allowed = {name: _levels_of(name, levels) for name in names}
    if split not in SPLITS or not names:
        raise ProblemError("no such problems", where="split", expected=" or ".join(SPLITS), found=split)
    random_source = random.Random(f"{seed}:{split}")
    for index in range(count):
        name = names[index % len(names)]
        weights = [LEVEL_WEIGHTS[level] for level in allowed[name]]
        level = random_source.choices(allowed[name], weights)[0]
        yield _draw(name, level, split, random_source)


def _levels_of(family: str, levels: Sequence[int] | Mapping[str, Sequence[int]] | None) -> tuple[int, ...]:
    if family not in FAMILIES:
        raise ProblemError(
            "unknown family of problems", where="families", expected=", ".join(FAMILIES), found=family
        )
    chosen = (
        levels.get(family, (DEFAULT_LEVEL,)) if isinstance(levels, Mapping) else (levels or TRAINED_LEVELS)
    )
    if not chosen or not set(chosen) <= set(LEVELS):
        raise ProblemError(
            "unknown level of problem", where=f"levels of {family}", expected=str(LEVELS), found=str(chosen)
        )
    return tuple(chosen)


def _draw(name: str, level: int, split: str, random_source: random.Random) -> Problem:
    while True:
        exercise = FAMILIES[name].draw(random_source, level)
        key = f"{name}:{','.join(str(number) for number in exercise.parameters)}"
        if 0 <= exercise.answer <= LARGEST_ANSWER and is_held_out(key) == (split == "heldout"):
            return Problem(key, exercise.question, exercise.answer, name, level, exercise.solution)


@cache
def _shipped_levels() -> dict[str, tuple[int, ...]]:
    if not LAB_MANIFEST.exists():
        return {}
    manifest = json.loads(LAB_MANIFEST.read_text(encoding="utf-8"))
    return {name: tuple(levels) for name, levels in manifest.get("evaluation_levels", {}).items()}


def evaluation_set(count: int = 240, seed: int = 0) -> list[Problem]:
    """Held-out problems, no key twice, at the levels where the shipped base is neither blind nor perfect.

    Raises:
        ProblemError: the held-out problems at these levels are fewer than `count`.
    """
    levels = _shipped_levels()
    shares = {
        name: count // len(FAMILIES) + (place < count % len(FAMILIES)) for place, name in enumerate(FAMILIES)
    }
    by_family = []
    for name, share in shares.items():
        by_family.append(distinct_held_out(name, levels.get(name, (DEFAULT_LEVEL,)), share, seed))
        if len(by_family[-1]) < share:
            raise ProblemError(
                "not enough held-out problems at the evaluation levels",
                where=f"family {name}",
                expected=f"{share} problems",
                found=f"{len(by_family[-1])}",
                next_step=f"ask for fewer than {count}",
            )
    turns = zip_longest(*by_family)
    return [problem for turn in turns for problem in turn if problem is not None]


def unasked_set(count: int, seed: int = 0) -> list[Problem]:
    """Held-out problems with worked solutions that no evaluation asks, no key twice, of all families in turn.

    Raises:
        ProblemError: there are fewer than `count`.
    """
    asked = {problem.id for problem in evaluation_set()}
    found: dict[str, Problem] = {}
    for problem in generate(count * FRUITLESS_DRAWS, seed, "heldout"):
        if problem.id not in asked:
            found.setdefault(problem.id, problem)
        if len(found) == count:
            return list(found.values())
    raise ProblemError("not enough held-out problems", expected=f"{count} problems", found=f"{len(found)}")


def distinct_held_out(family: str, levels: Sequence[int], count: int, seed: int) -> list[Problem]:
    """Up to `count` held-out problems of one family, no key twice; fewer where no new one is found."""
    found: dict[str, Problem] = {}
    dry = 0
    for problem in generate(count * FRUITLESS_DRAWS, seed, "heldout", families=[family], levels=levels):
        dry = dry + 1 if problem.id in found else 0
        if dry == FRUITLESS_DRAWS or len(found) == count:
            break
        found.setdefault(problem.id, problem)
    return list(found.values())

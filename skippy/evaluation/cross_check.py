"""math-verify beside our own extraction: every answer read twice, and where the two readings differ.

Not a stage, and no score: ours decides. The list is there to be read; each line is either a rule of ours that a
person would not have chosen, or a number that math-verify took from talk.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from skippy.core.answers import LARGEST_ANSWER
from skippy.stores.samples import Sample

ENDING_CHARACTERS = 240

Parser = Callable[[str], Sequence[Any]]
"""`math_verify.parse`: text → the expression and the words it was read from; empty where it found none."""


@dataclass(frozen=True)
class Disagreement:
    """One answer that the two read differently."""

    problem_id: str  # of the problem
    problem_hash: str  # of the problem
    sample_index: int  # which sample of it
    gold: int | str | None  # reference answer
    ours: int | str | None  # integer by our rule, None where there is none
    status: str  # how we found it, or why not
    theirs: int | None  # integer 0–999 by math-verify, None where it read none or something else
    read: str  # what math-verify read, as text
    changes_score: bool  # whether the answer is right by one reading alone
    ending: str  # the last words of the answer


def find_disagreements(
    samples: Sequence[Sample], gold: Mapping[str, int | str], parse: Parser
) -> tuple[Disagreement, ...]:
    """Read every answer with both; `gold` maps problem hashes to reference answers."""
    found = []
    for sample in samples:
        parsed = parse(sample.completion)
        ours, theirs = sample.extracted, as_integer(parsed)
        if ours != theirs:
            answer = gold.get(sample.problem_hash)
            found.append(
                Disagreement(
                    *(sample.problem_id, sample.problem_hash, sample.sample_index, answer),
                    *(ours, sample.status, theirs, str(parsed[-1]) if parsed else ""),
                    changes_score=answer is not None and answer in (ours, theirs),
                    ending=sample.completion[-ENDING_CHARACTERS:],
                )
            )
    return tuple(found)


def cross_check_metrics(disagreements: Sequence[Disagreement]) -> dict[str, float]:
    """How many there are, and how many of them would change a score."""
    return {
        "aime/verify_disagreements": float(len(disagreements)),
        "aime/verify_score_changes": float(sum(each.changes_score for each in disagreements)),
    }


def to_lines(disagreements: Sequence[Disagreement]) -> str:
    """One line of JSON each."""
    return "".join(json.dumps(asdict(each), ensure_ascii=False) + "\n" for each in disagreements)


def as_integer(parsed: Sequence[Any]) -> int | None:
    """The integer 0–999 that math-verify's first reading is; `x = 42` is 42. None for anything else."""
    if not parsed:
        return None
    value = getattr(parsed[0], "rhs", parsed[0])
    try:
        number = int(value)
        is_whole = isinstance(value, str) or bool(value == number)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if is_whole and 0 <= number <= LARGEST_ANSWER else None

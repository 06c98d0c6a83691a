"""What the base answers to the training prompts, plainly and under the character's prompt.

Masks and steering read it. One JSON object a line. `character` is asked under the character's system prompt, `plain`
without any; `plain-b` and `plain-c` under other plain phrasings, which are to change nothing: a placebo and its null.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from skippy.errors import SubspaceError
from skippy.stores.atomic import write_bytes
from skippy.stores.documents import parse_object

ANSWERS_FOLDER = "answers"
"""Artifact of a run of `subspace`."""
ANSWERS_FILE = "answers.jsonl"
CHARACTER, PLAIN, PLAIN_B, PLAIN_C = "character", "plain", "plain-b", "plain-c"


@dataclass(frozen=True)
class Answer:
    """One answer of the base."""

    condition: str  # under which prompt it was given, one of the four above
    prompt: str  # the person's words
    system: str | None  # the system prompt; None without
    index: int  # of the sample
    text: str  # the answer, special tokens left out
    is_complete: bool  # whether it ended by itself


@dataclass(frozen=True)
class Answers:
    """All of them, by condition and in the order of prompts and samples; the same prompts in every condition."""

    by_condition: Mapping[str, tuple[Answer, ...]]

    def of(self, condition: str) -> tuple[Answer, ...]:
        """Those under one prompt."""
        return self.by_condition[condition]

    def pairs(self) -> tuple[tuple[Answer, Answer], ...]:
        """The answer under the character's prompt and the plain one, prompt by prompt and sample by sample."""
        return tuple(zip(self.of(CHARACTER), self.of(PLAIN), strict=True))


def group_answers(answers: Sequence[Answer]) -> Answers:
    """Answers by condition, in their order; a condition that nobody knows is a KeyError."""
    found: dict[str, list[Answer]] = {name: [] for name in (CHARACTER, PLAIN, PLAIN_B, PLAIN_C)}
    for each in answers:
        found[each.condition].append(each)
    return Answers({name: tuple(listed) for name, listed in found.items()})


def write_answers(folder: Path, answers: Sequence[Answer]) -> Path:
    """Write them into a folder, which is returned."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = "".join(json.dumps(asdict(each), ensure_ascii=False) + "\n" for each in answers)
    write_bytes(folder / ANSWERS_FILE, lines.encode())
    return folder


def read_answers(folder: str | Path) -> Answers:
    """Read and check them.

    Raises:
        SubspaceError: the file is missing or damaged, or the conditions do not have the same prompts.
    """
    path = Path(folder) / ANSWERS_FILE
    try:
        answers = group_answers([Answer(**parse_object(line)) for line in path.read_bytes().splitlines()])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _damaged(path, "an answer as a JSON object on every line", repr(error)) from error
    found = answers.by_condition
    asked = {name: [(each.prompt, each.index) for each in listed] for name, listed in found.items()}
    if not asked[CHARACTER] or asked[CHARACTER] != asked[PLAIN]:
        counts = ", ".join(f"{name} {len(listed)}" for name, listed in found.items())
        raise _damaged(path, "the same prompts under the character's prompt and plainly", counts)
    return answers


def _damaged(path: Path, expected: str, found: str) -> SubspaceError:
    return SubspaceError(
        "The base's answers cannot be used.",
        where=str(path),
        expected=expected,
        found=found,
        next_step="run the subspace stage again with force=true",
    )

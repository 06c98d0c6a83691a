"""Problem sets: local files, folders of parts or Hugging Face data sets, read into one shape.

Columns vary between sources (problem | question | prompt; answer | target | reward_model.ground_truth); duplicates
are dropped by the hash of their normalised text and counted. No data set is part of skippy: they are read by id
where there is a network, or from a file.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from skippy.core.problem import AIME_RULE, AnswerRule, Gold, Problem
from skippy.errors import ProblemError
from skippy.stores.problem_columns import ANSWER_COLUMNS, QUESTION_COLUMNS, problems_of
from skippy.stores.tables import READERS, Rows, is_table, read_table
from skippy.words import split_list

# Ids whose problems are AIME's own; everything else is called by its own name.
AIME_IDS = (
    "HuggingFaceH4/aime_2024",
    "Maxwell-Jia/AIME_2024",
    "AI-MO/aimo-validation-aime",
    "MathArena/aime_2025",
    "MathArena/aime_2026",
    "math-ai/aime25",
    "math-ai/aime26",
    "opencompass/AIME2025",
)


@dataclass(frozen=True)
class ProblemSet:
    """Problems without duplicates."""

    name: str  # the sources, comma-separated
    problems: tuple[Problem, ...]  # in the order read
    duplicates: int = 0  # how many were dropped
    is_aime: bool = False  # whether every source is AIME's own problems
    rule: AnswerRule = AIME_RULE  # what counts as a right answer, the same for all of them
    replaced: int = 0  # how many half surrogate pairs of the sources became U+FFFD

    @property
    def gold(self) -> dict[str, Gold]:
        """Problem hash → reference answer."""
        return {problem.hash: problem.gold for problem in self.problems}

    @property
    def label(self) -> str:
        """What a person calls the set: files without folder and suffix, data sets by their id."""
        names = [Path(name).stem if is_table(Path(name)) else Path(name).name if Path(name).is_dir() else name
                 for name in split_sources(self.name)]  # fmt: skip
        return ", ".join(names)

    @property
    def digest(self) -> str:
        """Sixteen hexadecimal digits of all questions and answers, order included, and of what counts as right."""
        text = "".join(f"{problem.hash} {problem.gold}\n" for problem in self.problems)
        # AIME's rule adds nothing, so that the sets of earlier versions stay what they were.
        text += f"answers {self.rule}\n" if self.rule != AIME_RULE else ""
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def combine(
    name: str,
    problems: Iterable[Problem],
    *,
    is_aime: bool = False,
    limit: int = 0,
    replaced: int = 0,
) -> ProblemSet:
    """Drop duplicates, keep order, cut at `limit` (0: keep all). Questions that differ in case alone are two.

    Raises:
        ProblemError: nothing is left, one question has two different answers, or the kinds of answers are mixed.
    """
    kept: dict[str, Problem] = {}
    read = _told_apart(list(problems))
    for problem in read:
        earlier = kept.setdefault(problem.hash, problem)
        if earlier.gold != problem.gold:
            raise ProblemError(
                "The same question has two answers.",
                where=f"{earlier.id} and {problem.id} in {name}",
                expected="one answer",
                found=f"{earlier.gold} and {problem.gold}",
                next_step="correct the source, or leave one of them out",
            )
    if not kept:
        raise ProblemError("The problem set is empty.", where=name, expected="at least one problem")
    rules = {str(problem.rule): problem.rule for problem in kept.values()}
    if len(rules) > 1:
        raise ProblemError(
            "One set has several kinds of answers.", where=name, expected="one kind", found=", ".join(sorted(rules)),
            next_step="evaluate the sources one by one",
        )  # fmt: skip
    chosen = tuple(kept.values())
    return ProblemSet(
        name,
        chosen[:limit] if limit else chosen,
        len(read) - len(chosen),
        is_aime,
        next(iter(rules.values())),
        replaced,
    )


def _told_apart(problems: list[Problem]) -> list[Problem]:
    """Questions that differ in case alone are hashed with their case; every other hash stays as it was."""
    spellings: dict[str, set[str]] = defaultdict(set)
    for problem in problems:
        spellings[problem.hash].add(problem.words)
    return [
        replace(problem, is_case_sensitive=True) if len(spellings[problem.hash]) > 1 else problem
        for problem in problems
    ]


def split_sources(sources: str) -> list[str]:
    """The sources of a comma-separated list; a path that exists is one source, commas and all."""
    if is_there(Path(sources.strip())):
        return [sources.strip()]
    return list(split_list(sources, "problems"))


def read_problems(sources: str, *, limit: int = 0, rule: AnswerRule = AIME_RULE) -> ProblemSet:
    """Read one or several sources, comma-separated: files, folders of parts, anything else as a data set id.

    AIME's own problems have integers 0–999 whatever kind is asked for.

    Raises:
        ProblemError: a source is missing, ambiguous, lacks a column or has an unusable answer; the row is named.
    """
    names = split_sources(sources)
    is_aime = bool(names) and all(name in AIME_IDS for name in names)
    chosen = AIME_RULE if is_aime and rule.kind == "integer" else rule
    problems: list[Problem] = []
    replaced = 0
    for name in names:
        path = Path(name)
        is_file = is_table(path) or is_there(path)
        rows = read_table(path, (QUESTION_COLUMNS, ANSWER_COLUMNS)) if is_file else _read_hub(name)
        replaced += rows.replaced
        problems += problems_of(rows, name, path.name if is_file else name, chosen)
    return combine(",".join(names), problems, is_aime=is_aime, limit=limit, replaced=replaced)


def is_there(path: Path) -> bool:
    """Whether a file or a folder has this name; never raises."""
    try:
        return path.exists()
    except (OSError, ValueError):  # a name too long for a file, or with a null byte
        return False


def _read_hub(name: str) -> Rows:
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        raise ProblemError(
            "The problem source is neither a file nor a data set id.", where="problems",
            expected="lab, a file in " + ", ".join(READERS) + ", a folder of them, or owner/name", found=repr(name),
            next_step="pass -P problems=lab, or one of " + ", ".join(AIME_IDS[:3]),
        )  # fmt: skip
    # Two seconds of import that only data sets by id need.
    from datasets import get_dataset_config_names, load_dataset

    try:
        token = os.environ.get("HF_TOKEN")
        rows = [
            row
            for config in get_dataset_config_names(name, token=token)
            for part in load_dataset(name, config, token=token).values()
            for row in part
        ]
    except Exception as error:
        # The library raises many unrelated types when a hub is out of reach; all mean the same to a person.
        raise ProblemError(
            "The data set cannot be loaded.", where=name, expected="a data set on the Hugging Face hub",
            found=f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no message'}",
            next_step="check the id and the network, or pass a local file of the same shape",
        ) from error  # fmt: skip
    return Rows([(str(number), row) for number, row in enumerate(rows, start=1)])

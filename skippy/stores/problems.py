"""Problem sets with integer answers: local files or Hugging Face data sets, read into one shape.

Columns vary between sources (problem | question | prompt; answer | target); duplicates are dropped by the hash
of their normalised text and counted. No data set is part of skippy: they are read by id where there is a
network, or from a file.
"""

from __future__ import annotations

import csv
import hashlib
import json
import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as parquet

from skippy.core.answers import parse_gold
from skippy.errors import ProblemError

QUESTION_COLUMNS = ("problem", "question", "prompt")
ANSWER_COLUMNS = ("answer", "target", "gold")
ID_COLUMNS = ("id", "problem_idx", "unique_id")
Rows = list[tuple[int, Mapping[str, object]]]
"""Numbered as in the source, from 1; of a file of JSON lines, by line."""


def _read_lines(path: Path) -> Rows:
    rows: Rows = []
    for number, line in enumerate(path.read_text("utf-8-sig").split("\n"), start=1):
        try:
            if line.strip():
                rows.append((number, _require_object(json.loads(line))))
        except ValueError as error:
            raise ValueError(f"row {number}: {error}") from error
    return rows


def _read_json(path: Path) -> Rows:
    return _numbered(_require_object(row) for row in json.loads(path.read_text("utf-8-sig")))


def _read_csv(path: Path) -> Rows:
    with path.open(encoding="utf-8-sig", newline="") as file:
        return _numbered(csv.DictReader(file))


def _require_object(value: object) -> Mapping[str, object]:
    if not isinstance(value, dict):
        raise ValueError(f"{value!r:.80} is no JSON object")
    return value


def _numbered(rows: Iterable[Mapping[str, object]]) -> Rows:
    return list(enumerate(rows, start=1))


READERS: dict[str, Callable[[Path], Rows]] = {
    ".jsonl": _read_lines,
    ".json": _read_json,
    ".csv": _read_csv,
    ".parquet": lambda path: _numbered(parquet.read_table(path).to_pylist()),
}
# Ids whose problems are AIME's own; everything else is called AIME-style.
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
class MathProblem:
    """One problem with an integer answer 0–999.

    Attributes:
        id: what its source calls it.
        question: the text.
        gold: the reference answer.
        family: kind of problem, empty where unknown.
        level: difficulty, 0 where unknown.
    """

    id: str
    question: str
    gold: int
    family: str = ""
    level: int = 0

    @property
    def hash(self) -> str:
        """Sixteen hexadecimal digits of the normalised question: the same problem from two sources is one."""
        return hashlib.sha256(" ".join(self.question.lower().split()).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class ProblemSet:
    """Problems without duplicates.

    Attributes:
        name: the sources, comma-separated.
        problems: in the order read.
        duplicates: how many were dropped.
        is_aime: whether every source is AIME's own problems.
    """

    name: str
    problems: tuple[MathProblem, ...]
    duplicates: int = 0
    is_aime: bool = False

    @property
    def gold(self) -> dict[str, int]:
        """Problem hash → reference answer."""
        return {problem.hash: problem.gold for problem in self.problems}

    @property
    def digest(self) -> str:
        """Sixteen hexadecimal digits of all questions and answers, order included."""
        text = "".join(f"{problem.hash} {problem.gold}\n" for problem in self.problems)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def combine(
    name: str, problems: Iterable[MathProblem], *, is_aime: bool = False, limit: int = 0
) -> ProblemSet:
    """Drop duplicates, keep order, cut at `limit` (0: keep all).

    Raises:
        ProblemError: nothing is left, or one question has two different answers.
    """
    kept: dict[str, MathProblem] = {}
    duplicates = 0
    for problem in problems:
        earlier = kept.setdefault(problem.hash, problem)
        duplicates += earlier is not problem
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
    chosen = tuple(kept.values())
    return ProblemSet(name, chosen[:limit] if limit else chosen, duplicates, is_aime)


def read_problems(sources: str, *, limit: int = 0) -> ProblemSet:
    """Read one or several sources, comma-separated: files by suffix, anything else as a data set id.

    Raises:
        ProblemError: a source is missing, lacks a column or has an unusable answer; the row is named.
    """
    names = [name.strip() for name in sources.split(",") if name.strip()]
    problems = [problem for name in names for problem in _read_source(name)]
    return combine(",".join(names), problems, is_aime=all(name in AIME_IDS for name in names), limit=limit)


def _read_source(name: str) -> list[MathProblem]:
    path = Path(name)
    is_file = path.suffix.lower() in READERS
    rows, label = (_read_file(path), path.name) if is_file else (_read_hub(name), name)
    columns = {column.lower(): column for _, row in rows for column in row if column is not None}
    question = _column(columns, QUESTION_COLUMNS, name)
    answer = _column(columns, ANSWER_COLUMNS, name)
    identity = next((columns[wanted] for wanted in ID_COLUMNS if wanted in columns), "")
    family, level = columns.get("family", ""), columns.get("level", "")
    problems = []
    for number, row in rows:
        text = row.get(question)
        if not isinstance(text, str) or not text.strip():
            raise ProblemError(
                "A problem has no text.",
                where=f"{name}, row {number}, column {question}",
                expected="text",
                found=repr(text),
            )
        own_id = row.get(identity)
        problems.append(
            MathProblem(
                f"{label}/{number if own_id is None else own_id}",
                text.strip(),
                _gold(row.get(answer), name, number, answer),
                str(row.get(family) or ""),
                int(str(row[level])) if str(row.get(level)).isdecimal() else 0,
            )
        )
    return problems


def _gold(value: object, source: str, number: int, column: str) -> int:
    try:
        return parse_gold(value)
    except ProblemError as error:
        raise ProblemError(
            error.what, where=f"{source}, row {number}, column {column}", expected=error.expected,
            found=error.found, next_step=error.next_step,
        ) from error  # fmt: skip


def _column(columns: Mapping[str, str], wanted: tuple[str, ...], source: str) -> str:
    for name in wanted:
        if name in columns:
            return columns[name]
    raise ProblemError(
        "A column is missing.",
        where=source,
        expected="one of " + ", ".join(wanted),
        found=", ".join(columns.values()) or "no columns",
        next_step="rename the column that holds it",
    )


def _read_file(path: Path) -> Rows:
    if not path.is_file():
        raise ProblemError(
            "The problem file does not exist.", where=str(path), expected="a file in " + ", ".join(READERS),
            found="nothing at this path", next_step="check the path; relative ones start at the project's root",
        )  # fmt: skip
    try:
        return READERS[path.suffix.lower()](path)
    except (ValueError, OSError, csv.Error) as error:
        raise ProblemError(
            "The problem file cannot be read.", where=str(path), expected=f"rows as {path.suffix[1:]}",
            found=str(error).splitlines()[0], next_step="check the file",
        ) from error  # fmt: skip


def _read_hub(name: str) -> Rows:
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        raise ProblemError(
            "The problem source is neither a file nor a data set id.", where="problems",
            expected="lab, a file in " + ", ".join(READERS) + ", or owner/name", found=repr(name),
            next_step="pass -P problems=lab, or one of " + ", ".join(AIME_IDS[:3]),
        )  # fmt: skip
    # Two seconds of import that only data sets by id need.
    from datasets import get_dataset_config_names, load_dataset

    try:
        token = os.environ.get("HF_TOKEN")
        return _numbered(
            row
            for config in get_dataset_config_names(name, token=token)
            for part in load_dataset(name, config, token=token).values()
            for row in part
        )
    except Exception as error:
        # The library raises many unrelated types when a hub is out of reach; all mean the same to a person.
        raise ProblemError(
            "The data set cannot be loaded.", where=name, expected="a data set on the Hugging Face hub",
            found=f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no message'}",
            next_step="check the id and the network, or pass a local file of the same shape",
        ) from error  # fmt: skip

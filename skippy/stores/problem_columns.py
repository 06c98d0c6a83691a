"""Which column of a table is the question and which the answer, and problems out of its rows."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from skippy.core.answers import parse_gold
from skippy.core.problem import AnswerRule, Gold, Problem
from skippy.errors import ProblemError
from skippy.stores.tables import Rows

QUESTION_COLUMNS = ("problem", "question", "prompt", "messages", "extra_info.question")
ANSWER_COLUMNS = (
    *("answer", "target", "gold", "ground_truth", "final_answer", "reward_model.ground_truth"),
    "extra_info.answer",
)
SOLUTION_COLUMNS = ("solution", "worked_solution")
ID_COLUMNS = ("id", "problem_idx", "unique_id", "extra_info.index")
# Two names of one rank; where both stand in a row and differ, nobody knows which one is meant.
RIVALS = (("problem", "question"), ("answer", "target", "gold", "ground_truth", "final_answer"))
LARGEST_LEVEL_DIGITS = 4
_LEVEL = re.compile(rf"(?:level\s*)?([0-9]{{1,{LARGEST_LEVEL_DIGITS}}})(?:\.0)?")


def problems_of(rows: Rows, source: str, label: str, rule: AnswerRule) -> list[Problem]:
    """The problems of one source.

    Args:
        source: what a person passed; errors name it.
        label: ids start with it.

    Raises:
        ProblemError: a column is missing or ambiguous, or a row has no text or no usable answer.
    """
    columns = _columns(rows, source)
    question = _column(columns, QUESTION_COLUMNS, source)
    answer = _column(columns, ANSWER_COLUMNS, source)
    identity = next((columns[wanted] for wanted in ID_COLUMNS if wanted in columns), "")
    solution = next((columns[wanted] for wanted in SOLUTION_COLUMNS if wanted in columns), "")
    family, level = columns.get("family", ""), columns.get("level", "")
    problems = []
    for number, row in rows.rows:
        _require_agreement(row, columns, source, number)
        text = _question(_cell(row, question))
        if not text.strip():
            raise ProblemError(
                "A problem has no text.",
                where=f"{source}, row {number}, column {question}",
                expected="text, or messages with one of the user",
                found=f"{_cell(row, question)!r:.80}",
                next_step="correct the row, or remove it",
            )
        own_id = _cell(row, identity)
        problems.append(
            Problem(
                f"{label}/{number if own_id is None else own_id}",
                text.strip(),
                _gold(_cell(row, answer), source, number, answer, rule),
                str(_cell(row, family) or ""),
                _level(_cell(row, level)),
                _question(_cell(row, solution)).strip(),
                rule=rule,
            )
        )
    return problems


def _columns(rows: Rows, source: str) -> dict[str, str]:
    """Lower-case name → name as written, nested ones with a dot; the same in all rows.

    Raises:
        ProblemError: two columns differ in case alone.
    """
    columns: dict[str, str] = {}
    for number, row in rows.rows:
        nested = [
            f"{name}.{inner}" for name, value in row.items() if isinstance(value, dict) for inner in value
        ]
        for name in (*row, *nested):
            known = columns.setdefault(str(name).strip().lower(), name)
            if known != name:
                raise ProblemError(
                    "Two columns have one name.", where=f"{source}, row {number}",
                    expected="every column once; upper and lower case are the same name",
                    found=f"{known} and {name}", next_step="remove or rename one of them",
                )  # fmt: skip
    return columns


def _cell(row: Mapping[str, Any], column: str) -> Any:
    """The value of a column; of a nested one inside its object."""
    if column in row or "." not in column:
        return row.get(column)
    outer, _, inner = column.partition(".")
    value = row.get(outer)
    return value.get(inner) if isinstance(value, dict) else None


def _require_agreement(row: Mapping[str, Any], columns: Mapping[str, str], source: str, number: str) -> None:
    """Two columns of one meaning say the same.

    Raises:
        ProblemError: they do not.
    """
    for names in RIVALS:
        filled = {
            columns[name]: value
            for name in names
            if name in columns and (value := _cell(row, columns[name])) not in (None, "")
        }
        if len({str(value).strip() for value in filled.values()}) > 1:
            raise ProblemError(
                "Two columns say different things.",
                where=f"{source}, row {number}, columns {', '.join(filled)}",
                expected="one column of " + ", ".join(names),
                found=" and ".join(f"{value!r:.40}" for value in filled.values()),
                next_step="remove or rename one of the columns",
            )


def _question(value: Any) -> str:
    """The text of a question: itself, or the last thing that the user says in a list of messages."""
    if isinstance(value, str):
        return value
    if isinstance(value, list | tuple):
        said = [each for each in value if isinstance(each, dict) and each.get("role") == "user"]
        content = said[-1].get("content") if said else value[0] if len(value) == 1 else None
        if isinstance(content, list):  # parts of a message
            parts = [part.get("text") for part in content if isinstance(part, dict)]
            content = "\n".join(part for part in parts if isinstance(part, str))
        return content if isinstance(content, str) else ""
    return ""


def _level(value: Any) -> int:
    """`3`, `"3"` and `"Level 3"`; 0 for anything else."""
    if isinstance(value, int):
        return value if 0 <= value < 10**LARGEST_LEVEL_DIGITS else 0
    digits = _LEVEL.fullmatch(str(value).strip().lower())
    return int(digits.group(1)) if digits else 0


def _gold(value: object, source: str, number: str, column: str, rule: AnswerRule) -> Gold:
    try:
        return parse_gold(value, rule)
    except ProblemError as error:
        raise ProblemError(
            error.what, where=f"{source}, row {number}, column {column}", expected=error.expected,
            found=error.found, next_step=error.next_step,
        ) from error  # fmt: skip


def _column(columns: Mapping[str, str], wanted: Sequence[str], source: str) -> str:
    for name in wanted:
        if name in columns:
            return columns[name]
    raise ProblemError(
        "A column is missing.",
        where=source,
        expected="one of " + ", ".join(wanted),
        found=", ".join(map(str, columns.values()))[:300] or "no columns",
        next_step="rename the column that holds it",
    )

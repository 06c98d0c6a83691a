"""Rows out of files that people have: JSON, JSON lines, CSV with any separator, Parquet, and folders of parts.

Nothing is resolved silently: a column that stands twice, a line with more fields than the header and a torn row are
refused by name. Only text that no encoding can hold is mended, and counted: half a surrogate pair becomes U+FFFD.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet as parquet

from skippy.errors import ProblemError
from skippy.words import counted

SEPARATORS = (",", ";", "\t", "|")
DEEPEST_PART = 3
REPLACEMENT = "\ufffd"
_HALVES = re.compile("[\ud800-\udfff]")
Row = Mapping[str, Any]


@dataclass(frozen=True)
class Rows:
    """The rows of one source."""

    # numbered as in the source, from 1; of a file of JSON lines, by line; of a folder, by part and row
    rows: Sequence[tuple[str, Row]]
    replaced: int = 0  # how many half surrogate pairs were replaced


class _Refused(ValueError):
    """A table cannot be read, and why; never leaves this module."""


def is_table(path: Path) -> bool:
    """Whether the name is one of a file that can be read here."""
    return path.suffix.lower() in READERS


def read_table(path: Path, wanted: Sequence[Collection[str]]) -> Rows:
    """Every row of a file, or of all parts in a folder.

    Args:
        path: a file in one of the formats of `READERS`, or a folder of such files, up to three levels deep.
        wanted: for each column that is needed, the names it may have in lower case; tells the separator of a CSV.

    Raises:
        ProblemError: it is missing, torn or ambiguous; the row or the columns are named.
    """
    try:
        if path.is_dir():
            return _read_folder(path, wanted)
        if not path.is_file():
            raise ProblemError(
                "The problem file does not exist.", where=str(path), expected="a file in " + ", ".join(READERS),
                found="nothing at this path", next_step="check the path; relative ones start at the project's root",
            )  # fmt: skip
        if not is_table(path):
            raise ProblemError(
                "The problem file has no format that can be read.", where=str(path),
                expected="a name that ends in " + ", ".join(READERS), found=path.suffix or "no suffix",
                next_step="convert it, or give it the suffix of its format",
            )  # fmt: skip
        return _mended(READERS[path.suffix.lower()](path, wanted))
    except (OSError, ValueError, TypeError, KeyError, NotImplementedError, OverflowError, RecursionError,
            csv.Error, pyarrow.ArrowException) as error:  # fmt: skip
        if isinstance(error, ProblemError):
            if str(path) in error.where:
                raise
            raise ProblemError(
                error.what, where=f"{path}, {error.where}", expected=error.expected,
                found=error.found, next_step=error.next_step,
            ) from error  # fmt: skip
        raise ProblemError(
            "The problem file cannot be read.",
            where=str(path),
            expected=f"rows as {path.suffix.lower()[1:] or 'the parts of a table'}, text in UTF-8",
            found=_first_line(error),
            next_step="check the file",
        ) from error


def _first_line(error: BaseException) -> str:
    if isinstance(error, RecursionError):
        return "values nested too deeply"
    text = str(error).strip()
    return text.splitlines()[0][:300] if text else type(error).__name__


def _read_folder(folder: Path, wanted: Sequence[Collection[str]]) -> Rows:
    found = [path for depth in range(1, DEEPEST_PART + 1) for path in folder.glob("/".join("*" * depth))]
    parts = [path for path in sorted(found) if is_table(path) and path.is_file()]
    parts = [
        path for path in parts if not any(name.startswith(".") for name in path.relative_to(folder).parts)
    ]
    kinds = sorted({path.suffix.lower() for path in parts})
    if len(kinds) != 1:
        raise ProblemError(
            "The folder of problems holds no parts of one kind.",
            where=str(folder),
            expected="files of one kind: " + ", ".join(READERS),
            found=", ".join(f"{path.relative_to(folder)}" for path in parts[:8]) or "none",
            next_step="pass the file, or a folder that holds the parts alone",
        )
    tables = [(path, read_table(path, wanted)) for path in parts]
    rows = [
        (f"{number} of {path.relative_to(folder).as_posix()}", row)
        for path, part in tables
        for number, row in part.rows
    ]
    return Rows(rows, sum(part.replaced for _, part in tables))


def _read_json(path: Path, wanted: Sequence[Collection[str]]) -> Rows:
    """A list of objects, one object a line, one object, or an object around one list: by what stands there."""
    text = _decoded(path)
    if text.lstrip().startswith("["):
        return Rows(_numbered(_loads(text, "")))
    try:
        lines = _read_lines(text)
        return Rows(_numbered(_unwrapped(lines[0][1])) if len(lines) == 1 else lines)
    except _Refused as refused:
        # An object over several lines; if it is none either, the torn line is what a person wants to know.
        try:
            whole = _loads(text, "")
        except _Refused:
            raise refused from None
        if not isinstance(whole, dict):
            raise
        return Rows(_numbered(_unwrapped(whole)))


def _unwrapped(whole: Row) -> list[Any]:
    """The rows of `{"data": [...]}`; any other object is a row itself."""
    inside = next(iter(whole.values())) if len(whole) == 1 else None
    return inside if isinstance(inside, list) else [whole]


def _read_lines(text: str) -> list[tuple[str, Row]]:
    rows = []
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            rows.append((str(number), _require_object(_loads(line, f"row {number}: "), f"row {number}: ")))
    return rows


def _loads(text: str, where: str) -> Any:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        _require_distinct([name for name, _ in pairs], where, fold=False)
        return dict(pairs)

    try:
        return json.loads(text, object_pairs_hook=unique)
    except _Refused:
        raise
    except (ValueError, RecursionError) as error:
        raise _Refused(f"{where}{_first_line(error)}") from error


def _numbered(rows: Iterable[Any]) -> list[tuple[str, Row]]:
    return [
        (str(number), _require_object(row, f"row {number}: ")) for number, row in enumerate(rows, start=1)
    ]


def _require_object(value: object, where: str) -> Row:
    if not isinstance(value, dict):
        raise _Refused(f"{where}{value!r:.80} is no JSON object")
    _require_distinct(list(value), where)
    return value


def _require_distinct(names: Sequence[object], where: str, *, fold: bool = True) -> None:
    """No column twice; `Answer` and `answer` are the same one.

    Raises:
        ProblemError: one is.
    """
    folded = Counter(str(name).strip().lower() if fold else str(name) for name in names)
    twice = [str(name) for name in names if folded[str(name).strip().lower() if fold else str(name)] > 1]
    if twice:
        raise ProblemError(
            "A column stands there twice.",
            where=f"{where}columns {', '.join(twice)}".strip(),
            expected="every column once; upper and lower case are the same name",
            found=", ".join(twice),
            next_step="remove or rename one of them",
        )


def _read_csv(path: Path, wanted: Sequence[Collection[str]]) -> Rows:
    text = _decoded(path)
    separator = _separator(text, wanted)
    # Strict: a quotation mark that never closes would swallow the rest of the file.
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    try:
        lines = [(reader.line_num, fields) for fields in reader if any(field.strip() for field in fields)]
    except csv.Error as error:
        raise _Refused(f"line {reader.line_num}: {error}") from error
    if not lines:
        return Rows([])
    header = [name.strip() for name in lines[0][1]]
    _require_distinct([name for name in header if name], "the header: ")
    rows: list[tuple[str, Row]] = []
    for number, (line, fields) in enumerate(lines[1:], start=1):
        if len(fields) > len(header):
            raise ProblemError(
                "A row has more fields than the header.",
                where=f"{path}, row {number} (up to line {line})",
                expected=f"{counted(len(header), 'field')}, separated by {separator!r}: {', '.join(header)}",
                found=f"{counted(len(fields), 'field')}, the last {fields[-1]!r:.60}",
                next_step="put quotation marks around text that holds the separator",
            )
        rows.append((str(number), dict(zip(header, fields, strict=False))))
    return Rows(rows)


def _separator(text: str, wanted: Sequence[Collection[str]]) -> str:
    """The first separator under which the header holds every column that is needed."""
    header = text.lstrip().split("\n", 1)[0].rstrip("\r")
    for separator in SEPARATORS:
        names = {name.strip().strip('"').lower() for name in header.split(separator)}
        if all(names.intersection(choices) for choices in wanted):
            return separator
    return SEPARATORS[0]


def _read_parquet(path: Path, wanted: Sequence[Collection[str]]) -> Rows:
    with parquet.ParquetFile(path) as file:
        _require_distinct(file.schema_arrow.names, "")
        return Rows(_numbered(file.read().to_pylist()))


def _decoded(path: Path) -> str:
    """The text of a file: UTF-8, or UTF-16 where a byte order mark says so."""
    content = path.read_bytes()
    is_utf16 = content.startswith((b"\xff\xfe", b"\xfe\xff"))
    return content.decode("utf-16" if is_utf16 else "utf-8-sig")


def _mended(read: Rows) -> Rows:
    """Half surrogate pairs replaced wherever text stands in a row."""
    count = 0

    def mend(value: Any) -> Any:
        nonlocal count
        if isinstance(value, str):
            text, halves = _HALVES.subn(REPLACEMENT, value)
            count += halves
            return text
        if isinstance(value, list):
            return [mend(each) for each in value]
        if isinstance(value, dict):
            return {mend(name): mend(each) for name, each in value.items()}
        return value

    rows = [(number, mend(row)) for number, row in read.rows]
    return Rows(rows, read.replaced + count)


Reader = Callable[[Path, Sequence[Collection[str]]], Rows]
READERS: dict[str, Reader] = {
    ".jsonl": _read_json,
    ".json": _read_json,
    ".csv": _read_csv,
    ".tsv": _read_csv,
    ".parquet": _read_parquet,
}

"""The code that decides a result, as a digest: a commit names too much of it, and not what is uncommitted.

Comments, docstrings and blank lines are no part of it: a sentence mended between two trainings leaves them equal.
"""

from __future__ import annotations

import ast
import hashlib
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import skippy
from skippy.tracking.tags import Tag

TRAINING_CODE: str = Tag.TRAINING_CODE
EVALUATION_CODE: str = Tag.EVALUATION_CODE
"""Tags of runs of `train` and `eval`."""
READING_ANSWERS = ("core/problem.py", "core/inference/answer_*.py", "core/inference/thought_tags.py")
ASKING = ("evaluation/asking.py", "evaluation/suites.py", "core/sampling.py", "core/style", "models")
TRAINING = (
    *("training", "models", "core/spectral", "core/style", "core/personality", "core/biases.py"),
    *("core/sampling.py", *READING_ANSWERS),
)
MERGING = ("stores", "core/spectral", "core/biases.py")
PLAYING = ("studies/playback.py", "resolve/dial.py")
SEARCHING = (
    *("studies/matched_dose.py", *PLAYING),
    *("core/inference/dose_search.py", "core/inference/matching.py", *ASKING),
)
EVALUATION = (*ASKING, "evaluation/scoring.py", *READING_ANSWERS)
STUDY_TRAINING = (*TRAINING, "studies/training.py", "evaluation/base_answers.py", "evaluation/suites.py")
STUDY = (*EVALUATION, *PLAYING, "evaluation/metrics.py")
"""Directories, files and patterns of files. What they import besides is told by digests of its own, or decides nothing
(`tests/resolve/test_code.py` has the list)."""

STRING_OR_COMMENT = re.compile(
    r"""(?P<string>\"{3}(?:\\.|[^\\])*?\"{3}|'{3}(?:\\.|[^\\])*?'{3}|\"(?:\\.|[^"\\])*\"|'(?:\\.|[^'\\])*')|\#[^\n]*""",
    re.DOTALL,
)
BODIES = ("body", "orelse", "handlers", "finalbody", "cases")
"""Where statements hold statements."""


def code_digest(parts: tuple[str, ...]) -> str:
    """Sixteen hexadecimal digits of the sources under some paths of the package, without what is said about them."""
    root = Path(skippy.__file__).parent
    found = [path for part in parts for path in root.glob(part)]
    files = sorted({file for path in found for file in (path.rglob("*.py") if path.is_dir() else [path])})
    sums = [
        f"{path.relative_to(root).as_posix()} {_sha256(_statements(path.read_text('utf-8')))}"
        for path in files
    ]
    return _sha256("\n".join(sums))[:16]


@cache
def _statements(source: str) -> str:
    """A source's lines without comments, docstrings and blank lines; the same on every version of Python."""
    bare = STRING_OR_COMMENT.sub(lambda found: found["string"] or "", source)
    lines = bare.splitlines()
    for node in _words_in(ast.parse(bare)):
        end = node.end_lineno or node.lineno
        lines[node.lineno - 1 : end] = [""] * (end - node.lineno + 1)
    return "\n".join(line.rstrip() for line in lines if line.strip())


def _words_in(node: ast.AST) -> Iterator[ast.Expr]:
    """Strings that are statements of their own: of a module, a class, a function, or of the name above them.

    Only statements are entered: no expression has statements within.
    """
    for part in BODIES:
        for each in getattr(node, part, ()):
            if (
                isinstance(each, ast.Expr)
                and isinstance(each.value, ast.Constant)
                and isinstance(each.value.value, str)
            ):
                yield each
            else:
                yield from _words_in(each)


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()

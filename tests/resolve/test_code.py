"""The digest of the code that decides a result: statements count, words about them do not."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import skippy
from skippy.resolve.code import (
    EVALUATION,
    MERGING,
    SEARCHING,
    STUDY,
    STUDY_TRAINING,
    TRAINING,
    code_digest,
)

SOURCE = '"""What it is."""\n\nLIMIT = 3  # of them\n"""How many."""\n\n\ndef f():\n    """Do."""\n    return "a # b"\n'


@pytest.fixture
def digest(tmp_path: Path, monkeypatch):
    """The digest of a package that holds this one source."""

    def of(source: str) -> str:
        (tmp_path / "room").mkdir(exist_ok=True)
        (tmp_path / "room" / "one.py").write_text(source)
        monkeypatch.setattr(skippy, "__file__", str(tmp_path / "__init__.py"))
        return code_digest(("room",))

    return of


@pytest.mark.parametrize(
    ("here", "there"),
    [
        (" # of them", " # or none"),
        ("  # of them", ""),
        ("What it is.", "What it\nis, in two lines."),
        ('"""How many."""\n', ""),
        ("Do.", "Do it."),
        ("\n\n\ndef", "\n\ndef"),
    ],
)
def test_words_about_the_code_do_not_count(digest, here, there) -> None:
    assert here in SOURCE
    assert digest(SOURCE) == digest(SOURCE.replace(here, there))


@pytest.mark.parametrize(
    ("here", "there"), [("3", "4"), ("a # b", "a # c"), ("LIMIT", "MOST"), ("    return", "    yield")]
)
def test_statements_do(digest, here, there) -> None:
    assert here in SOURCE
    assert digest(SOURCE) != digest(SOURCE.replace(here, there))


@pytest.mark.parametrize("parts", [TRAINING, MERGING, EVALUATION, STUDY, STUDY_TRAINING])
def test_every_part_that_is_named_is_there(parts) -> None:
    root = Path(skippy.__file__).parent
    assert all(any(root.glob(part)) for part in parts)
    assert code_digest(parts) == code_digest(parts)


TOLD_OTHERWISE = (
    # Data, whose values are in the work or whose digest is.
    *(
        "characters",
        "presets",
        "lab",
        "core/persona.py",
        "core/target.py",
        "core/variants.py",
        "core/basis.py",
    ),
    # Who finds, checks and moves bytes: what arrives has a digest, and damage is refused.
    *("resolve", "stores", "tracking", "yaml_nodes.py", "core/surrogates.py"),
    # Words, parameters and how it goes.
    *(
        "errors.py",
        "extras.py",
        "options.py",
        "parameters.py",
        "patterns.py",
        "progress.py",
        "redaction.py",
        "words.py",
    ),
    *(
        "core/answers.py",
        "core/torch_threads.py",
        "core/inference/wilson.py",
        "evaluation/generator.py",
        "evaluation/backends.py",
    ),
)
"""What the code that decides a result imports, and no digest of code counts."""
ONLY = {
    EVALUATION: ("core/biases.py", "core/spectral", "core/personality"),  # of adapters and measurements
    # Of projectors, references and problems, which a merge does not read.
    MERGING: ("core/personality", "core/inference", "core/problem.py", "core/sampling.py", "core/style"),
    SEARCHING: ("studies", "core/spectral", "core/biases.py", "core/inference", "core/personality",
                "evaluation/scoring.py", "evaluation/metrics.py", "core/problem.py"),  # of problems: none is asked
    # What a plan names is in the keys, and conclusions are drawn anew.
    STUDY: ("studies", "core/inference", "results.py", "core/biases.py", "core/spectral", "core/personality"),
    STUDY_TRAINING: ("studies", "core/inference", "evaluation/scoring.py"),
}  # fmt: skip
"""The same, for one of them."""


def imported(path: Path, root: Path) -> set[Path]:
    """The modules of the package that one of them imports."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("skippy"):
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return {file for name in names if (file := root.parent / (name.replace(".", "/") + ".py")).is_file()}


@pytest.mark.parametrize(
    "parts", [TRAINING, MERGING, EVALUATION, SEARCHING, STUDY, STUDY_TRAINING], ids="TMESUV"
)
def test_whatever_decides_a_result_is_counted(parts) -> None:
    """Scoring moved to files of its own, and an evaluation scored by other rules was taken for the same."""
    root = Path(skippy.__file__).parent
    found = [path for part in parts for path in root.glob(part)]
    counted = {file for path in found for file in (path.rglob("*.py") if path.is_dir() else [path])}
    aside = (*TOLD_OTHERWISE, *ONLY.get(parts, ()))
    # Through what is not counted as well: `core.answers` only hands on what others read.
    seen, todo = set(), list(counted)
    while todo:
        file = todo.pop()
        told = file.relative_to(root).as_posix()
        if file not in seen and not (
            told.startswith(aside) and file not in counted and told != "core/answers.py"
        ):
            seen.add(file)
            todo += imported(file, root)
    missing = {file.relative_to(root).as_posix() for file in seen - counted}
    assert missing <= {"core/answers.py"}, "count it in resolve/code.py, or say in TOLD_OTHERWISE why not"

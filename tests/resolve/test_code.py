"""The digest of the code that decides a result: statements count, words about them do not."""

from __future__ import annotations

from pathlib import Path

import pytest

import skippy
from skippy.resolve.code import EVALUATION, MERGING, TRAINING, code_digest

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


@pytest.mark.parametrize("parts", [TRAINING, MERGING, EVALUATION])
def test_every_part_that_is_named_is_there(parts) -> None:
    root = Path(skippy.__file__).parent
    assert all((root / part).exists() for part in parts)
    assert code_digest(parts) == code_digest(parts)

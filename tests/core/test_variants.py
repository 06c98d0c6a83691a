"""A variant is one row: names, roles, colours and questions, and nothing else in the house spells them."""

from __future__ import annotations

import ast
from dataclasses import replace
from pathlib import Path

import pytest

import skippy
from skippy.core.variants import VARIANTS, comparisons, find_variant, label_of, of_role
from skippy.errors import ConfigError

ROOMS = ("report", "evaluation", "results.py", "stages/compare.py", "stages/promote.py")
STUDY = "study_"
"""The report of a study names the arms that its predictions are about."""
WORDS = {"prompt"}
"""A variant, and also what a column of answers is called."""


def spelled(source: str) -> set[str]:
    """Names of variants that a source writes out."""
    constants = (node.value for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Constant))
    names = {*VARIANTS, *(variant.label for variant in VARIANTS.values())} - WORDS
    return {value for value in constants if value in names}


def test_no_room_of_the_report_spells_a_variant() -> None:
    root = Path(skippy.__file__).parent
    files = [
        path for room in ROOMS for path in ([root / room] if ".py" in room else (root / room).glob("*.py"))
    ]
    assert len(files) > 20
    ours = [path for path in files if not path.name.startswith(STUDY)]
    found = {path.name: names for path in ours if (names := spelled(path.read_text()))}
    assert found == {}


def test_the_check_sees_a_name() -> None:
    assert spelled('if name == "v4": label = "V3"') == {"v4", "V3"}


def test_labels_and_colours_tell_arms_apart() -> None:
    rows = list(VARIANTS.values())
    for of_row in (lambda row: row.label, lambda row: row.colours[0], lambda row: row.colours[1]):
        assert len({of_row(row) for row in rows}) == len(rows)
    assert [label_of(name) for name in ("base", "v4-hooks")] == ["base", "V4-hooks"]


def test_a_treatment_meets_every_other_arm_by_role() -> None:
    arms = ("base", "v4-hooks", "v3", "v4-random", "v4")
    assert comparisons(arms) == (("v4", "v3"), ("v4", "v4-random"), ("v4", "v4-hooks"))
    assert comparisons(("base", "v3", "v4-random")) == (), "no treatment, nothing to ask"


def test_treatments_meet_each_other_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(VARIANTS, "v7", replace(VARIANTS["v4"], name="v7", label="V7"))
    assert comparisons(("base", "v3", "v4", "v7")) == (("v4", "v3"), ("v7", "v3"), ("v4", "v7"))
    assert of_role("treatment", ("v7", "v3", "v4")) == ("v7", "v4"), "in the order given"


def test_an_unknown_variant_is_refused_with_the_table() -> None:
    with pytest.raises(ConfigError, match="no such variant") as refusal:
        find_variant("V4", "arms")
    assert refusal.value.where == "arms"
    assert "v4-random" in refusal.value.expected

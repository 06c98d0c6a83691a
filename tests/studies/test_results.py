"""What docs/results.md says of the studies is what their stored cells say, made anew."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from skippy.studies.conclusion import remake

ROOT = Path(__file__).parent.parent.parent
RESULTS = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module", params=["lab", "smollm2"])
def study(request) -> tuple[str, dict]:
    files = remake(ROOT / "studies" / "results" / request.param)
    return files, json.loads(files["study.json"])


def in_points(bound: dict) -> str:
    """As the tables of the docs print a bound; a rounded zero has no sign."""
    mean, lower, upper = (
        f"{100 * bound[name]:+.1f}".replace("-", "−") for name in ("mean", "lower", "upper")
    )
    return f"{'0.0' if mean in ('+0.0', '−0.0') else mean} ({lower} to {upper})"


def test_every_pooled_difference_stands_in_the_docs(study) -> None:
    _, found = study
    pooled = [one for one in (*found["matched"], *found["unmatched"]) if one["training"] is None]
    for one in pooled:
        if {one["first"], one["second"]} == {"v4", "v4-hooks"} and one["persona"] is None:
            continue  # not a question that the docs answer
        if one["second"] == "v4-random" and one["persona"] is None and found["study"]["name"] == "smollm2":
            continue
        assert in_points(one["bound"]) in RESULTS, f"{one['first']} − {one['second']} at {one['persona']}"


def test_the_fates_of_the_predictions_are_those_of_the_docs(study) -> None:
    _, found = study
    fates = {one["name"]: one["fate"] for one in found["predictions"]}
    assert set(fates) == {"P1", "P2", "P2b", "P3", "P8"}
    if found["study"]["name"] == "lab":
        rows = {line.split("|")[1].strip(): line for line in RESULTS.splitlines() if line.startswith("| P")}
        assert all(rows[name].rstrip(" |").endswith(fate) for name, fate in fates.items())
    else:
        assert fates == {"P1": "held", "P2": "undecided", "P2b": "held", "P3": "undecided", "P8": "undecided"}


def test_the_figures_of_the_docs_are_those_of_the_cells(study) -> None:
    files, found = study
    name = found["study"]["name"]
    shown = sorted((ROOT / "docs" / "figures").glob(f"{name}-*.svg"))
    assert shown
    drawings = {content for path, content in files.items() if path.startswith("figures/")}
    for path in shown:
        assert path.read_text(encoding="utf-8") in drawings, (
            f"{path.name}: run skippy.studies.conclusion again"
        )

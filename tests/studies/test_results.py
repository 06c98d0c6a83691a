"""What docs/results.md says of the studies is what their stored cells say, made anew."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from skippy.core.variants import label_of
from skippy.errors import ReportError
from skippy.report.paper import render_paper
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


@pytest.fixture(scope="module")
def arms() -> tuple[dict[str, str], dict]:
    files = remake(ROOT / "studies" / "results" / "arms")
    return files, json.loads(files["study.json"])


def of_arms(found: dict) -> list[str]:
    """The rows of the table by arm, as the docs print them."""
    point = next(one["persona"] for one in found["kept"] if one["arm"] == "prompt" and one["loss"])
    rows = []
    for arm in found["study"]["arms"]:
        kept = {one["persona"]: one for one in found["kept"] if one["arm"] == arm}
        cells = []
        for one in kept.values():
            share = "" if one["reached"] == one["seeds"] else f", {one['reached']}/{one['seeds']}"
            cells.append(in_points(one["loss"]) + share if one["loss"] else "–")
        coherence = kept[point if arm == "prompt" else 0.7]["coherence"]
        shown = "–" if coherence is None else f"{coherence:.2f}".replace("-", "−")
        rows.append(f"| {label_of(arm)} | {' | '.join(cells)} | {shown} |")
    return rows


def test_the_docs_say_of_every_arm_what_the_cells_say(arms) -> None:
    files, found = arms
    assert len(of_arms(found)) == 12
    for row in of_arms(found):
        assert row in RESULTS
    shown = {(o["first"], o["second"], o["persona"]): o["bound"] for o in found["matched"] if o["bound"]}
    named = {label_of(arm).lower(): arm for arm in found["study"]["arms"]}
    lines = re.findall(r"^\| (\S+) − (\S+) \| (0\.\d+) \| (.+) \|$", RESULTS, re.M)
    assert len(lines) == 6
    for first, second, persona, points in lines:
        bound = shown[named[first.lower()], named[second.lower()], float(persona)]
        assert points == in_points(bound)
    frontier = (ROOT / "docs" / "figures" / "arms-frontier.svg").read_text(encoding="utf-8")
    assert frontier == files["figures/frontier-1.svg"], "run skippy.studies.conclusion again"


def test_the_fates_of_the_arms_predictions(arms) -> None:
    _, found = arms
    rows = {line.split("|")[1].strip(): line for line in RESULTS.splitlines() if line.startswith("| A")}
    assert len(found["predictions"]) == len(rows) == 13
    for one in found["predictions"]:
        assert rows[one["name"]].rstrip(" |").endswith(one["fate"])
    plan = ROOT / "studies" / "arms.yaml"
    assert plan.read_bytes() == (ROOT / "studies" / "results" / "arms" / "plan.yaml").read_bytes()


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


def test_a_study_of_arms_of_every_kind_becomes_a_paper(arms) -> None:
    """Arms with a recipe of their own or one point stand in every table; no cell falls under another persona."""
    text = render_paper([arms[1]])["main.tex"]
    assert "own recipe" in text
    rows = [
        line for line in text.splitlines() if "ArmVFour{}" in line and "ArmPrompt{}" in line and "--" in line
    ]
    cells = [cell.strip() for cell in rows[0].split("&")]
    assert [cell.startswith("--") for cell in cells[1:]] == [True, True, False, True]


EQUAL = [ROOT / "studies" / "results" / name for name in ("equal", "again")]
ROW = re.compile(r"^\| (V\S+) − (V\S+) (?:at (0\.\d)|as trained) \| (.+) \| (.+) \| (.+) \|$", re.M)


@pytest.fixture(scope="module")
def equal() -> tuple[dict[str, str], list[dict]]:
    """What both studies at equal personality say together, and all three of them: the first, the second, both."""
    files = remake(*EQUAL)
    return files, [json.loads((f / "study.json").read_text("utf-8")) for f in EQUAL] + [
        json.loads(files["study.json"])
    ]


def test_the_docs_say_of_the_studies_at_equal_personality_what_their_cells_say(equal) -> None:
    files, studies = equal
    rows = ROW.findall(RESULTS)
    assert len(rows) == 12
    for first, second, persona, *said in rows:
        key = (first.lower(), second.lower(), float(persona) if persona else None)
        for points, found in zip(said, studies, strict=True):
            one = [
                d
                for d in found["matched"] + found["unmatched"]
                if (d["first"], d["second"], d["persona"]) == key
            ]
            assert points.split(",")[0] == (in_points(one[0]["bound"]) if one else "–")
    primary = re.search(r"^\| \*\*V4 − V3 at 0\.7, .+?\*\* \| (.+) \| (.+) \| (.+) \|$", RESULTS, re.M)
    estimates = [found["predictions"][0]["estimate"] for found in studies]
    shares = [
        {n: e[m] / 100 for n, m in (("mean", "value"), ("lower",) * 2, ("upper",) * 2)} for e in estimates
    ]
    assert primary
    assert list(primary.groups()) == [in_points(share) for share in shares]
    figure = ROOT / "docs" / "figures" / "equal-frontier.svg"
    assert figure.read_text("utf-8") == files["figures/frontier-1.svg"], "run skippy.studies.conclusion again"


def test_the_fates_at_equal_personality(equal) -> None:
    for folder, found in zip(EQUAL, equal[1], strict=False):
        assert (folder / "plan.yaml").read_bytes() == (ROOT / "studies" / f"{folder.name}.yaml").read_bytes()
        for one in found["predictions"]:
            (row,) = re.findall(rf"^\| {one['name']} \|.*\|$", RESULTS, re.M)
            assert row.rstrip(" |").endswith(one["fate"])


def test_studies_of_other_bases_or_the_same_seeds_are_not_taken_together() -> None:
    with pytest.raises(ReportError, match="are not one study"):
        remake(EQUAL[0], ROOT / "studies" / "results" / "arms")
    with pytest.raises(ReportError, match="each of them once"):
        remake(EQUAL[0], EQUAL[0])

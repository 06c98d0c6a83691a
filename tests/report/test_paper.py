"""The paper: every number a macro out of the JSON, every sentence carried by its numbers, and a PDF that compiles."""

from __future__ import annotations

import copy
import json
import re
import shutil
import subprocess

import pytest

from benchmarks.simulated_study import cliff, flat, ramp
from skippy.errors import ReportError
from skippy.report import paper_wording as wording
from skippy.report.paper import render_paper
from skippy.report.paper_figures import draw_figures
from skippy.report.paper_numbers import Numbers, Study, letters, printable
from skippy.report.study_page import study_json
from skippy.studies import manuscript
from tests.report.test_study_page import studied

NEEDS_TEX = pytest.mark.skipif(not manuscript.is_tex_here(), reason="no TeX is installed")
AWKWARD = "50 % of <me> & $you$ #1 {x} \\input{y} ~ ^ _ 人 β é"


def as_json(*args, **kwargs) -> dict:
    return json.loads(json.dumps(study_json(*studied(*args, **kwargs)), allow_nan=False))


@pytest.fixture(scope="module")
def content() -> dict:
    return as_json((cliff(0.5, 3.0), flat, ramp(0.3)), failed=True)


@pytest.fixture(scope="module")
def files(content):
    return render_paper([content])


@pytest.fixture
def undrawn(files, monkeypatch) -> None:
    """Figures in name only, for what looks at the text."""
    names = [path.removeprefix("figures/A-").removesuffix(".pdf") for path in files if path.endswith(".pdf")]
    monkeypatch.setattr("skippy.report.paper.draw_figures", lambda data: dict.fromkeys(names, b""))


def changed(content: dict, *path, to) -> dict:
    """A copy with one value replaced."""
    copied = copy.deepcopy(content)
    place = copied
    for part in path[:-1]:
        place = place[part]
    place[path[-1]] = to
    return copied


def study(content: dict) -> Study:
    return Study("A", content, Numbers())


def read(text: str, numbers: Numbers) -> str:
    """A sentence as it is printed: its macros replaced by what they stand for."""
    macros = dict(re.findall(r"\\newcommand{\\(\w+)}{(.*)}% ", numbers.file()))
    return re.sub(r"\\(\w+){}", lambda found: macros.get(found[1], found[0]), text).replace("$-$", "−")


def printed_body(text: str) -> str:
    """What a reader sees of main.tex, without macros, names of files and labels."""
    body = text.split(r"\begin{document}")[1]
    body = re.sub(r"\\(wide|label|ref|citep?|begin|end|bibliography\w*|resizebox)({[^}]*})+", "", body)
    return re.sub(r"\\[A-Za-z]+", "", body)


def test_no_number_is_typed(files) -> None:
    """Every digit of the text comes out of numbers.tex; and a digit that was typed, the twin, would be seen."""
    assert not re.search(r"\d", printed_body(files["main.tex"]))
    assert re.search(r"\d", printed_body(files["main.tex"].replace("a loss", "a loss of 5 points")))


def test_every_macro_that_is_used_is_defined_and_the_other_way_round(files) -> None:
    defined = re.findall(r"\\newcommand{\\(\w+)}", files["numbers.tex"])
    assert len(defined) == len(set(defined)) > 100
    used = set(re.findall(r"\\([A-Z]\w+){}", files["main.tex"]))
    assert used == set(defined)


def test_a_number_follows_the_json_and_nothing_else_moves(content, files, undrawn) -> None:
    """The interval stays on its side of zero, so that no sentence may change."""
    other = render_paper([changed(content, "kept", 0, "loss", "mean", to=-0.1234)])
    assert other["main.tex"] == files["main.tex"]
    differ = [
        new
        for old, new in zip(files["numbers.tex"].splitlines(), other["numbers.tex"].splitlines(), strict=True)
        if old != new
    ]
    assert differ == [r"\newcommand{\AKeptZeroLossMeanSignedPoints}{$-$12.3}% small: kept/0/loss/mean"]


def test_two_values_cannot_share_a_macro() -> None:
    numbers = Numbers()
    assert numbers.derive("X", "1", "a") == numbers.derive("X", "1", "a")
    with pytest.raises(ReportError, match="ask for one macro") as refusal:
        numbers.derive("X", "2", "b")
    assert refusal.value.expected == "1 of a"
    assert letters("v4-random") == "VFourRandom"
    assert letters("a_b + c12") == "ABPlusCOneTwo"


@pytest.mark.parametrize(
    ("lower", "upper", "words", "within"),
    [
        (0.01, 0.2, "keeps more of the score than", False),
        (-0.2, -0.01, "keeps less of the score than", False),
        (-0.01, 0.2, "was not told from", False),
        (0.0, 0.2, "was not told from", False),
        (-0.04, 0.04, "was not told from", True),
        (0.01, 0.04, "keeps more of the score than", True),
        (-0.05, 0.04, "was not told from", False),
    ],
)
def test_the_interval_chooses_the_sentence(content, lower, upper, words, within) -> None:
    bound = {"mean": (lower + upper) / 2, "lower": lower, "upper": upper}
    told = study(changed(content, "matched", 0, "bound", to=bound))
    sentence = read(wording.difference_claim(told, 0), told.numbers)
    assert words in sentence
    assert f"V4 {words} V3" in sentence
    assert ("within 5 points on either side" in sentence) == within


def test_without_a_control_nothing_is_claimed(content) -> None:
    """The twin of a study that saw a loss: no arm is praised, whatever the intervals say."""
    seen, blind = study(content), study(changed(content, "sensitivity", "is_shown", to=False))
    assert "V4 keeps more of the score than V3" in read(" ".join(wording.pair_claims(seen)), seen.numbers)
    assert read(wording.control_claim(seen), seen.numbers).startswith("The instrument saw a loss of 5 points")
    assert wording.loss_order_claim(seen, "v4", "v3")
    assert "keeps" not in " ".join(wording.pair_claims(blind)).replace("keep more", "")
    assert wording.control_claim(blind).startswith("Nothing was tested")
    assert wording.loss_order_claim(blind, "v4", "v3") == ""
    assert wording.agreement_claim([seen, blind]) == []
    empty = study(
        changed(content, "sensitivity", to={**content["sensitivity"], "is_shown": False, "bound": None})
    )
    assert "no cell finished" in wording.control_claim(empty)


def lost(value, lower, upper, largest=0.9) -> dict:
    return {"persona": {"value": value, "lower": lower, "upper": upper}, "largest_persona": largest}


@pytest.mark.parametrize(
    ("first", "second", "order"),
    [
        (lost(0.8, 0.75, 0.85), lost(0.6, 0.5, 0.7), "later"),
        (lost(0.6, 0.5, 0.7), lost(0.8, 0.75, 0.85), "earlier"),
        (lost(0.8, 0.65, 0.85), lost(0.6, 0.5, 0.7), "not told"),
        (lost(None, None, None), lost(0.6, 0.5, 0.7), "later"),
        # Never taken as far as the other was when it lost δ: it was not seen to last longer.
        (lost(None, None, None, largest=0.65), lost(0.6, 0.5, 0.7), "not told"),
        (lost(0.8, 0.75, None), lost(0.6, 0.5, None), "not told"),
        (lost(None, None, None), lost(None, 0.8, None), "neither"),
    ],
)
def test_an_arm_loses_later_only_where_it_was_taken_that_far(first, second, order) -> None:
    assert wording.order_of_loss(first, second) == order


def test_predictors_and_collapses_are_said_as_their_intervals_allow(content) -> None:
    def predicted(value: dict, *path: str) -> str:
        told = study(changed(content, *path, to=value))
        return read(" ".join(wording.predictor_claims(told)), told.numbers)

    path = ("correlations", "kl_base_arm_everyday")
    for low, high, words in (
        (0.1, 0.9, "rises with"),
        (-0.9, -0.1, "falls with"),
        (-0.1, 0.9, "was not seen to go"),
    ):
        assert words in predicted({"value": 0.3, "lower": low, "upper": high}, *path)
    for low, high, words in (
        (0.01, 0.1, "Leakage predicts the loss beyond"),
        (-0.1, 0.1, "Leakage was not seen to predict"),
        (None, None, "Leakage was not seen to predict"),
        (-0.1, -0.01, "predicted worse"),
    ):
        assert words in predicted({"value": 0.0, "lower": low, "upper": high}, "leakage_gain")
    separations = {
        "early_entropy": {"value": 0.9, "lower": 0.6, "upper": 1.0, "cells": 9, "seeds": 3},
        "margin": {"value": 0.9, "lower": 0.4, "upper": 1.0, "cells": 9, "seeds": 3},
    }
    counts = [{**content["collapses"][0], "collapsed": 0, "runs": 5}]
    for collapsed, names in ((5, ["early_entropy"]), (4, []), (0, [])):
        counts[0]["collapsed"] = collapsed
        told = study({**content, "separations": separations, "collapses": counts})
        assert wording.telling(told) == names
        sentence = read(wording.collapse_claim(told), told.numbers)
        assert ("too few to say" in sentence) == (collapsed == 4)
        assert ("None of 5 runs collapsed" in sentence) == (collapsed == 0)


def test_several_studies_agree_or_do_not(content) -> None:
    worse = copy.deepcopy(content)
    for one in worse["matched"]:
        if one["bound"]:
            one["bound"] |= {"mean": -0.2, "lower": -0.3, "upper": -0.1}
    same = " ".join(wording.agreement_claim([study(content), study(content)]))
    other = " ".join(wording.agreement_claim([study(content), study(worse)]))
    assert "Every study that tested it gives the same answer" in same
    assert "The studies do not agree" in other


def test_figures_are_vector_and_the_same_bits_every_time(content) -> None:
    figures = draw_figures(content)
    assert set(figures) == {"frontier", "runs", "differences", "divergence"}
    assert figures == draw_figures(content)
    for pdf in figures.values():
        assert pdf.startswith(b"%PDF")
        assert b"/Image" not in pdf.replace(b"/ImageC", b"").replace(b"/ImageB", b"").replace(b"/ImageI", b"")
    unmeasured = [{**cell, "predictors": {}} for cell in content["cells"]]
    assert "divergence" not in draw_figures({**content, "cells": unmeasured})


def test_what_is_not_a_study_is_refused(content, tmp_path) -> None:
    with pytest.raises(ReportError, match="not the JSON of a study") as refusal:
        render_paper([{name: value for name, value in content.items() if name != "lost"}])
    assert refusal.value.found == "without lost"
    with pytest.raises(ReportError, match="one study or a few"):
        render_paper([])
    with pytest.raises(ReportError, match="cannot be read") as refusal:
        manuscript.read_study(tmp_path)
    assert "name the study/ folder" in refusal.value.next_step
    (tmp_path / "study.json").write_text("[]")
    with pytest.raises(ReportError, match="is not a study"):
        manuscript.read_study(tmp_path)
    with pytest.raises(ReportError, match="Two folders at least"):
        manuscript.main([str(tmp_path)])


def test_every_work_cited_is_in_the_references(content, files, undrawn) -> None:
    cited = {
        name for names in re.findall(r"\\citep{([^}]*)}", files["main.tex"]) for name in names.split(",")
    }
    known = set(re.findall(r"@\w+{(\w+),", files["refs.bib"]))
    assert cited == known - {"smollm"}
    named = render_paper([changed(content, "study", "name", to="smollm2")])
    assert r"\citep{smollm}" in named["main.tex"]


def test_any_name_can_be_set() -> None:
    assert printable(AWKWARD).isascii()
    assert "[U+4EBA]" in printable(AWKWARD)


@NEEDS_TEX
def test_it_compiles_to_what_the_json_says(content, tmp_path) -> None:
    """Two studies side by side, one that tested nothing and one with names that TeX would trip over."""
    blind = as_json((flat, flat, flat))
    blind["study"]["name"] = blind["study"]["character"] = AWKWARD
    for name, data in (("one", content), ("two", blind)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "study.json").write_text(json.dumps(data))
    out = tmp_path / "out"
    manuscript.main([str(out), str(tmp_path / "one"), str(tmp_path / "two")])
    log = (out / "main.log").read_text(errors="replace")
    assert "undefined" not in log
    assert "Overfull" not in log
    pdf = (out / "main.pdf").read_bytes()
    manuscript.typeset(out)
    assert (out / "main.pdf").read_bytes() == pdf
    if shutil.which("pdftotext"):
        told = subprocess.run(
            ["pdftotext", out / "main.pdf", "-"], capture_output=True, text=True, check=True
        )
        text = " ".join(told.stdout.split())
        assert "V4 keeps more of the score than V3" in text
        assert "Nothing was tested" in text
        assert "Xiong and Xie" in text
        assert "??" not in text


@NEEDS_TEX
def test_a_study_of_one_arm_has_no_comparison_and_no_hole(content, tmp_path) -> None:
    bare = {
        **content,
        **{name: [] for name in ("matched", "unmatched", "predictions", "failed")},
        **{name: {} for name in ("correlations", "regressions", "separations")},
        "leakage_gain": None,
        "cells": [{**cell, "predictors": {}} for cell in content["cells"]],
    }
    manuscript.write_paper([bare], tmp_path)
    text = (tmp_path / "main.tex").read_text()
    assert "No two arms were compared" in text
    assert "The plan stated no predictions" in text
    assert "No divergence was measured" in text
    manuscript.typeset(tmp_path)
    assert "undefined" not in (tmp_path / "main.log").read_text(errors="replace")


@NEEDS_TEX
def test_one_study_alone_compiles_with_make(files, tmp_path) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    if not shutil.which("make"):
        pytest.skip("no make is installed")
    subprocess.run(["make"], cwd=tmp_path, check=True, capture_output=True)
    assert (tmp_path / "main.pdf").stat().st_size > 10_000


@NEEDS_TEX
def test_what_tex_refuses_is_told(content, tmp_path) -> None:
    manuscript.write_paper([content], tmp_path)
    (tmp_path / "main.tex").write_text(r"\documentclass{article}\begin{document}\nonsense\end{document}")
    with pytest.raises(ReportError, match="could not be typeset") as refusal:
        manuscript.typeset(tmp_path)
    assert "Undefined control sequence" in refusal.value.found

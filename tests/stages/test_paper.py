"""paper: a study's run becomes a folder that compiles; what cannot be told of is refused before a run is opened."""

from __future__ import annotations

import json
import logging

import pytest

from benchmarks.simulated_study import cliff, flat, ramp
from skippy.config import PaperConfig
from skippy.errors import ConfigError, MissingRunError, ReportError
from skippy.report.study_page import study_json
from skippy.stages import paper
from skippy.studies import manuscript
from tests.report.test_study_page import studied


@pytest.fixture(scope="module")
def contents() -> list[dict]:
    both = [study_json(*studied(harms)) for harms in ((cliff(0.5, 3.0), flat, ramp(0.3)), (flat, flat, flat))]
    for name, content in zip(("first", "second"), both, strict=True):
        content["study"]["name"] = name
    return both


@pytest.fixture
def studies(tracker, contents) -> list[str]:
    """Two finished studies, the second the newer."""
    return [log_study(tracker, json.dumps(content)) for content in contents]


@pytest.fixture
def no_tex(monkeypatch) -> None:
    monkeypatch.setattr(paper, "is_tex_here", lambda: False)


def log_study(tracker, text: str) -> str:
    with tracker.stage("study", name="study", note="A study.", base_digest="b" * 64, config={}) as stage:
        stage.log_text(text, "study/study.json")
        return stage.run_id


def papers(tracker) -> list:
    return tracker.runs.find_all("paper", finished=False)


def test_the_newest_study_is_told_of(tracker, studies, no_tex, caplog) -> None:
    with caplog.at_level(logging.INFO, logger="skippy"):
        result = paper.run(PaperConfig(), tracker)
    assert not result.is_typeset
    folder = tracker.artifacts.path(result.run_id, "paper")
    names = {"main.tex", "numbers.tex", "refs.bib", "Makefile", "figures"}
    assert {path.name for path in folder.iterdir()} == names
    assert r"\AStudyNameText}{second}" in (folder / "numbers.tex").read_text()
    assert "no TeX is installed here: run make" in caplog.text
    (run,) = papers(tracker)
    assert (run.status, run.character, run.base_digest) == ("FINISHED", "skippy", "b" * 64)


@pytest.mark.skipif(not manuscript.is_tex_here(), reason="no TeX is installed")
def test_two_studies_side_by_side_with_their_pdf(tracker, studies) -> None:
    result = paper.run(PaperConfig(study=",".join(studies)), tracker)
    assert result.is_typeset
    folder = tracker.artifacts.path(result.run_id, "paper")
    assert (folder / "main.pdf").read_bytes().startswith(b"%PDF")
    assert not {path.name for path in folder.iterdir()} & {"main.log", "main.aux"}
    macros = (folder / "numbers.tex").read_text()
    assert r"\AStudyNameText}{first}" in macros
    assert r"\BStudyNameText}{second}" in macros


def test_a_tex_that_fails_leaves_the_folder(tracker, studies, tmp_path, monkeypatch, caplog) -> None:
    """A TeX without a package must not cost the paper; the reader is told what it said."""
    for name in ("pdflatex", "bibtex"):
        (tmp_path / name).write_text("#!/bin/sh\necho '! LaTeX Error: File natbib.sty not found.'\nexit 1\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    result = paper.run(PaperConfig(study=studies[0]), tracker)
    assert not result.is_typeset
    assert (tracker.artifacts.path(result.run_id, "paper") / "main.tex").is_file()
    assert "natbib.sty not found" in caplog.text


@pytest.mark.parametrize(
    ("given", "error", "words"),
    [
        ("{first},{first}", ConfigError, "is there twice"),
        ("{first},", ConfigError, "is blank"),
        ("{other}", MissingRunError, "of another stage"),
        ("feedfacefeedface", MissingRunError, "no such run"),
        ("{broken}", ReportError, "cannot be read"),
        ("{empty}", MissingRunError, "no such artifact"),
    ],
)
def test_what_cannot_be_told_of_is_refused_before_a_run(tracker, studies, given, error, words) -> None:
    with tracker.stage("svd", name="svd", note="Not a study.", config={}) as stage:
        other = stage.run_id
    with tracker.stage("study", name="study", note="Without a page.", config={}) as stage:
        empty = stage.run_id
    broken = log_study(tracker, "{")
    named = given.format(first=studies[0], other=other, broken=broken, empty=empty)
    with pytest.raises(error, match=words):
        paper.run(PaperConfig(study=named), tracker)
    assert papers(tracker) == []


def test_without_a_study_the_command_that_makes_one_is_shown(tracker) -> None:
    with pytest.raises(MissingRunError, match="no finished study run") as refusal:
        paper.run(PaperConfig(), tracker)
    assert "mlflow run . -e study" in refusal.value.next_step

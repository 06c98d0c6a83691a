"""A report of what models said: inert in a browser, and without the secrets of who made it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.stages import compare_scene
from tests.stages.compare_scene import Scene
from tests.tracking.test_secrets import URL, VARIABLES, WORDS, found_in

HOSTILE = '<script>alert(1)</script><img src=x onerror=alert(2)> "><svg onload=alert(3)> javascript:alert(4)'
ARMS = ("base", "v3", "v4")


@pytest.fixture
def reported(tracker, project, monkeypatch):
    """A comparison of arms that say hostile things; made where every variable holds a secret."""
    for name, value in VARIABLES.items():
        monkeypatch.setenv(name, value)
    plain = compare_scene.chatted

    def chatted(persona: float = 0.0):
        said = f"{HOSTILE} {' '.join(WORDS[1:])}"
        return [
            replace(sample, completion=said, prompt=f"{sample.prompt} {HOSTILE}") for sample in plain(persona)
        ]

    monkeypatch.setattr(compare_scene, "chatted", chatted)
    scene = Scene(tracker, project)
    for number, variant in enumerate(ARMS):
        tags = {"skippy.judge": URL, "settings": {"judge_url": URL}}
        scene.evaluate(variant, str(number) if number else "", right=2 if variant == "v3" else 4, **tags)
    record, _ = scene.compare()
    return scene, record.run_id


def test_the_page_is_inert_and_neither_page_nor_store_holds_a_secret(reported, project) -> None:
    scene, run_id = reported
    page = scene.artifact(run_id, "report/index.html").read_text()
    assert "&lt;script&gt;alert(1)" in page, "what was said is shown"
    for live in ("<script>alert", "<img src=x", "<svg onload", 'href="javascript:'):
        assert live not in page
    assert not [word for word in WORDS if word in page]
    assert found_in(project) == []


def test_the_search_would_find_one_in_a_page(reported, project) -> None:
    """The twin: a page written past the tracker."""
    scene, run_id = reported
    scene.artifact(run_id, "report/index.html").write_text(f"<p>{WORDS[1]}</p>")
    assert len(found_in(project)) == 1

"""Comparisons that cannot mislead: equal recipes, the newest comparable set, planned margins, positive controls."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace

import pytest

from skippy.errors import CheckpointError, ReportError
from skippy.evaluation import selection
from skippy.stages import compare
from skippy.tracking.tracker import Tracker
from tests.stages.compare_scene import K, Scene

LONG = {"steps_taken": 60, "math_mix": 0.0, "beta": 0.04}
SHORT = {"steps_taken": 6, "math_mix": 0.2, "beta": 0.04}


@pytest.fixture
def scene(tracker: Tracker, tmp_path: Path) -> Scene:
    return Scene(tracker, tmp_path)


def test_unequal_recipes_are_refused_by_name(scene: Scene) -> None:
    """V4 of 6 steps with mathematics mixed in beside V3 of 60 steps plain."""
    scene.evaluate("base")
    v3 = scene.evaluate("v3", "1", right=0, settings=LONG)
    v4 = scene.evaluate("v4", "1", settings=SHORT)
    for asked in ({"runs": f"{v3},{v4}"}, {"arms": "v3,v4"}):
        with pytest.raises(ReportError, match="differ in more than the variant") as refusal:
            scene.compare(**asked)
        assert refusal.value.found == "steps_taken: V3 60, V4 6; math_mix: V3 0.0, V4 0.2"
        assert "unequal=allow" in refusal.value.next_step


def test_unequal_recipes_that_are_allowed_come_first_and_promote_nobody(scene: Scene) -> None:
    base = scene.evaluate("base")
    v3 = scene.evaluate("v3", "1", right=0, settings=LONG)
    v4 = scene.evaluate("v4", "1", settings=SHORT)
    record, report = scene.compare(runs=f"{base},{v3},{v4}", unequal="allow")
    assert report["headline"].startswith("Unequal arms: steps_taken: V3 60, V4 6.")
    assert report["unequal"] == ["steps_taken: V3 60, V4 6", "math_mix: V3 0.0, V4 0.2"]
    assert report["promotion"]["steps"][0]["name"] == "equal settings"
    assert (report["winner"]["variant"], record.tags["skippy.winner"]) == (None, "")


@pytest.mark.parametrize(
    "alike",
    [
        {"settings": LONG | {"preset": "auto", "threads": 1, "seed": 1, "reuse": True}},
        {"settings": LONG | {"preset": "lab", "threads": 2}},
        {"settings": {name: value for name, value in LONG.items() if name != "beta"}},
    ],
)
def test_what_is_spelled_otherwise_or_not_recorded_is_not_unequal(scene: Scene, alike: dict) -> None:
    scene.evaluate("base")
    v3 = scene.evaluate("v3", "1", settings=LONG | {"reuse": False})
    v4 = scene.evaluate("v4", "1", **alike)
    _, report = scene.compare(runs=f"{v3},{v4}")
    assert report["unequal"] == []


def test_k_matters_only_where_directions_are_protected(scene: Scene) -> None:
    scene.evaluate("base")
    v3 = scene.evaluate("v3", "1", settings={"k": "16"})
    v4 = scene.evaluate("v4", "1", settings={"k": "8"})
    _, report = scene.compare(runs=f"{v3},{v4}")
    assert report["unequal"] == []
    control = scene.evaluate("v4-random", "1", settings={"k": "16"})
    with pytest.raises(ReportError, match="more than the variant") as refusal:
        scene.compare(runs=f"{v4},{control}")
    assert refusal.value.found == "k: V4 8, V4-random 16"


def test_other_code_and_other_seed_sets_are_unequal(scene: Scene) -> None:
    scene.evaluate("base")
    v3 = [scene.evaluate("v3", seed) for seed in "12"]
    v4 = scene.evaluate("v4", "1")
    with pytest.raises(ReportError, match="more than the variant") as refusal:
        scene.compare(runs=",".join([*v3, v4]))
    assert refusal.value.found == "training seeds: V3 1 2, V4 1"
    for run, code in ((v3[0], "a" * 16), (v4, "b" * 16)):
        train = scene.tracker.runs.read(run).link("train")
        scene.tracker.client.set_tag(train, "skippy.training_code", code)
    with pytest.raises(ReportError, match="more than the variant") as refusal:
        scene.compare(runs=f"{v3[0]},{v4}")
    assert refusal.value.found == f"code of the training: V3 {'a' * 16}, V4 {'b' * 16}"


def runs_of(report: dict) -> dict[str, list[str]]:
    return {
        arm: [item["runs"]["eval"] for item in content["evaluations"]]
        for arm, content in report["arms"].items()
    }


def test_a_stray_evaluation_does_not_hijack_the_comparison(scene: Scene) -> None:
    """Fewer samples, another recipe, a seed that only one arm has: newer all of them, and passed over."""
    whole = {arm: [scene.evaluate(arm, seed)] for arm, seed in (("base", ""), ("v3", "1"), ("v4", "1"))}
    fewer = scene.evaluate("v4", "1", **{"skippy.samples": "1"})
    scene.tracker.client.set_tag(whole["base"][0], "skippy.samples", str(K))
    other = scene.evaluate("v4", "1", settings=SHORT)
    for run in (*whole["v3"], *whole["v4"]):
        train = scene.tracker.runs.read(run).link("train")
        path = scene.tracker.artifacts.path(train, "config.json")
        path.write_text(path.read_text().replace("{", '{"steps_taken": 60, ', 1))
    seed = scene.evaluate("v3", "2", settings={"steps_taken": 60})
    record, report = scene.compare()
    assert runs_of(report) == whole
    passed = {line.split(" ")[0]: line.partition("): ")[2] for line in report["passed_over"]}
    assert passed[fewer] == f"samples 1 and not {K}"
    assert "steps_taken 6 and not 60" in passed[other]
    assert passed[seed] == "training seed 2, which not every arm has"
    page = scene.artifact(record.run_id, "report/index.html").read_text()
    assert all(run in page for run in (fewer, other, seed))


def test_an_evaluation_that_only_took_over_another_is_none_of_its_own(scene: Scene) -> None:
    """It holds no figures: an earlier version took it for the newest, and then missed its problems."""
    whole = {arm: [scene.evaluate(arm, seed)] for arm, seed in (("base", ""), ("v3", "1"), ("v4", "1"))}
    scene.evaluate("base", "", **{"skippy.reuses": whole["base"][0]})
    _, report = scene.compare()
    assert runs_of(report) == whole


def test_of_several_comparable_sets_the_newest_is_taken(scene: Scene) -> None:
    """The twin: a whole newer set is not a stray."""
    for sampling_seed in ("1", "2"):
        newest = {
            arm: [scene.evaluate(arm, seed, **{"skippy.sampling_seed": sampling_seed})]
            for arm, seed in (("base", ""), ("v3", "1"), ("v4", "1"))
        }
    _, report = scene.compare()
    assert runs_of(report) == newest
    assert len(report["passed_over"]) == 3


def test_every_training_seed_that_all_arms_have_is_taken(scene: Scene) -> None:
    scene.evaluate("base")
    runs = {arm: [scene.evaluate(arm, seed) for seed in "12"] for arm in ("v3", "v4")}
    _, report = scene.compare()
    assert {arm: sorted(found) for arm, found in runs_of(report).items() if arm != "base"} == {
        arm: sorted(found) for arm, found in runs.items()
    }


def test_the_base_is_found_that_was_asked_like_the_runs_named(scene: Scene) -> None:
    fitting = scene.evaluate("base", **{"skippy.sampling_seed": "5"})
    scene.evaluate("base")
    v4 = scene.evaluate("v4", "1", **{"skippy.sampling_seed": "5"})
    _, report = scene.compare(runs=v4)
    assert runs_of(report)["base"] == [fitting]


def test_only_so_many_are_listed(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    monkeypatch.setattr(selection, "SHOWN", 1)
    for _ in range(3):
        scene.evaluate("base")
    scene.evaluate("v4", "1")
    _, report = scene.compare()
    assert report["passed_over"][1:] == ["1 older one, not listed"]
    whole = report["passed_over"][0].split()[0]
    first, last = (line for line in caplog.messages if line.startswith("compare: passed over"))
    assert first.startswith(f"compare: passed over {whole[:8]} ("), "the page has whole ids, which are links"
    assert last == "compare: passed over 1 older one, not listed"


@pytest.mark.parametrize(
    ("asked", "is_post_hoc", "used"), [(0.0, False, 10.0), (0.1, False, 10.0), (0.03, True, 3.0)]
)
def test_the_margin_is_the_planned_one_or_post_hoc(
    scene: Scene, asked: float, is_post_hoc: bool, used: float
) -> None:
    for arm, seed in (("base", ""), ("v3", "1"), ("v4", "1")):
        scene.evaluate(arm, seed, right=0 if arm == "v3" else K, margin=0.1)
    record, report = scene.compare(margin=asked)
    assert report["margin"] == {"used": used, "planned": 10.0, "is_post_hoc": is_post_hoc}
    page = scene.artifact(record.run_id, "report/index.html").read_text()
    assert ("points is post hoc" in page) is is_post_hoc, "the glossary explains the words on every page"
    assert (report["promotion"]["steps"][0]["name"] == "planned margin") is is_post_hoc


def test_a_stored_evaluation_is_found_as_positive_control(scene: Scene) -> None:
    """Of another character even: mathematics alone is asked of it."""
    scene.evaluate("base")
    scene.evaluate("v4", "1", right=K)
    _, report = scene.compare(arms="v4")
    assert (report["verdicts"]["v4"]["verdict"], report["sensitivity"]["is_shown"]) == ("not_tested", False)
    assert report["headline"].startswith("Not tested")
    stored = scene.evaluate("v3", "9", right=0, **{"skippy.character_digest": "0" * 64})
    _, report = scene.compare(arms="v4")
    assert report["sensitivity"]["is_shown"]
    assert (report["sensitivity"]["runs"], report["sensitivity"]["is_stored"]) == ([stored], True)
    assert "an earlier evaluation of V3" in report["headline"]
    assert re.search(
        r"evaluated at \d{4}-\d\d-\d\d \d\d:\d\d UTC in run [0-9a-f]{32}", report["sensitivity"]["reason"]
    )


def test_weights_that_are_compared_are_no_control_however_often_they_were_merged(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compare, "_require_unaltered", lambda *_: None)
    base = scene.evaluate("base")
    scene.evaluate("v3", "1", right=0, **{"skippy.model_digest": "a" * 64})
    taken = scene.evaluate("v3", "1", right=0, **{"skippy.model_digest": "a" * 64})
    _, report = scene.compare(runs=f"{base},{taken}")
    assert (report["sensitivity"]["runs"], report["sensitivity"]["tried"]) == ([taken], 1)
    scene.evaluate("v3", "2", right=0, **{"skippy.model_digest": "b" * 64})
    _, report = scene.compare(runs=f"{base},{taken}")
    assert report["sensitivity"]["tried"] == 2, "another training of the arm is another model"


def test_a_control_can_be_named_and_must_fit(scene: Scene) -> None:
    scene.evaluate("base")
    scene.evaluate("v4", "1")
    fitting = scene.evaluate("other", right=0, metrics={"aime/avg_at_k": 1.0})
    _, report = scene.compare(arms="v4", control=fitting)
    assert report["sensitivity"]["runs"] == [fitting]
    assert report["sensitivity"]["control"] == "other"
    unlike = scene.evaluate("other", right=0, **{"skippy.sampling": "greedy"})
    with pytest.raises(ReportError, match="not asked like the base") as refusal:
        scene.compare(arms="v4", control=unlike)
    assert refusal.value.found == "sampling greedy and not lab"


def test_a_control_that_answered_more_finely_is_none(scene: Scene) -> None:
    """Unless named, an evaluation that was asked otherwise is not tried at all."""
    scene.evaluate("base", **{"skippy.samples": str(K)})
    scene.evaluate("v4", "1", **{"skippy.samples": str(K)})
    scene.evaluate("v3", "9", right=0, **{"skippy.samples": "1"})
    _, report = scene.compare(arms="v4")
    assert report["sensitivity"]["tried"] == 1


def test_a_version_whose_bytes_changed_is_not_compared(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    scene.evaluate("base")
    scene.evaluate("v4", "1", **{"skippy.model_digest": "a" * 64})
    path = SimpleNamespace(path=scene.base)
    monkeypatch.setattr(scene.tracker.models, "resolve", lambda uri: path)
    with pytest.raises(CheckpointError):
        scene.compare(arms="v4")
    monkeypatch.setattr(compare, "verify_checkpoint", lambda folder: {"digest": "b" * 64})
    with pytest.raises(ReportError, match="other weights than those that were evaluated") as refusal:
        scene.compare(arms="v4")
    assert (refusal.value.expected, refusal.value.found) == (
        f"weights digest {'a' * 64}",
        f"weights digest {'b' * 64}",
    )
    monkeypatch.setattr(compare, "verify_checkpoint", lambda folder: {"digest": "a" * 64})
    scene.compare(arms="v4")


def test_the_smallest_effect_is_read_from_the_character(scene: Scene) -> None:
    """.09 against .08 is no character: nothing is claimed to be kept."""
    scene.evaluate("base", persona=0.08, margin=0.35)
    scene.evaluate("v3", "1", right=0, margin=0.35)
    scene.evaluate("v4", "1", persona=0.09, margin=0.35)
    record, report = scene.compare(arms="v3,v4")
    assert [
        line for line in report["not_shown"] if line.startswith("Persona of V4") and "no character" in line
    ]
    assert not [
        line for line in report["not_shown"] if line.startswith("Persona of V3") and "no character" in line
    ]
    verdict = report["verdicts"]["v4"]
    assert (verdict["verdict"], verdict["by_interval"]) == ("not_tested", "preserved")
    assert report["sensitivity"]["is_shown"]
    assert "no character appeared" in scene.artifact(record.run_id, "report/index.html").read_text()

"""A variant is one row: registered in a temporary table, it is trained, merged, evaluated, reported."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from skippy.config import CompareConfig, EvalConfig, MergeConfig, TrainConfig
from skippy.core.variants import VARIANTS
from skippy.errors import ConfigError
from skippy.options import parse_config
from skippy.stages import compare, evaluate, merge, train
from skippy.tracking.tracker import Tracker

NAME = "v9-random"


@pytest.fixture
def row(monkeypatch: pytest.MonkeyPatch) -> None:
    """Random directions once more, as a second control under a name of its own."""
    added = replace(
        VARIANTS["v4-random"],
        name=NAME,
        label="V9-random",
        colours=("#123456", "#abcdef"),
        question="Does a name change anything?",
    )
    monkeypatch.setitem(VARIANTS, NAME, added)


def test_without_its_row_it_is_refused() -> None:
    with pytest.raises(ConfigError, match="variant cannot be"):
        parse_config(TrainConfig, {"variant": NAME})


@pytest.mark.usefixtures("row")
def test_one_row_is_trained_evaluated_and_reported(tracker: Tracker) -> None:
    config = parse_config(TrainConfig, {"variant": NAME, "preset": "short", "steps": "2", "device": "cpu"})
    trained = train.run(config, tracker)
    assert trained is not None
    merged = merge.run(MergeConfig(variant=NAME, train_run=trained.run_id), tracker)
    asked = EvalConfig(limit=4, samples=1, device="cpu")
    base = evaluate.run(asked, tracker)
    found = evaluate.run(replace(asked, model=NAME), tracker)
    result = compare.run(CompareConfig(arms=NAME), tracker)
    report = json.loads(tracker.artifacts.path(result.run_id, "report/report.json").read_text())
    assert list(report["arms"]) == ["base", NAME]
    assert [report["arms"][arm]["evaluations"][0]["runs"]["eval"] for arm in report["arms"]] == [
        base.run_id,
        found.run_id,
    ]
    assert tracker.models.resolve(merged.model_uri).tags["variant"] == NAME
    asked_of = {name: tracker.runs.get(run.run_id) for name, run in (("base", base), (NAME, found))}
    assert asked_of[NAME].name == f"eval {NAME} seed 42 · 4 of lab × 1 · lab"
    assert 0 < asked_of[NAME].metrics["banal/kl_to_base"] < 1
    assert "banal/kl_to_base" not in asked_of["base"].metrics
    formats = {"banal/email/score", "banal/list/coherence", "banal/list/in_form"}
    assert all(formats <= run.metrics.keys() for run in asked_of.values())
    merge_metrics = tracker.runs.get(merged.run_id).metrics
    assert merge_metrics["merge/delta_norm"] > 0
    page = tracker.artifacts.path(result.run_id, "report/index.html").read_text()
    assert "Reward while training" in page
    assert "an e-mail written" in page
    assert f".arm-{NAME}{{--c:#123456}}" in page
    assert f'<b><a href="#term-{NAME}">V9-random</a></b>' in page

"""A stage as a program: one clear message and exit code 1; a typo leaves no run, but for the one `mlflow run` made."""

from __future__ import annotations

import gc
import os
from contextlib import suppress
from types import SimpleNamespace

import pytest
from click.testing import CliRunner

from entrypoints.__main__ import cli
from skippy.config import SvdConfig
from skippy.errors import ConfigError, TrackingError
from skippy.stages import runner
from skippy.stages.runner import run_stage
from skippy.tracking import store


@pytest.fixture
def ran(tracker, monkeypatch: pytest.MonkeyPatch) -> list:
    """Configs that the svd stage was run with; a seed of 13 is refused by the stage itself."""
    configs: list = []

    def run(config, given) -> None:
        assert given is tracker
        configs.append(config)
        if config.seed == 13:
            raise ConfigError("No such seed.", found="13")

    monkeypatch.setattr(store, "open_tracker", lambda: tracker)
    monkeypatch.setitem(runner.MODULES, "svd", "stage_of_this_test")
    monkeypatch.setitem(__import__("sys").modules, "stage_of_this_test", SimpleNamespace(run=run))
    return configs


def test_a_stage_is_given_its_typed_parameters(ran) -> None:
    run_stage("svd", {"k": "8", "seed": "3", "force": "true"})
    assert ran == [SvdConfig(k="8", seed=3, force=True)]


def test_what_a_stage_refuses_is_one_message_and_exit_code_1(ran, caplog) -> None:
    with pytest.raises(SystemExit) as ended:
        run_stage("svd", {"seed": "13"})
    assert ended.value.code == 1
    assert "svd failed. No such seed." in caplog.text


@pytest.mark.parametrize("seed", ["3", "13"])
def test_garbage_is_looked_for_when_a_stage_runs_and_not_while_it_starts(ran, monkeypatch, seed: str) -> None:
    """Looking through what MLflow's import makes, again and again, was a third of a stage that has nothing to do."""
    seen: list[bool] = []
    opened, stage = store.open_tracker, __import__("sys").modules["stage_of_this_test"]
    monkeypatch.setattr(store, "open_tracker", lambda: seen.append(gc.isenabled()) or opened())
    run = stage.run
    monkeypatch.setattr(stage, "run", lambda *given: seen.append(gc.isenabled()) or run(*given))
    with suppress(SystemExit):
        run_stage("svd", {"seed": seed})
    assert seen == [False, True]
    assert gc.isenabled()


def test_a_store_that_cannot_be_opened_leaves_the_search_for_garbage_on(monkeypatch) -> None:
    def refuse() -> None:
        raise TrackingError("No store.")

    monkeypatch.setattr(store, "open_tracker", refuse)
    with pytest.raises(SystemExit):
        run_stage("svd", {})
    assert gc.isenabled()


WRONG = {
    "a number": ({"tolerance": "abc"}, "'abc'"),
    "a path": ({"base_model": "./nowhere"}, "The checkpoint does not exist."),
    "k": ({"k": "many"}, "energy:SHARE"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_typo_leaves_no_run(ran, tracker, caplog, case: str) -> None:
    values, message = WRONG[case]
    with pytest.raises(SystemExit) as ended:
        run_stage("svd", values)
    assert ended.value.code == 1
    assert message in caplog.text
    assert not ran
    assert tracker.runs.find_all("svd", finished=False) == []


@pytest.fixture
def made_by_mlflow(tracker, monkeypatch: pytest.MonkeyPatch) -> str:
    """A run as `mlflow run` makes it, and the variable by which it hands it over."""
    made = tracker.client.create_run(tracker.store.experiment_id, run_name="made by mlflow")
    monkeypatch.setenv(runner.RUN_ID_VARIABLE, made.info.run_id)
    return made.info.run_id


@pytest.mark.parametrize("case", WRONG)
def test_the_run_that_mlflow_made_ends_failed_with_the_message(
    ran, tracker, made_by_mlflow: str, case: str
) -> None:
    values, message = WRONG[case]
    with pytest.raises(SystemExit):
        run_stage("svd", values)
    (record,) = tracker.runs.find_all("svd", finished=False)
    assert (record.run_id, record.status, record.name) == (made_by_mlflow, "FAILED", "svd (refused)")
    assert message in record.tags["skippy.error"]
    assert tracker.runs.config(record.run_id) == values
    assert runner.RUN_ID_VARIABLE not in os.environ


def test_an_unknown_option_ends_that_run_too(ran, tracker, made_by_mlflow: str) -> None:
    """`mlflow run -P tolerence=1` hands on what MLproject does not declare."""
    result = CliRunner().invoke(cli, ["svd", "--tolerence", "1"])
    assert result.exit_code == 2
    assert "No such option" in result.output
    record = tracker.runs.read(made_by_mlflow)
    assert record.status == "FAILED"
    assert "--tolerence" in record.tags["skippy.error"]

"""A stage as a program: one clear message and exit code 1, and a run that says what was refused."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from skippy.config import SvdConfig
from skippy.errors import ConfigError
from skippy.stages import runner
from skippy.stages.runner import run_stage


@pytest.fixture
def ran(tracker, monkeypatch: pytest.MonkeyPatch) -> list:
    """Configs that stages were run with; a seed of 13 is refused by the stage itself."""
    configs: list = []

    def run(config, given) -> None:
        assert given is tracker
        configs.append(config)
        if config.seed == 13:
            raise ConfigError("No such seed.", found="13")

    monkeypatch.setattr(runner, "open_tracker", lambda: tracker)
    monkeypatch.setattr(runner, "import_module", lambda name: SimpleNamespace(run=run))
    return configs


def test_a_stage_is_given_its_typed_parameters(ran) -> None:
    run_stage("svd", {"k": "8", "seed": "3", "force": "true"})
    assert ran == [SvdConfig(k="8", seed=3, force=True)]


def test_what_a_stage_refuses_is_one_message_and_exit_code_1(ran, caplog) -> None:
    with pytest.raises(SystemExit) as ended:
        run_stage("svd", {"seed": "13"})
    assert ended.value.code == 1
    assert "svd failed. No such seed." in caplog.text


def test_a_parameter_that_cannot_be_used_fails_a_run_that_says_so(ran, tracker, caplog) -> None:
    with pytest.raises(SystemExit) as ended:
        run_stage("svd", {"tolerance": "abc"})
    assert ended.value.code == 1
    assert not ran
    (record,) = tracker.runs.find_all("svd", finished=False)
    assert (record.status, record.name) == ("FAILED", "svd (refused)")
    assert "'abc'" in record.tags["skippy.error"]
    assert tracker.runs.config(record.run_id) == {"tolerance": "abc"}

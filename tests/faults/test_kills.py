"""Killed at any call, the next one leaves the store as if nothing had happened.

A few kills of each kind run in the suite; `make faults` (SKIPPY_FAULTS=all) kills at every call and at random moments.
"""

from __future__ import annotations

import os
import resource
import shutil
import time
from functools import cache
from pathlib import Path

import pytest

from skippy.tracking.store import open_tracker
from tests.faults.harness import arm, kill_within, run_forked, warm
from tests.faults.scenarios import CHECKPOINT, SCENARIOS
from tests.stages.tiny_checkpoint import write_checkpoint

IS_LONG = os.environ.get("SKIPPY_FAULTS") == "all"
RANDOM_KILLS = 15 if IS_LONG else 1
SHORT_KILLS = 2
SHARES = 8 if IS_LONG else 1
"""Tests that share the calls of a scenario, so that as many workers can kill at once."""
SPAN_SECONDS = 2.0
"""In which a random moment lies; the long run takes how long the work lasts on this machine."""
LONG_STAGES = () if IS_LONG else ("evaluate", "compare")
"""Killed once each in the suite: their work takes seconds."""


@pytest.fixture(scope="module")
def prepared(tmp_path_factory, template):
    """Scenario → its prepared project, to copy for each kill, and how long its work takes; made when asked for."""

    @cache
    def prepare(name: str) -> tuple[Path, float]:
        scenario = SCENARIOS[name]
        folder = tmp_path_factory.mktemp(name) / "project"
        folder.mkdir()
        shutil.copy(template / "mlflow.db", folder / "mlflow.db")
        write_checkpoint(folder / CHECKPOINT)
        assert warm(scenario.prepare, folder) == 0, told(folder)
        once = copy(folder, folder.parent / "once")
        assert warm(scenario.work, once) == 0, told(once)
        if not IS_LONG:
            return folder, SPAN_SECONDS
        again = copy(folder, folder.parent / "again")
        began = time.monotonic()
        assert run_forked(scenario.work, again) == 0, told(again)
        return folder, time.monotonic() - began

    return prepare


def told(folder: Path) -> str:
    path = folder / "traceback"
    return path.read_text() if path.exists() else ""


def copy(source: Path, folder: Path) -> Path:
    return Path(shutil.copytree(source, folder))


def check(name: str, folder: Path) -> None:
    """After one more try, run to its end in a process of its own."""
    scenario = SCENARIOS[name]
    assert run_forked(scenario.work, folder) == 0, told(folder)

    def examine(root: Path) -> None:
        tracker = open_tracker(root)
        left = [run.info.run_id for run in tracker.client.search_runs(
            [tracker.store.experiment_id], "attributes.status = 'RUNNING'")]  # fmt: skip
        assert left == [], "runs that say RUNNING"
        scenario.check(tracker)
        assert not list((root / ".skippy").rglob("*.partial")), "half-written"

    assert run_forked(examine, folder) == 0, told(folder)


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("share", range(SHARES))
@pytest.mark.parametrize("name", SCENARIOS)
def test_killed_at_a_call_the_next_one_ends_as_if_nothing_had_happened(
    prepared, tmp_path, record_property, name, share
):
    project, _ = prepared(name)
    log = tmp_path / "calls"
    whole = copy(project, tmp_path / "whole")
    assert run_forked(SCENARIOS[name].work, whole, before=arm(0, after=False, log=log)) == 0, told(whole)
    calls = log.read_text().split()
    assert len(calls) > 3
    every = range(1, len(calls) + 1) if IS_LONG else _a_few(len(calls))[name in LONG_STAGES :]
    chosen = every[share::SHARES]
    kills = 0
    for number in chosen:
        for after in (False, True) if IS_LONG else (number % 2 == 0,):
            folder = copy(project, tmp_path / f"{number}-{after}")
            ended = run_forked(SCENARIOS[name].work, folder, before=arm(number, after=after))
            # Fewer calls this time, where how often something is written follows the clock: nobody was killed.
            assert ended in (-9, 0), f"{calls[number - 1]}: {told(folder)}"
            kills += ended == -9
            try:
                check(name, folder)
            except AssertionError as error:
                when = "after" if after else "before"
                raise AssertionError(f"killed {when} call {number}, {calls[number - 1]}: {error}") from error
            shutil.rmtree(folder)
    record_property("kills", (name, kills))
    assert kills or not chosen


def _a_few(calls: int) -> list[int]:
    return sorted({1 + calls * part // SHORT_KILLS for part in range(SHORT_KILLS)})


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("seed", range(RANDOM_KILLS))
@pytest.mark.parametrize("name", [name for name in SCENARIOS if name not in LONG_STAGES])
def test_killed_at_any_moment_too(prepared, tmp_path, record_property, name, seed):
    project, span = prepared(name)
    folder = copy(project, tmp_path / "project")
    ended = run_forked(SCENARIOS[name].work, folder, before=kill_within(span, seed))
    record_property("kills", (name, int(ended == -9)))
    check(name, folder)


def test_a_disk_that_is_full_leaves_nothing_half_written(prepared, tmp_path):
    """A limit on a file's size stands for the disk: the database still fits, the weights do not."""
    folder = copy(prepared("merge")[0], tmp_path / "project")
    (folder / CHECKPOINT / "more.safetensors").write_bytes(bytes(8 << 20))

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4 << 20, 4 << 20))

    assert run_forked(SCENARIOS["merge"].work, folder, before=limit) == 1
    assert "File too large" in told(folder)
    assert not list((folder / "mlartifacts").rglob("more.safetensors"))
    check("merge", folder)


def test_the_check_sees_what_is_left_undone(prepared, tmp_path):
    """The twin: without another try, a killed merge leaves a run that says RUNNING."""
    folder = copy(prepared("merge")[0], tmp_path / "project")
    assert run_forked(SCENARIOS["merge"].work, folder, before=arm(6, after=True)) == -9

    def examine(root: Path) -> None:
        tracker = open_tracker(root)
        assert tracker.client.search_runs([tracker.store.experiment_id], "attributes.status = 'RUNNING'")

    assert run_forked(examine, folder) == 0, told(folder)

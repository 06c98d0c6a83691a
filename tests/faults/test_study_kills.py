"""A study killed at random moments, with all of its processes, ends with the same bits.

Three moments of one process in the suite; with `make faults` (SKIPPY_FAULTS=all) ten of a process group with workers.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from skippy.config import StudyConfig, SvdConfig
from skippy.stages import study, svd
from skippy.studies.board import (
    CELL_STAGE,
    MAX_ATTEMPTS,
    Board,
)
from skippy.studies.records import CELLS_FILE, SAMPLES_FILE
from skippy.tracking.store import open_tracker
from skippy.tracking.tags import Tag
from tests.conftest import fresh_store
from tests.faults.harness import kill_within, run_forked

IS_LONG = os.environ.get("SKIPPY_FAULTS") == "all"
KILLS = 10 if IS_LONG else 3
SEED = 20261130
LIMIT_SECONDS = 900.0
PLAN = """\
name: killed
arms: [v3, v4]
training:
  - {learning_rate: 3e-3, beta: 0.0, steps: 2}
alphas: [0.5, 1.0]
seeds: [11]
limit: 4
samples: 1
"""
STAGE = """
import sys
from pathlib import Path
from skippy.config import StudyConfig
from skippy.stages import study
from skippy.tracking.store import open_tracker
study.run(StudyConfig(plan=sys.argv[2], device="cpu", parallel=2), open_tracker(Path(sys.argv[1])))
"""


def run_forked_stage(project: Path, plan: Path, kill_seed: int | None, span: float) -> bool:
    """The stage with one worker in a fork, killed within `span` where a seed says so; whether it was killed."""

    def work(folder: Path) -> None:
        study.run(StudyConfig(plan=str(plan), device="cpu", parallel=1), open_tracker(folder))

    before = (lambda: None) if kill_seed is None else kill_within(span, kill_seed)
    code = run_forked(work, project, before=before)
    assert code in (0, -signal.SIGKILL), (project / "traceback").read_text()
    return code != 0


def run_group(project: Path, plan: Path, kill_seed: int | None, span: float) -> bool:
    """The same with two workers, in a process group that is killed as a whole."""
    command = [sys.executable, "-c", STAGE, str(project), str(plan)]
    silent = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen(command, start_new_session=True, **silent)
    delay = LIMIT_SECONDS if kill_seed is None else random.Random(kill_seed).uniform(0, span)
    try:
        assert process.wait(timeout=delay) == 0
        return False
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        assert kill_seed is not None
        return True


RUN = run_group if IS_LONG else run_forked_stage


def left_behind(tracker) -> tuple[dict, dict[str, tuple[bytes, bytes]]]:
    """Conclusion of the newest finished study, and of each unit its cells and its samples."""
    newest = tracker.runs.find("study")
    conclusion = json.loads(tracker.artifacts.path(newest.run_id, "study/study.json").read_text())
    runs = [run for run in tracker.runs.find_all(CELL_STAGE) if run.status == "FINISHED"]
    units = [run.tags[Tag.UNIT] for run in runs]
    assert len(units) == len(set(units)) == 3, "the base and two trainings, each finished once"
    kept = {
        run.tags[Tag.UNIT]: (
            tracker.artifacts.path(run.run_id, CELLS_FILE).read_bytes(),
            tracker.artifacts.path(run.run_id, SAMPLES_FILE).read_bytes(),
        )
        for run in runs
    }
    return conclusion, kept


@pytest.mark.timeout(LIMIT_SECONDS * 2)
def test_killed_at_random_moments_it_ends_with_the_same_bits(tmp_path: Path, template: Path) -> None:
    plan = tmp_path / "plan.yaml"
    plan.write_text(PLAN)
    found, killed, span = {}, 0, 0.0
    for way in ("undisturbed", "killed"):
        (tmp_path / way).mkdir()
        with fresh_store(tmp_path / way, template) as project:
            tracker = open_tracker(project)
            svd.run(SvdConfig(device="cpu"), tracker)
            if way == "killed":
                killed = sum(RUN(project, plan, SEED + number, span) for number in range(KILLS))
            began = time.monotonic()
            assert not RUN(project, plan, None, 0)
            # Half of it: the other way may find the machine less busy.
            span = span or (time.monotonic() - began) / 2
            found[way] = left_behind(tracker)
    assert killed, "a moment came before the end"
    assert found["killed"] == found["undisturbed"]
    assert not found["killed"][0]["failed"]


@pytest.mark.parametrize(("studies", "word"), [(1, "failed"), (MAX_ATTEMPTS, "free")])
def test_a_cell_is_given_up_for_its_own_deaths_alone(tracker, studies: int, word: str) -> None:
    """Five workers of one study died of a cell: it is failed. Five studies were killed around it: it is free."""
    parents = []
    for number in range(studies):
        with tracker.stage("study", name=f"study {number}", note="", config={}) as stage:
            parents.append(stage.run_id)
    for attempt in range(1, MAX_ATTEMPTS + 1):
        links = {Tag.UNIT: "unit", Tag.ATTEMPT: str(attempt), Tag.STUDY_GROUP: "g", Tag.HEARTBEAT: "0"}
        parent = parents[attempt % studies]
        with tracker.stage(CELL_STAGE, name="cell", note="", config={}, links=links, parent=parent) as stage:
            pass
        tracker.client.set_terminated(stage.run_id, "KILLED")
    state = Board(tracker, "g").states(["unit"])["unit"]
    assert (state.word, state.attempts) == (word, MAX_ATTEMPTS)
    assert state.error == (f"its worker died {MAX_ATTEMPTS} times" if word == "failed" else "")

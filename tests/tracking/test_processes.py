"""Real child processes of a small project: each costs an interpreter with mlflow in it, so they are few."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from skippy.errors import TrackingError
from skippy.tracking.processes import UNCLAIMED_SECONDS, _cause_of_death
from skippy.tracking.signals import is_process_gone, process_tag

PROJECT = """
name: small
entry_points:
  work:
    parameters:
      mode: {type: string, default: "fine"}
      note: {type: string, default: "a 'quoted' \\"note\\" $HOME"}
    command: "python stage.py {mode} {note}"
"""
STAGE = """
import os, signal, sys, time
from pathlib import Path
from skippy.errors import ConfigError
from skippy.tracking.store import open_tracker

mode, note = sys.argv[1:]
given = {"mode": mode}
with open_tracker().stage("work", name=f"work {mode}", note=note, config=given, hyperparameters=given) as run:
    (Path("started") / mode).write_text(str(os.getpid()))
    if mode == "wrong":
        raise ConfigError("No such variant.", where="variant", expected="v3 or v4", found="v9")
    if mode == "dies":
        os.kill(os.getpid(), signal.SIGKILL)
    if mode.startswith("slow"):
        time.sleep(120)
"""
PARENT = """
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from skippy.tracking.store import open_tracker

tracker = open_tracker(Path.cwd())
with tracker.stage("main", name="main", note="n", config={}) as run, ThreadPoolExecutor(1) as pool:
    child = tracker.processes.start("work", {"mode": "slow"}, parent_run_id=run.run_id)
    pool.submit(child.wait).result()
"""


@pytest.fixture
def small(project, tracker, monkeypatch):
    (project / "MLproject").write_text(PROJECT)
    (project / "stage.py").write_text(STAGE)
    (project / "started").mkdir()
    monkeypatch.chdir(project)
    return tracker


@pytest.fixture
def parent(small):
    with small.stage("main", name="main", note="n", config={}) as run:
        yield run.run_id


def wait_for(condition, seconds=180):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return
        time.sleep(0.1)
    pytest.fail("it did not happen in time")


def run_together(tracker, stages, parent):
    """Run stages side by side, as `main` does; the first to fail stops the others."""
    started = []
    try:
        for name, parameters in stages:
            started.append(tracker.processes.start(name, parameters, parent_run_id=parent))
        waiting = list(started)
        while waiting:
            for process in [process for process in waiting if process.poll()]:
                process.wait()
                waiting.remove(process)
            time.sleep(0.2)
    finally:
        for process in started:
            process.stop()
    return [process.run_id for process in started]


def test_two_at_once_are_nested_real_project_runs(small, parent):
    texts = [f'{mode}, "it\'s"' for mode in ("first", "second")]
    stages = [("work", {"mode": mode, "note": text}) for mode, text in zip(("a", "b"), texts, strict=True)]
    run_ids = run_together(small, stages, parent)
    for run_id, mode, text in zip(run_ids, ("a", "b"), texts, strict=True):
        record = small.runs.get(run_id, stage="work")
        assert (record.parent, record.name) == (parent, f"work {mode}")
        assert record.params["mode"] == record.params["hp.mode"] == mode
        assert record.tags["mlflow.project.entryPoint"] == "work"
        assert record.tags["mlflow.project.backend"] == "local"
        # What a person types arrives as typed, whatever the shell thinks of it.
        assert record.tags["mlflow.note.content"] == text
    first, second = (small.runs.get(run_id) for run_id in run_ids)
    assert second.start_time < first.end_time


def test_failure_carries_the_message_and_stops_the_other(small, parent):
    with pytest.raises(TrackingError, match="stage work did not succeed") as error:
        run_together(small, [("work", {"mode": "slow"}), ("work", {"mode": "wrong"})], parent)
    assert "No such variant." in str(error.value)
    assert "found: v9" in str(error.value)
    statuses = {run.params["mode"]: run.status for run in small.runs.find_all("work", finished=False)}
    assert statuses.pop("wrong") == "FAILED"
    # The other may have been stopped before its stage began; then it has no tags yet, but a status.
    assert set(statuses.values()) <= {"KILLED"}
    assert running(small) == {parent}


def test_death_without_a_word_is_marked_and_told(small, parent):
    with pytest.raises(TrackingError, match="killed by SIGKILL"):
        run_together(small, [("work", {"mode": "dies"})], parent)
    (record,) = small.runs.find_all("work", finished=False)
    assert record.status == "KILLED"
    assert record.tags["skippy.error"] == "killed by SIGKILL"


def test_what_mlproject_does_not_have_is_refused_before_a_run_is_made(small, parent, project):
    with pytest.raises(TrackingError, match="no such entry point") as error:
        run_together(small, [("fly", {})], parent)
    assert "expected: work" in str(error.value)
    (project / "MLproject").unlink()
    with pytest.raises(TrackingError, match="There is no MLproject"):
        run_together(small, [("work", {})], parent)
    assert running(small) == {parent}


def test_a_child_killed_before_its_stage_began_is_known_by_what_its_parent_wrote(small, parent, monkeypatch):
    monkeypatch.setenv("PYTHONSTARTUP", "")
    child = small.processes.start("work", {"mode": "slow"}, parent_run_id=parent)
    tag = small.client.get_run(child.run_id).data.tags["skippy.process"]
    assert tag == process_tag(int(tag.split(":")[1]))
    os.kill(int(tag.split(":")[1]), signal.SIGKILL)
    wait_for(child.poll)
    assert small.processes.reap() == [child.run_id]
    child.stop()


GRANDPARENT = """
import os, subprocess, sys
from pathlib import Path
from skippy.tracking.store import open_tracker
from skippy.tracking.signals import PARENT_VARIABLE, process_tag

tracker = open_tracker(Path.cwd())
run = tracker.client.create_run(tracker.store.experiment_id)
environment = {**os.environ, "MLFLOW_RUN_ID": run.info.run_id, PARENT_VARIABLE: process_tag()}
# The shell stays between, as it does under `mlflow run` with a command of several parts.
subprocess.run(["bash", "-c", "true; python stage.py slow note; true"], env=environment)
"""


@pytest.mark.timeout(300)
def test_a_child_sees_that_its_starter_is_dead_although_a_shell_between_them_lives(small, project):
    folder = Path(sys.executable).parent
    environment = {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}"}
    starter = subprocess.Popen([sys.executable, "-c", GRANDPARENT], cwd=project, env=environment)
    mark = project / "started" / "slow"
    wait_for(lambda: mark.exists() and mark.read_text())
    starter.kill()
    starter.wait()
    killed_at = time.monotonic()
    child = int(mark.read_text())
    wait_for(lambda: not is_alive(child), 60)
    assert time.monotonic() - killed_at < 30
    (record,) = small.runs.find_all("work", finished=False)
    assert record.status == "KILLED"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
def test_no_orphans_whatever_ends_the_parent(small, project, number):
    """The parent waits in a thread, as the pipeline does; the signal reaches it alone, not its group."""
    process = subprocess.Popen([sys.executable, "-c", PARENT], cwd=project, start_new_session=True)
    wait_for(lambda: (project / "started" / "slow").exists() and (project / "started" / "slow").read_text())
    child = int((project / "started" / "slow").read_text())
    process.send_signal(number)
    process.wait(120)
    wait_for(lambda: not is_alive(child))
    (work,) = small.runs.find_all("work", finished=False)
    assert work.status == "KILLED"
    (main,) = small.runs.find_all("main", finished=False)
    if number == signal.SIGKILL:
        assert main.status == "RUNNING"
        assert small.processes.reap() == [main.run_id]
        assert "without a word" in small.runs.read(main.run_id).tags["skippy.error"]
    assert small.runs.read(main.run_id).status == "KILLED"
    assert running(small) == set()


def test_mlflow_run_without_an_experiment_ends_up_in_ours(small, project):
    command = [
        str(Path(sys.executable).parent / "mlflow"),
        "run",
        ".",
        "-e",
        "work",
        "--env-manager",
        "local",
    ]
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    done = subprocess.run(
        [*command, "-P", "mode=fine"], cwd=project, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    record = small.runs.find("work")
    assert record.params["mode"] == "fine"
    # The id that `mlflow run` printed leads to it.
    (stub,) = small.client.search_runs(["0"])
    assert stub.info.run_id in done.stderr
    assert stub.info.status == "FINISHED"
    assert small.runs.get(stub.info.run_id, stage="work").run_id == record.run_id


def test_reap_leaves_the_living_and_the_foreign_alone(small, parent):
    small.client.set_tag(parent, "skippy.process", "another-host:1")
    assert small.processes.reap() == []
    assert small.runs.read(parent).status == "RUNNING"


def test_reap_marks_every_run_whose_process_is_gone(tracker):
    ended = subprocess.Popen(["true"])
    ended.wait()
    tags = {"skippy.process": f"{os.uname().nodename}:{ended.pid}"}
    alive = {"skippy.process": f"{os.uname().nodename}:{os.getpid()}"}
    gone, here = (
        tracker.client.create_run(tracker.store.experiment_id, tags=each).info.run_id
        for each in (tags, alive)
    )
    assert tracker.processes.reap() == [gone]
    assert running(tracker) == {here}
    tracker.client.set_terminated(here)
    assert running(tracker) == set()


def test_causes_of_death():
    assert _cause_of_death(-9) == _cause_of_death(137) == "killed by SIGKILL"
    assert _cause_of_death(1).startswith("the process ended with exit code 1")


def test_a_process_is_told_from_a_later_one_of_the_same_number():
    own = process_tag()
    host, pid, started = own.split(":")
    began = psutil.Process().create_time()
    assert not is_process_gone(own)
    assert is_process_gone(f"{host}:{pid}:{started}0"), "began later, or in another boot"
    assert not is_process_gone(f"{host}:{pid}:{began:.2f}"), "as earlier versions wrote it"
    assert not is_process_gone(f"{host}:{pid}"), "as earlier versions wrote it"
    assert is_process_gone(f"{host}:{pid}:{began - 100:.2f}")
    assert not is_process_gone(f"another-host:{pid}:1.0")
    assert not is_process_gone("")
    ended = subprocess.Popen(["true"])
    ended.wait()
    assert is_process_gone(f"{host}:{ended.pid}")


def test_a_clock_that_is_set_ends_no_process(monkeypatch):
    """psutil reckons the start from the time of the boot, which moves with the clock."""
    own = process_tag()
    monkeypatch.setattr(psutil.Process, "create_time", lambda _: time.time() + 3600)
    assert not is_process_gone(own)


def test_a_run_that_no_stage_took_over_is_reaped_in_the_end(tracker):
    long_ago = int((time.time() - UNCLAIMED_SECONDS - 5) * 1000)
    local = {"mlflow.project.entryPoint": "svd", "mlflow.project.backend": "local"}
    made = {
        name: tracker.client.create_run(tracker.store.experiment_id, start_time=start, tags=tags).info.run_id
        for name, start, tags in (
            ("old", long_ago, local),
            ("young", None, local),
            ("queued", long_ago, {**local, "mlflow.project.backend": "slurm"}),
            ("foreign", long_ago, {}),
        )
    }
    assert tracker.processes.reap() == [made.pop("old")]
    assert running(tracker) == set(made.values())


def test_every_stage_reaps_what_died_before_it(tracker):
    ended = subprocess.Popen(["true"])
    ended.wait()
    tags = {"skippy.process": f"{os.uname().nodename}:{ended.pid}"}
    dead = tracker.client.create_run(tracker.store.experiment_id, tags=tags).info.run_id
    with tracker.stage("svd", name="s", note="n", config={}) as run:
        assert running(tracker) == {run.run_id}
    assert tracker.runs.read(dead).status == "KILLED"


def running(tracker) -> set[str]:
    found = tracker.client.search_runs([tracker.store.experiment_id], "attributes.status = 'RUNNING'")
    return {run.info.run_id for run in found}


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    status = Path(f"/proc/{pid}/stat")
    return not (status.exists() and status.read_text().rsplit(")", 1)[1].split()[0] == "Z")

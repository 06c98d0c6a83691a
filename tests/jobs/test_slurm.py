"""What is rendered runs under a real Slurm, of two nodes on this machine; skipped where none is installed."""

from __future__ import annotations

import os
import subprocess
import sys
from ast import literal_eval
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
from mlflow.utils.conda import _get_conda_env_name

from skippy.tracking.store import open_tracker
from skippy.tracking.tags import Tag
from skippy.tracking.tracker import Tracker
from tests.conftest import fresh_store
from tests.jobs.slurm_cluster import slurm, wait_for, why_not

ROOT = Path(__file__).parents[2]
PLAN = """\
name: on slurm
arms: [v3]
training:
  - {learning_rate: 3e-3, beta: 0.0, steps: 1}
alphas: [1.0]
seeds: [11, 12]
limit: 2
samples: 1
"""
CONDA = """#!/bin/sh
echo '{"envs": ["/envs/%s"]}'
"""
ACTIVATE = """conda() { export PATH="%s:$PATH" PYTHONPATH="%s" OMP_NUM_THREADS=1; }
module() { :; }
"""

pytestmark = pytest.mark.skipif(bool(why_not()), reason=why_not())


class Cluster:
    """A store, a directory to submit from, and Slurm."""

    def __init__(self, tracker: Tracker, folder: Path, environment: dict[str, str]) -> None:
        self.tracker = tracker
        self.folder = folder
        self.environment = environment

    def skippy(self, *words: str) -> str:
        """The last line that `skippy WORDS` says."""
        return self._run([sys.executable, "-m", "entrypoints", *words])

    def submit(self, *words: str) -> list[str]:
        """Render with `skippy jobs slurm WORDS`, do what it says, and wait: the states of the job's tasks."""
        said = self._run(self.skippy("jobs", "slurm", *words).split())
        return wait_for(said.split()[-1], self.environment)

    def _run(self, command: list[str]) -> str:
        environment = os.environ | self.environment
        said = subprocess.run(command, cwd=self.folder, env=environment, capture_output=True, text=True)
        assert said.returncode == 0, f"{command}: {said.stderr}\n{self.logs()}"
        return said.stdout.strip().splitlines()[-1]

    def logs(self) -> str:
        """What all jobs said."""
        return "\n".join(path.read_text() for path in self.folder.glob("slurm-*.out"))


@pytest.fixture(scope="module")
def cluster(tmp_path_factory, template) -> Iterator[Cluster]:
    folder = tmp_path_factory.mktemp("slurm")
    (folder / "work").mkdir()
    with fresh_store(folder, template) as project, slurm(folder / "cluster") as environment:
        tracker = open_tracker(project)
        environment = environment | {
            "MLFLOW_TRACKING_URI": tracker.store.uri,
            "PYTHONPATH": str(ROOT),
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        }
        yield Cluster(tracker, folder / "work", environment)


def test_a_stage_runs_over_two_nodes_as_one_run(cluster: Cluster) -> None:
    assert cluster.submit("--stage", "svd", "--nodes", "2") == ["COMPLETED"], cluster.logs()
    (svd,) = cluster.tracker.runs.find_all("svd", finished=False)
    assert svd.status == "FINISHED"
    given = [word for name in ("variant=v4", "steps=2") for word in ("-P", name)]
    assert cluster.submit("--stage", "train", "--nodes", "2", *given) == ["COMPLETED"], cluster.logs()
    (train,) = cluster.tracker.runs.find_all("train", finished=False)
    assert (train.status, train.link("svd")) == ("FINISHED", svd.run_id)
    points = cluster.tracker.runs.metric_history(train.run_id, "leakage/rho_left")
    assert points[-1].step == 2
    assert points[-1].value < 1e-5, "gradients of both nodes, projected"


def test_a_stage_that_fails_fails_its_job(cluster: Cluster) -> None:
    """The twin: a base that is not there."""
    assert cluster.submit("--stage", "svd", "--nodes", "1", "-P", "base_model=/nowhere") == ["FAILED"]


def test_the_cells_of_a_study_are_shared_by_the_tasks_of_an_array(cluster: Cluster) -> None:
    (cluster.folder / "plan.yaml").write_text(PLAN)
    assert cluster.submit("--plan", "plan.yaml", "--workers", "2") == ["COMPLETED"] * 2, cluster.logs()
    cells = [run for run in cluster.tracker.runs.find_all("cell", finished=False) if run.variant != "base"]
    assert [run.status for run in cells] == ["FINISHED"] * 2
    assert len({run.tags[Tag.UNIT] for run in cells}) == 2
    assert {run.tags[Tag.ATTEMPT] for run in cells} == {"1"}
    (study,) = cluster.tracker.runs.find_all("study")
    assert "study/study.json" in cluster.tracker.artifacts.files(study.run_id)


@pytest.fixture
def conda(cluster: Cluster, tmp_path: Path) -> None:
    """mlflow-slurm starts every project in an environment of conda: this one is the environment of the test."""
    home = tmp_path / "conda"
    (home / "bin").mkdir(parents=True)
    (home / "etc" / "profile.d").mkdir(parents=True)
    name = _get_conda_env_name(str(ROOT / "conda.yaml"))
    (home / "bin" / "conda").write_text(CONDA % name)
    (home / "bin" / "conda").chmod(0o755)
    (home / "etc" / "profile.d" / "conda.sh").write_text(ACTIVATE % (Path(sys.executable).parent, ROOT))
    cluster.environment["MLFLOW_CONDA_HOME"] = str(home)


@pytest.mark.skipif(find_spec("mlflow_slurm") is None, reason="pip install mlflow-slurm")
def test_mlflows_backend_submits_a_stage_that_adopts_its_run(cluster: Cluster, conda) -> None:
    line = cluster.skippy("jobs", "slurm", "--backend", "-O", "partition=all").split()
    assert line[:3] == ["mlflow", "run", "."]
    command = [sys.executable, "-m", "mlflow", "run", str(ROOT), *line[3:], "--experiment-name", "skippy"]
    command[command.index("train")] = "svd"
    environment = os.environ | cluster.environment | {"PYTHONPATH": os.pathsep.join(sys.path)}
    ended = subprocess.run(command, cwd=cluster.folder, env=environment, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr + cluster.logs()
    (queued,) = cluster.tracker.client.search_runs(
        [cluster.tracker.store.experiment_id], "tags.slurm_job_id LIKE '%'"
    )
    (job,) = literal_eval(queued.data.tags["slurm_job_id"])
    assert wait_for(job, cluster.environment) == ["COMPLETED"], cluster.logs()
    run = cluster.tracker.runs.get(queued.info.run_id, stage="svd")
    assert run.tags["mlflow.project.backend"] == "slurm"
    assert run.tags[Tag.PROCESS], "the stage took the run over that mlflow made"

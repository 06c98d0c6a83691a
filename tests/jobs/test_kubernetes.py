"""What is rendered is submitted by kubectl and MLflow, and runs in pods on this machine, where these can be had.

One stage runs in the suite; with SKIPPY_JOBS=all also a training over two pods and a study.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from skippy.jobs.kubernetes import MAKE_SECRET
from skippy.tracking.store import open_tracker
from skippy.tracking.tags import Tag
from skippy.tracking.tracker import Tracker
from tests.conftest import fresh_store
from tests.jobs import kubernetes_pods as pods
from tests.jobs.docker_engine import DIGEST, docker
from tests.jobs.kubernetes_cluster import Cluster, kubernetes

ROOT = Path(__file__).parents[2]
PLAN = """\
name: on Kubernetes, Zürich
arms: [v3]
training:
  - {learning_rate: 3e-3, beta: 0.0, steps: 1}
alphas: [1.0]
seeds: [11, 12]
limit: 2
samples: 1
"""

WHY_NOT = pods.why_not() or ("" if shutil.which("kubectl") else "kubectl not installed")

pytestmark = pytest.mark.skipif(bool(WHY_NOT), reason=WHY_NOT)
long = pytest.mark.skipif(os.environ.get("SKIPPY_JOBS") != "all", reason="minutes; runs with SKIPPY_JOBS=all")


class Desk:
    """A person with a store, a cluster, and a directory to work in."""

    def __init__(self, tracker: Tracker, folder: Path, cluster: Cluster, environment: dict[str, str]) -> None:
        self.tracker = tracker
        self.folder = folder
        self.cluster = cluster
        self.environment = environment

    def run(self, line: str) -> str:
        """The last line that a command of the shell says."""
        environment = os.environ | self.environment
        said = subprocess.run(
            line, shell=True, cwd=self.folder, env=environment, capture_output=True, text=True
        )
        assert said.returncode == 0, f"{line}: {said.stdout}\n{said.stderr}\n{self.cluster.logs()}"
        return said.stdout.strip().splitlines()[-1]

    def submit(self, words: str) -> str:
        """Render with `skippy jobs kubernetes WORDS`, do what it says, and wait: how the job ended."""
        apply = self.run(f"{sys.executable} -m entrypoints jobs kubernetes {words}")
        job = f"skippy-{Path(apply.split()[-1]).stem}"
        # As the file itself says: a job is not changed, it is replaced.
        again = ("jobs", job) in self.cluster.objects
        self.run(apply.replace("apply", "replace --force") if again else apply)
        return self.cluster.wait(job)


@pytest.fixture(scope="module")
def desk(tmp_path_factory, template) -> Iterator[Desk]:
    folder = tmp_path_factory.mktemp("kubernetes")
    (folder / "work").mkdir()
    images = {"ours:1": pods.image(SKIPPY_CACHE=str(folder / "cache"))}
    with fresh_store(folder, template) as project, kubernetes(folder, images) as (cluster, config):
        tracker = open_tracker(project)
        environment = {
            "KUBECONFIG": str(config),
            "MLFLOW_TRACKING_URI": tracker.store.uri,
            "PYTHONPATH": str(ROOT),
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        }
        found = Desk(tracker, folder / "work", cluster, environment)
        found.run(f"{MAKE_SECRET} --dry-run=client -o json | kubectl apply -f -")
        yield found


@long
def test_a_stage_runs_over_two_pods_as_one_run(desk: Desk) -> None:
    assert desk.submit("--image ours:1 --stage svd --nodes 2 --volume shared") == "Complete", (
        desk.cluster.logs()
    )
    (svd,) = desk.tracker.runs.find_all("svd", finished=False)
    assert svd.status == "FINISHED"
    assert desk.submit("--image ours:1 --stage train --nodes 2 -P variant=v4 -P steps=2") == "Complete", (
        desk.cluster.logs()
    )
    (train,) = desk.tracker.runs.find_all("train", finished=False)
    assert (train.status, train.link("svd")) == ("FINISHED", svd.run_id)
    points = desk.tracker.runs.metric_history(train.run_id, "leakage/rho_left")
    assert points[-1].step == 2
    assert points[-1].value < 1e-5, "gradients of both nodes, projected"


def test_mlflows_backend_submits_a_stage_that_adopts_its_run(desk: Desk) -> None:
    """With Docker's program and engine, which MLflow asks for the image's digest, as stand-ins."""
    line = desk.run(f"{sys.executable} -m entrypoints jobs kubernetes --backend --image ours:1")
    desk.cluster.images[f"ours:1@{DIGEST}"] = desk.cluster.images["ours:1"]
    with docker(desk.folder / "docker", "ours:1") as (variables, calls):
        desk.environment |= {
            "DOCKER_HOST": variables["DOCKER_HOST"],
            "PATH": f"{variables['PATH']}:{desk.environment['PATH']}",
        }
        svd = line.replace("-e train", "-e svd").replace("mlflow run", f"{sys.executable} -m mlflow run")
        desk.run(f"{svd} --experiment-name skippy -P k=3 2>&1")
    assert calls == ["/images/ours/push?tag=1"]
    (job,) = (name for kind, name in desk.cluster.objects if kind == "jobs" and name.startswith("skippy-20"))
    (run,) = (run for run in desk.tracker.runs.find_all("svd") if run.tags[Tag.K] == "3")
    text = json.dumps(desk.cluster.objects["jobs", job])
    assert run.run_id in text
    assert desk.tracker.store.uri not in text, "the address, which may hold a password, is the secret's"
    assert run.tags["mlflow.project.backend"] == "kubernetes"
    assert run.tags[Tag.PROCESS].startswith(job), "the pod took the run over that mlflow made"


def test_a_misspelt_field_is_refused_when_it_is_submitted(desk: Desk) -> None:
    desk.run(f"{sys.executable} -m entrypoints jobs kubernetes --stage svd --nodes 1 --out spoilt")
    file = desk.folder / "spoilt" / "svd.yaml"
    file.write_text(file.read_text().replace("backoffLimit", "backofLimit").replace("skippy-svd", "spoilt"))
    said = desk.run(f"kubectl create -f {file} 2>&1 || true")
    assert "'backofLimit' was unexpected" in said
    assert ("jobs", "spoilt") not in desk.cluster.objects


@long
def test_a_stage_that_fails_fails_its_job(desk: Desk) -> None:
    """The twin: a base that is not there, tried as often as Kubernetes would."""
    assert desk.submit("--image ours:1 --stage svd --nodes 1 -P base_model=/nowhere") == "Failed"
    status = desk.cluster.objects["jobs", "skippy-svd"]["status"]
    assert (status["failed"], status["conditions"][0]["message"]) == (4, "BackoffLimitExceeded")
    assert "/nowhere" in desk.cluster.logs()


@long
def test_the_cells_of_a_study_are_shared_by_the_pods_of_a_job(desk: Desk) -> None:
    (desk.folder / "plan.yaml").write_text(PLAN)
    assert desk.submit("--image ours:1 --plan plan.yaml --workers 2") == "Complete", desk.cluster.logs()
    cells = [run for run in desk.tracker.runs.find_all("cell", finished=False) if run.variant != "base"]
    assert [run.status for run in cells] == ["FINISHED"] * 2
    assert len({run.tags[Tag.UNIT] for run in cells}) == 2
    assert {run.tags[Tag.ATTEMPT] for run in cells} == {"1"}
    (study,) = desk.tracker.runs.find_all("study")
    assert "study/study.json" in desk.tracker.artifacts.files(study.run_id)

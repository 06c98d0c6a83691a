"""The same contracts through `mlflow server`, which refuses some of what SQLite lets pass."""

import os
import shutil
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace

import mlflow
import pytest
from transformers import AutoModelForCausalLM

from skippy.errors import MissingRunError, RegistryError
from skippy.tracking.promotions import LOCK_SUFFIX, alias_lock
from skippy.tracking.store import open_tracker
from skippy.tracking.tracker import Tracker

START_SECONDS = 480


@pytest.fixture(scope="module")
def server(template, tmp_path_factory):
    """URI of a server on loopback that keeps artifacts itself (proxied), ended with the module."""
    folder = tmp_path_factory.mktemp("server")
    shutil.copy(template / "mlflow.db", folder / "mlflow.db")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # The template's experiment has a local artifact location; the server is to choose its own.
    with closing(sqlite3.connect(folder / "mlflow.db")) as database:
        database.execute("DELETE FROM experiment_tags")
        database.execute("DELETE FROM experiments WHERE name = 'skippy'")
        database.commit()
    options = {"host": "127.0.0.1", "port": port, "workers": 1}
    places = {
        "backend-store-uri": f"sqlite:///{folder / 'mlflow.db'}",
        "artifacts-destination": folder / "kept",
    }
    command = [sys.executable, "-m", "mlflow", "server"]
    command += [f"--{name}={value}" for name, value in {**options, **places}.items()]
    environment = {key: value for key, value in os.environ.items() if key != "MLFLOW_TRACKING_URI"}
    environment["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] = "false"
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            command, cwd=folder, env=environment, stdout=log, stderr=log, start_new_session=True
        )
    uri = f"http://127.0.0.1:{port}"
    try:
        wait_until_healthy(uri, process, folder)
        yield uri
    finally:
        os.killpg(process.pid, 15)
        process.wait(30)


def wait_until_healthy(uri, process, folder):
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urllib.request.urlopen(f"{uri}/health", timeout=2):
                return
        except OSError:
            time.sleep(0.3)
    pytest.fail((folder / "log").read_text())


@pytest.fixture
def remote(server, tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
    monkeypatch.setenv("MLFLOW_RUN_ID", "")
    monkeypatch.setenv("SKIPPY_CACHE", str(tmp_path / "cache"))
    yield open_tracker(tmp_path)
    mlflow.set_tracking_uri(None)


def merge(tracker, checkpoint, name, variant="v4"):
    with tracker.stage("merge", name=f"merge {variant}", note="n", variant=variant, config={}) as run:
        with tracker.models.draft(run, variant, tags={"variant": variant}) as draft:
            shutil.copytree(checkpoint, draft.weights_dir)
        return draft.register(name, {"variant": variant})


def promote(tracker, name, version, expected):
    return tracker.promotions.promote(
        name, version, reason="r", by="ada", report_uri="u", figures={}, expected_champion=expected
    )


def test_the_page_is_the_servers_own(server, remote):
    assert remote.store.page.startswith(f"{server}/#/experiments/{remote.store.experiment_id}/runs?")


def test_runs_metrics_and_artifacts(remote, tmp_path):
    with remote.stage(
        "svd", name="svd", note="n", base_digest="d1", config={"k": 16}, params={"k": 16}
    ) as run:
        run.log_metrics({"worst/residual": 1e-7}, step=3)
        run.log_text("hello", "projectors/manifest.json")
    record = remote.runs.find("svd", base_digest="d1")
    assert (record.run_id, record.metrics, record.params) == (
        run.run_id, {"worst/residual": 1e-7}, {"resolved/k": "16"}
    )  # fmt: skip
    assert remote.runs.metric_history(run.run_id, "worst/residual")[0].step == 3
    assert remote.artifacts.files(run.run_id) == ["config.json", "projectors/manifest.json"]
    folder = remote.artifacts.path(run.run_id, "projectors")
    assert (folder / "manifest.json").read_text() == "hello"
    assert folder.is_relative_to(tmp_path / "cache")
    assert remote.artifacts.path(run.run_id, "projectors/manifest.json").read_text() == "hello"
    for missing in ("nothing", "nothing/at.all"):
        with pytest.raises(MissingRunError, match="no such artifact"):
            remote.artifacts.path(run.run_id, missing)
    with pytest.raises(MissingRunError, match="There is no such run"):
        remote.runs.get("e" * 32)


def test_models_versions_and_champion(remote, checkpoint):
    merge(remote, checkpoint, "remote", "v3")
    version = merge(remote, checkpoint, "remote")
    assert version.version == 2
    assert version.model_id is not None
    assert [(v.version, v.tags["variant"]) for v in remote.registry.versions("remote")] == [
        (2, "v4"),
        (1, "v3"),
    ]
    resolved = remote.models.resolve("models:/remote/2")
    assert AutoModelForCausalLM.from_pretrained(resolved.path).config.hidden_size == 16
    assert remote.models.resolve(f"models:/{version.model_id}").path == resolved.path
    answers = mlflow.pyfunc.load_model(version.uri).predict(["one"], params={"max_new_tokens": 2})
    assert len(answers) == 1
    promote(remote, "remote", 1, None)
    assert promote(remote, "remote", 2, 1).aliases == ("champion",)
    assert remote.registry.alias("remote", "previous").version == 1
    assert remote.models.resolve("models:/remote@champion").version == 2
    assert remote.promotions.rollback("remote", reason="regret").version == 1
    with pytest.raises(RegistryError, match="champion changed"):
        promote(remote, "remote", 2, 2)
    with pytest.raises(
        MissingRunError, match="versions 2 \\(v4\\), 1 \\(v3\\); aliases champion → 1, previous → 2"
    ):
        remote.models.resolve("models:/remote@challenger")


def test_metrics_reach_the_model_with_their_dataset(remote, checkpoint):
    version = merge(remote, checkpoint, "measured")
    with remote.stage("eval", name="eval", note="n", config={}) as run:
        dataset = run.log_dataset("lab", "e" * 64, "lab", "evaluation")
        run.log_metrics({"aime/avg_at_k": 0.5}, model_id=version.model_id, dataset=dataset)
    (metric,) = remote.client.get_logged_model(version.model_id).metrics
    assert (metric.key, metric.value, metric.dataset_name) == ("aime/avg_at_k", 0.5, "lab")


def test_the_base_gets_its_figures_too(remote):
    model_id = remote.models.external("base lab", "a" * 64)
    assert remote.models.external("base lab", "a" * 64) == model_id
    with remote.stage("eval", name="eval", note="n", config={}) as run:
        run.log_metrics({"aime/avg_at_k": 0.5}, model_id=model_id)
    (metric,) = remote.client.get_logged_model(model_id).metrics
    assert (metric.key, metric.run_id) == ("aime/avg_at_k", run.run_id)


def test_failed_draft_registers_nothing(remote, checkpoint):
    drafts = []

    def break_off():
        with (
            remote.stage("merge", name="m", note="n", config={}) as run,
            remote.models.draft(run, "v4") as draft,
        ):
            drafts.append(draft)
            shutil.copytree(checkpoint, draft.weights_dir)
            raise ValueError("digest differs")

    with pytest.raises(ValueError, match="digest differs"):
        break_off()
    (draft,) = drafts
    assert not draft.weights_dir.exists()
    assert remote.registry.versions("never") == []
    assert remote.client.get_logged_model(draft.model_id).status == "FAILED"


def test_server_that_leaves_artifacts_to_us_registers_too(remote, checkpoint, tmp_path):
    """`make ui` serves a store whose artifacts lie on a local disk: one copy, and no refused file:// source."""
    place = tmp_path / "mlartifacts"
    experiment = remote.client.create_experiment("on our disk", artifact_location=str(place))
    local = Tracker(replace(remote.store, experiment_id=experiment, artifact_location=str(place)))
    version = merge(local, checkpoint, "ours")
    assert len(list(place.rglob("*.safetensors"))) == 1
    assert local.models.resolve(version.uri).path.is_relative_to(place)
    assert promote(local, "ours", 1, None).version == 1


def test_two_promotions_at_once_one_wins(remote, checkpoint):
    for variant in ("v3", "v4"):
        merge(remote, checkpoint, "raced", variant)

    def attempt(version):
        try:
            return promote(remote, "raced", version, None).version
        except RegistryError as error:
            return error.what

    with ThreadPoolExecutor(2) as pool:
        said = list(pool.map(attempt, (1, 2)))
    (winner,) = [answer for answer in said if isinstance(answer, int)]
    assert remote.registry.alias("raced", "champion").version == winner
    assert len(remote.promotions.history("raced")) == 1
    assert remote.registry.versions("raced" + LOCK_SUFFIX) == []


def test_a_lock_not_given_back_is_told_and_taken_over_when_stale(remote, monkeypatch):
    remote.client.create_registered_model("left" + LOCK_SUFFIX)
    monkeypatch.setattr("skippy.tracking.promotions.LOCK_WAIT_SECONDS", 0.5)
    with (
        pytest.raises(RegistryError, match="Another promotion is under way"),
        alias_lock(remote.store, "left"),
    ):
        pytest.fail("two hold the lock")
    monkeypatch.setattr("skippy.tracking.promotions.LOCK_STALE_SECONDS", 0.0)
    monkeypatch.setattr("skippy.tracking.promotions.LOCK_WAIT_SECONDS", 30.0)
    with alias_lock(remote.store, "left"):
        pass
    assert remote.client.search_registered_models(f"name = 'left{LOCK_SUFFIX}'") == []

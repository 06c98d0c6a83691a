"""The contracts of a local store through a team's server: PostgreSQL, accounts, artifacts on disk; as who may write."""

import json
import os
import shutil
import signal
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import mlflow
import pytest
from transformers import AutoModelForCausalLM

from skippy.errors import MissingRunError, RegistryError, TrackingError
from skippy.stores.cards import hash_file, verify_checkpoint
from skippy.tracking import exclusion, outbox
from skippy.tracking.exclusion import exclusive
from skippy.tracking.orphans import find_orphans, sweep_orphans
from skippy.tracking.store import open_tracker
from skippy.tracking.tags import CLAIM_PREFIX
from skippy.tracking.tracker import Tracker
from skippy.upkeep.doctor import examine
from skippy.upkeep.exporting import export_model
from skippy.upkeep.findings import carry_out
from skippy.upkeep.garbage import find_garbage
from skippy.upkeep.usage import measure
from tests.team_server import team_server


@pytest.fixture(scope="module")
def team():
    """A team's server, artifacts on disk."""
    with team_server(on_disk=True) as running:
        yield running


@pytest.fixture
def server(team):
    return team.url


@pytest.fixture
def remote(team, tmp_path, monkeypatch):
    """What a member of the team sees who may write."""
    for name, value in team.as_member(team.ada).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("SKIPPY_CACHE", str(tmp_path / "cache"))
    yield open_tracker(tmp_path)
    mlflow.set_tracking_uri(None)


def merge(tracker, checkpoint, name, variant="v4"):
    with (
        tracker.stage("merge", name=f"merge {variant}", note="n", variant=variant, config={}) as run,
        tracker.models.draft(run, variant, tags={"variant": variant}) as draft,
    ):
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
        "svd", name="svd", note="n", base_digest="d1", config={"k": 16}, hyperparameters={"k": 16}
    ) as run:
        run.log_metrics({"worst/residual": 1e-7}, step=3)
        run.log_text("hello", "projectors/manifest.json")
    record = remote.runs.find("svd", base_digest="d1")
    assert (record.run_id, record.metrics, record.params) == (
        run.run_id, {"worst/residual": 1e-7}, {"hp.k": "16"}
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
    names = [model.name for model in remote.client.search_registered_models()]
    assert [name for name in names if name.startswith("raced")] == ["raced"], "no lock among the models"
    assert claims_of(remote) == {}


def claims_of(tracker):
    tags = tracker.client.get_experiment(tracker.store.experiment_id).tags
    return {key: value for key, value in tags.items() if key.startswith(CLAIM_PREFIX)}


def test_eight_at_once_hold_a_claim_one_after_the_other(remote):
    inside, most = [], []

    def work(number):
        with exclusive(remote.store, "a thing"):
            inside.append(number)
            most.append(len(inside))
            time.sleep(0.02)
            inside.remove(number)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    assert most == [1] * 8
    assert claims_of(remote) == {}


def test_eight_evaluations_at_once_share_one_model_of_their_base(remote):
    with ThreadPoolExecutor(8) as pool:
        found = set(pool.map(lambda _: remote.models.external("base", "c" * 64), range(8)))
    assert len(found) == 1
    models = remote.client.search_logged_models(
        [remote.store.experiment_id], f"tags.`skippy.model_digest` = '{'c' * 64}'"
    )
    assert len(models) == 1


def test_a_claim_of_a_dead_process_blocks_nobody_and_one_that_lives_is_told(remote, monkeypatch):
    ended = subprocess.Popen(["true"])
    ended.wait()

    def claim(key, process):
        text = json.dumps({"number": 1, "process": process})
        remote.client.set_experiment_tag(remote.store.experiment_id, CLAIM_PREFIX + key, text)

    claim("left.1", f"{os.uname().nodename}:{ended.pid}:1.0")
    began = time.monotonic()
    with exclusive(remote.store, "left"):
        assert time.monotonic() - began < 5
    claim("far.1", "another-host:1:1.0")
    monkeypatch.setattr(exclusion, "PATIENCE_SECONDS", 0.3)
    with (
        pytest.raises(TrackingError, match="Another process is at it") as error,
        exclusive(remote.store, "far"),
    ):
        pytest.fail("two hold it")
    assert "another-host:1" in error.value.found
    monkeypatch.setattr(exclusion, "STALE_SECONDS", 0.2)
    monkeypatch.setattr(exclusion, "PATIENCE_SECONDS", 30.0)
    with exclusive(remote.store, "far"):
        pass
    assert claims_of(remote) == {}


def test_a_server_with_user_and_password_in_its_uri_works_and_keeps_neither(team, tmp_path, monkeypatch):
    name, password = team.ada
    for variable in ("USERNAME", "PASSWORD"):
        monkeypatch.setenv(f"MLFLOW_TRACKING_{variable}", "")
    monkeypatch.setenv("MLFLOW_RUN_ID", "")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", team.url.replace("://", f"://{name}:{password}@"))
    tracker = open_tracker(tmp_path)
    assert tracker.store.uri == team.url == os.environ["MLFLOW_TRACKING_URI"]
    assert (os.environ["MLFLOW_TRACKING_USERNAME"], os.environ["MLFLOW_TRACKING_PASSWORD"]) == team.ada
    with tracker.stage("svd", name="s", note=f"with {password}", config={}) as run:
        pass
    assert tracker.runs.get(run.run_id).tags["mlflow.note.content"] == "with ***"
    mlflow.set_tracking_uri(None)


def test_orphaned_weights_on_a_server_are_found_and_swept(remote, checkpoint, tmp_path):
    merge(remote, checkpoint, "kept")
    with remote.stage("merge", name="m", note="n", config={}) as run:
        logged = remote.client.create_logged_model(
            remote.store.experiment_id, name="v4", source_run_id=run.run_id
        )
        (tmp_path / "up" / "weights").mkdir(parents=True)
        (tmp_path / "up" / "weights" / "config.json").write_text("{}")
        remote.client.log_model_artifacts(logged.model_id, str(tmp_path / "up"))
        remote.client.finalize_logged_model(logged.model_id, "READY")
    remote.client.set_terminated(run.run_id, "KILLED")
    mine = [orphan for orphan in find_orphans(remote.store) if orphan.run_id == run.run_id]
    assert [orphan.model_id for orphan in mine] == [logged.model_id]
    sweep_orphans(remote.store, mine)
    assert remote.client.list_logged_model_artifacts(logged.model_id) == []
    assert remote.models.resolve("models:/kept/1").path.is_dir(), "the twin: a registered one stays"


@pytest.mark.parametrize("gone_for_good", [False, True])
def test_training_goes_on_while_the_server_hangs(remote, team, tmp_path, monkeypatch, gone_for_good):
    """Stopped, not ended: its port is open and nothing answers, which is the harder of the two."""
    monkeypatch.setattr(outbox, "PAUSE_SECONDS", 0.5)
    monkeypatch.setattr(outbox, "PATIENCE_SECONDS", 2.0 if gone_for_good else 60.0)
    monkeypatch.setattr("skippy.tracking.connection.PROBE_TIMEOUT_SECONDS", 0.5)
    monkeypatch.setattr("skippy.tracking.stage_run.BATCH_SECONDS", -1.0)
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "weights").write_text("w")
    slowest, runs = [], []

    def train():
        with remote.stage("train", name="t", note="n", config={}) as run:
            runs.append(run)
            for step in range(1, 9):
                if step == 3:
                    os.killpg(team.process.pid, signal.SIGSTOP)
                if step == 6 and not gone_for_good:
                    os.killpg(team.process.pid, signal.SIGCONT)
                time.sleep(0.6)
                began = time.monotonic()
                run.log_metrics({"reward": step / 4}, step=step)
                run.log_folder(tmp_path / "adapter", f"adapters/step_{step:06d}")
                slowest.append(time.monotonic() - began)

    try:
        if gone_for_good:
            began = time.monotonic()
            with pytest.raises(TrackingError, match="did not take everything"):
                train()
            assert time.monotonic() - began < 60
        else:
            train()
    finally:
        os.killpg(team.process.pid, signal.SIGCONT)
    assert max(slowest) < 30
    if gone_for_good:
        assert outbox.deliver_left_behind(remote.store) == [], "this process might still deliver it"
        assert runs[0].outbox.deliver_kept()
    record = remote.runs.get(runs[0].run_id)
    assert [point.step for point in remote.runs.metric_history(record.run_id, "reward")] == list(range(1, 9))
    assert len(remote.artifacts.files(record.run_id, "adapters")) == 8


def test_the_store_is_looked_after_as_a_laptops_is(remote, checkpoint, tmp_path):
    name = "care"
    with (
        remote.stage("merge", name="m", note="n", config={}) as run,
        remote.models.draft(run, "v4", registered_model=name) as draft,
    ):
        shutil.copytree(checkpoint, draft.weights_dir)
        files = {path.name: hash_file(path) for path in draft.weights_dir.iterdir()}
        card = {"digest": "d", "base_digest": "b" * 64, "adapter_digest": "a", "files": files}
        (draft.weights_dir / "skippy.json").write_text(json.dumps(card))
        made = draft.register(name, {"variant": "v4", "adapter_digest": "a"})

    def ours():
        return [finding for finding in examine(remote, rehash=True) if name in finding.where]

    assert ours() == []
    done = export_model(remote, made.uri, tmp_path / "out")
    assert verify_checkpoint(done.path / "weights")["digest"] == "d"
    (item,) = [item for item in find_garbage(remote, days=0) if item.where == made.uri]
    assert (item.nbytes, item.kept_by) == (None, ())
    assert carry_out([item]) == ([item], [])
    assert remote.registry.versions(name) == []
    assert not [one for one in measure(remote) if one["kind"] in ("model", "run")], "they are on the server"

import logging
import multiprocessing
import os
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import mlflow
import pytest

from skippy.errors import TrackingError
from skippy.tracking.connection import LOCAL_UI, find_project_root
from skippy.tracking.places import local_path
from skippy.tracking.store import open_tracker


def race(root: Path, name: str, results: multiprocessing.Queue) -> None:
    tracker = open_tracker(root)
    with tracker.stage("svd", name=name, note="a racer", config={}) as run:
        run.log_metrics({"x": 1.0})
    results.put(tracker.store.experiment_id)


def test_four_processes_on_a_fresh_file_agree_on_one_experiment(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")
    # Forked, so that the four start at the same moment and not as fast as each imports mlflow.
    forked = multiprocessing.get_context("fork")
    results = forked.Queue()
    racers = [forked.Process(target=race, args=(tmp_path, f"racer {number}", results)) for number in range(4)]
    for racer in racers:
        racer.start()
    for racer in racers:
        racer.join(timeout=120)
    assert [racer.exitcode for racer in racers] == [0] * 4
    assert len({results.get(timeout=5) for _ in racers}) == 1
    names = [run.name for run in open_tracker(tmp_path).runs.find_all("svd")]
    assert sorted(names) == [f"racer {number}" for number in range(4)]
    mlflow.set_tracking_uri(None)


def test_opening_silences_the_loggers_that_chat(tracker):
    chatty = ("alembic.runtime.migration", "mlflow.store.db.utils")
    assert not any(logging.getLogger(name).isEnabledFor(logging.INFO) for name in chatty)


@pytest.mark.parametrize("name", ["a b%c#d", "a%2Fb", "a?b=c&d", "é%41;x@y"])
def test_a_project_may_be_called_anything(template, tmp_path, monkeypatch, name):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")
    folder = tmp_path / "all" / name
    folder.mkdir(parents=True)
    with closing(sqlite3.connect(folder / "mlflow.db")) as database, database:
        with closing(sqlite3.connect(template / "mlflow.db")) as source:
            source.backup(database)
        database.execute("DELETE FROM experiment_tags")
        database.execute("DELETE FROM experiments WHERE name = 'skippy'")
    tracker = open_tracker(folder)
    with tracker.stage("svd", name="s", note="n", config={}) as run:
        run.log_text("kept", "deep/note.md")
        run.log_metrics({"x": 1.0})
    assert tracker.artifacts.path(run.run_id, "deep/note.md") == (
        folder / "mlartifacts" / run.run_id / "artifacts" / "deep" / "note.md"
    )
    assert open_tracker(tmp_path).runs.get(run.run_id).metrics == {"x": 1.0}, "the URI handed to children"
    assert [path.name for path in (tmp_path / "all").iterdir()] == [name], "nothing outside"
    mlflow.set_tracking_uri(None)


def register(tracker, content="{}"):
    with (
        tracker.stage("merge", name="m", note="n", config={}) as run,
        tracker.models.draft(run, "v4") as draft,
    ):
        draft.weights_dir.mkdir()
        (draft.weights_dir / "config.json").write_text(content)
        return draft.register("skippy", {"variant": "v4"})


def test_both_kinds_of_quotes_in_a_path_are_refused_before_mlflow_writes_bad_sql(tmp_path, monkeypatch):
    for name in ("it's", 'so "called"', """it's "both\""""):
        folder = tmp_path / name
        folder.mkdir()
        monkeypatch.chdir(folder)
        monkeypatch.setenv("MLFLOW_TRACKING_URI", "")
        if name.startswith("it's "):
            with pytest.raises(TrackingError, match="both kinds of quotes") as refusal:
                open_tracker(folder)
            assert refusal.value.where == str(folder)
            assert not list(folder.iterdir())
        else:
            assert open_tracker(folder).store.experiment_id == "1"
    mlflow.set_tracking_uri(None)


def test_a_project_that_was_moved_has_its_files(tracker, project):
    made = register(tracker)
    moved = project.rename(project.with_name("a 100% new place"))
    os.environ["MLFLOW_TRACKING_URI"] = ""
    there = open_tracker(moved)
    assert there.models.resolve(made.uri).path.is_relative_to(moved)
    assert there.artifacts.path(made.run_id, "config.json").is_relative_to(moved)
    assert Path(mlflow.artifacts.download_artifacts(made.uri)).is_relative_to(moved)
    assert there.models.resolve(register(there).uri).path.is_relative_to(moved)
    assert not project.exists(), "nothing is made where it was"


def test_what_is_done_in_a_copy_does_not_touch_the_original(tracker, project):
    made = register(tracker)
    shutil.copytree(project, project.with_name("copy"))
    os.environ["MLFLOW_TRACKING_URI"] = ""
    copy = open_tracker(project.with_name("copy"))
    copy.promotions.remove_version("skippy", made.version)
    register(copy, "[]")
    assert [one.version for one in copy.registry.versions("skippy")] == [2]
    os.environ["MLFLOW_TRACKING_URI"] = ""
    original = open_tracker(project)
    assert (original.models.resolve(made.uri).path / "config.json").read_text() == "{}"
    assert len(list((project / "mlartifacts" / "models").iterdir())) == 1


def test_a_database_without_its_files_is_refused(tracker, project, tmp_path):
    """The twin: taken at its word, it would write into the original."""
    register(tracker)
    (tmp_path / "alone").mkdir()
    shutil.copy(project / "mlflow.db", tmp_path / "alone")
    os.environ["MLFLOW_TRACKING_URI"] = ""
    with pytest.raises(TrackingError, match="without its artifacts") as refusal:
        open_tracker(tmp_path / "alone")
    assert refusal.value.found == f"its files are said to lie in {project / 'mlartifacts'}"
    assert "bring mlartifacts here as well" in refusal.value.next_step


def test_a_store_with_a_place_of_its_own_keeps_it(tracker, project, tmp_path):
    elsewhere = tmp_path / "large disk"
    with closing(sqlite3.connect(project / "mlflow.db")) as database, database:
        database.execute("UPDATE experiments SET artifact_location = ?", (str(elsewhere),))
    assert open_tracker(project).store.artifact_location == str(elsewhere)


def test_opening_tells_children_and_mlflow_itself(tracker, project):
    assert os.environ["MLFLOW_TRACKING_URI"] == tracker.store.uri == mlflow.get_tracking_uri()
    assert tracker.store.uri == f"sqlite:///{project / 'mlflow.db'}"
    assert tracker.store.artifact_location == str(project / "mlartifacts")


def test_given_uri_wins_and_is_made_absolute(project, monkeypatch, tmp_path):
    monkeypatch.chdir(project)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///mlflow.db")
    assert open_tracker(tmp_path).store.uri == f"sqlite:///{project / 'mlflow.db'}"


@pytest.mark.parametrize("uri", ["./mlruns", "file:///tmp/mlruns"])
def test_plain_directories_are_refused(uri, monkeypatch, tmp_path):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    with pytest.raises(TrackingError, match="not a tracking store that skippy can use") as error:
        open_tracker(tmp_path)
    assert uri in str(error.value)
    assert "unset MLFLOW_TRACKING_URI" in str(error.value)


def test_server_that_does_not_answer_is_said_at_once(monkeypatch, tmp_path):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    with pytest.raises(TrackingError, match="does not answer") as error:
        open_tracker(tmp_path)
    assert "http://127.0.0.1:9" in str(error.value)


def test_database_that_is_none_is_one_message(monkeypatch, tmp_path):
    (tmp_path / "mlflow.db").write_text("this is no database, and long enough to be told from an empty file")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")
    with pytest.raises(TrackingError, match="cannot be opened"):
        open_tracker(tmp_path)
    mlflow.set_tracking_uri(None)


def test_the_experiment_says_what_it_is_about(tracker):
    assert "V4" in tracker.client.get_experiment(tracker.store.experiment_id).tags["mlflow.note.content"]


def test_deleted_experiment_names_the_way_back(tracker, project):
    tracker.client.delete_experiment(tracker.store.experiment_id)
    with pytest.raises(TrackingError, match="is deleted") as error:
        open_tracker(project)
    assert f"mlflow experiments restore -x {tracker.store.experiment_id}" in str(error.value)


def test_root_is_where_mlproject_is():
    assert (find_project_root() / "skippy" / "tracking").is_dir()


def test_the_page_is_where_make_ui_serves_it(tracker):
    makefile = (find_project_root() / "Makefile").read_text()
    host, port = LOCAL_UI.removeprefix("http://").split(":")
    assert f"--host {host} --port {port}" in makefile
    assert tracker.store.page.startswith(f"{LOCAL_UI}/#/experiments/{tracker.store.experiment_id}/runs?")


@pytest.mark.parametrize(
    ("uri", "path"),
    [
        ("/a/b", Path("/a/b")),
        ("file:///a/b%20c", Path("/a/b c")),
        ("mlflow-artifacts:/1/2", None),
        ("s3://b/k", None),
    ],
)
def test_local_path(uri, path):
    assert local_path(uri) == path

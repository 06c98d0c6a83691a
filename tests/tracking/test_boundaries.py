"""Whatever the store, a driver or the disk refuses is one of our messages, through `mlflow run` as through `skippy`."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import pytest
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import PERMISSION_DENIED
from sqlalchemy.engine import make_url
from sqlalchemy.exc import OperationalError

from skippy.errors import CheckpointError, SystemRefused, TrackingError, as_ours
from skippy.stages import runner
from skippy.tracking import plugin as plugin_module
from skippy.tracking.connection import open_store
from skippy.tracking.plugin import is_run_of_this_project
from skippy.tracking.refusals import opening, translate

ROOT = Path(__file__).parents[2]
GROUP = "mlflow.tracking_store"
PATIENCE_SECONDS = 30.0

STORES = {
    "server down": ("http://127.0.0.1:9", "The tracking server does not answer."),
    "directory": ("file:///tmp/mlruns", "A plain directory is not a tracking store"),
    "no driver": ("mysql://nobody@127.0.0.1:9/skippy", "driver of the tracking database is not installed"),
    "database down": ("postgresql://nobody@127.0.0.1:9/skippy", "start the database, or correct host"),
    "not writable": ("sqlite:////proc/nowhere/mlflow.db", "The tracking store cannot be opened."),
    "no store": ("sqlite:////etc/passwd", "The tracking store cannot be opened."),
}


@pytest.fixture
def plugin(tmp_path: Path) -> str:
    """A path on which this checkout's entry points are installed, as pip would."""
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"][GROUP]
    folder = tmp_path / "site" / "skippy_boundaries-0.dist-info"
    folder.mkdir(parents=True)
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: skippy-boundaries\nVersion: 0\n")
    lines = "".join(f"{scheme} = {target}\n" for scheme, target in declared.items())
    (folder / "entry_points.txt").write_text(f"[{GROUP}]\n{lines}")
    return os.pathsep.join([str(folder.parent), str(ROOT)])


def run(*words: str, uri: str, path: str) -> tuple[subprocess.CompletedProcess[str], float]:
    environment = {**os.environ, "MLFLOW_TRACKING_URI": uri, "PYTHONPATH": path}
    environment.pop("MLFLOW_RUN_ID", None)
    began = time.monotonic()
    result = subprocess.run(
        [sys.executable, "-m", *words], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300,
        check=False,
    )  # fmt: skip
    return result, time.monotonic() - began


AS_PROCESSES = ("server down", "directory", "not writable")
"""One a door of the plugin; the other databases meet the same door, and need no MLflow started for each."""


@pytest.mark.parametrize("case", AS_PROCESSES)
def test_mlflow_run_and_skippy_refuse_a_store_in_the_same_words(case: str, plugin: str) -> None:
    uri, message = STORES[case]
    words = ("run", ".", "-e", "svd", "--env-manager", "local")
    for result, seconds in (
        run("mlflow", *words, uri=uri, path=plugin),
        run("entrypoints", "svd", uri=uri, path=str(ROOT)),
    ):
        assert result.returncode == 1, result.stderr[-2000:]
        assert message in result.stderr
        assert "next: " in result.stderr
        assert "Traceback" not in result.stderr
        assert seconds < PATIENCE_SECONDS * (1 + os.getloadavg()[0] / (os.cpu_count() or 1))


@pytest.mark.parametrize("case", sorted(set(STORES) - set(AS_PROCESSES)))
def test_other_databases_are_refused_by_the_same_door_in_the_same_words(
    case: str, monkeypatch, tmp_path: Path
) -> None:
    uri, message = STORES[case]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    with pytest.raises(TrackingError) as refusal:
        open_store(tmp_path)
    monkeypatch.setattr(sys, "argv", ["mlflow", "run", str(ROOT)])
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    with pytest.raises(SystemExit) as ended:
        plugin_module.open_database(uri)
    for told in (str(ended.value), str(refusal.value)):
        assert message in told
        assert "next: " in told


def test_plain_postgresql_without_its_driver_names_the_package() -> None:
    uri = "postgresql://ada:s3cretly@host/skippy"
    assert make_url(uri).get_dialect().driver == "psycopg"
    with pytest.raises(TrackingError) as refusal, opening(uri):
        raise ModuleNotFoundError("No module named 'psycopg'", name="psycopg")
    assert refusal.value.next_step == "pip install 'psycopg[binary]'"
    assert refusal.value.where == "postgresql://***@host/skippy"


def test_the_plugin_leaves_everybody_else_alone(plugin: str) -> None:
    """The twin: any other use of MLflow in this environment meets MLflow's own words."""
    result, _ = run(
        "mlflow", "runs", "list", "--experiment-id", "0", uri="sqlite:////etc/passwd", path=plugin
    )
    assert result.returncode != 0
    assert "mlflow run failed" not in result.stderr


def test_what_mlflows_own_process_meets_later_is_said_in_our_words_too(monkeypatch, capsys) -> None:
    monkeypatch.setattr(sys, "argv", ["/venv/bin/mlflow", "run", str(ROOT), "-e", "svd"])
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    uri = "sqlite:////tmp/mlflow.db"
    assert plugin_module._open(uri, lambda service: "a store") == "a store"
    denied = MlflowException("Permission denied", error_code=PERMISSION_DENIED)
    sys.excepthook(MlflowException, denied, None)
    said = capsys.readouterr().err
    assert said.startswith("mlflow run failed. The tracking server does not permit this to this user.")
    assert "ask the server's administrator" in said
    sys.excepthook(KeyError, KeyError("a fault of our own"), None)
    assert "KeyError" in capsys.readouterr().err, "the twin"


def test_the_twin_of_another_project_keeps_its_hook(monkeypatch, tmp_path) -> None:
    before = sys.excepthook
    monkeypatch.setattr(sys, "argv", ["/venv/bin/mlflow", "run", str(tmp_path)])
    plugin_module._open("sqlite:////tmp/mlflow.db", lambda service: "a store")
    assert sys.excepthook is before


def test_the_drivers_own_line_is_shown_where_sqlalchemy_puts_advice_before_it() -> None:
    advice = "(raised as a result of Query-invoked autoflush; consider using a session.no_autoflush block)"
    line = "(psycopg.errors.ReadOnlySqlTransaction) cannot execute INSERT in a read-only transaction"
    ours = translate(MlflowException(f"{advice}\n{line}\n[SQL: INSERT INTO runs]"))
    assert ours is not None
    assert ours.found == line
    assert "right to write" in ours.next_step


def test_only_a_run_of_this_project_is_one_of_ours(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(ROOT)
    assert is_run_of_this_project(["/venv/bin/mlflow", "run", ".", "-e", "svd"])
    assert is_run_of_this_project(["/lib/mlflow/__main__.py", "run", str(ROOT)])
    assert not is_run_of_this_project(["/venv/bin/mlflow", "server"])
    assert not is_run_of_this_project(["/venv/bin/python", "run", "."])
    assert not is_run_of_this_project([""])
    monkeypatch.chdir(tmp_path)
    (tmp_path / "MLproject").write_text("name: another\n")
    assert not is_run_of_this_project(["/venv/bin/mlflow", "run", "."])


@pytest.mark.parametrize(
    ("error", "kind", "said"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "/data/x"), SystemRefused, "free some space"),
        (PermissionError(errno.EACCES, "Permission denied", "/data/x"), SystemRefused, "permission"),
        (MlflowException("database is locked\nmore"), TrackingError, "database is locked"),
        (OperationalError("INSERT", {}, Exception("disk I/O error")), TrackingError, "disk I/O error"),
        (
            OperationalError("INSERT", {}, Exception("database or disk is full")),
            TrackingError,
            "free some space",
        ),
    ],
)
def test_errors_of_the_system_and_the_store_are_ours(error: Exception, kind: type, said: str) -> None:
    ours = translate(error)
    assert isinstance(ours, kind)
    assert said in str(ours)
    assert ours.next_step


def test_a_fault_of_our_own_is_not_dressed_up() -> None:
    assert translate(KeyError("k")) is None
    own = CheckpointError("The checkpoint does not exist.")
    assert as_ours(own) is own


def test_a_full_disk_in_the_middle_of_a_stage_fails_its_run_with_the_message(
    tracker, monkeypatch, caplog
) -> None:
    def full(config, given) -> None:
        with given.stage("svd", name="s", note="", config={}):
            raise OSError(errno.ENOSPC, "No space left on device", "/data/projectors")

    monkeypatch.setattr("skippy.tracking.store.open_tracker", lambda: tracker)
    monkeypatch.setitem(runner.MODULES, "svd", "stage_on_a_full_disk")
    monkeypatch.setitem(sys.modules, "stage_on_a_full_disk", type(sys)("stage_on_a_full_disk"))
    sys.modules["stage_on_a_full_disk"].run = full
    with pytest.raises(SystemExit) as ended:
        runner.run_stage("svd", {})
    assert ended.value.code == 1
    assert "svd failed. The operating system refused." in caplog.text
    (record,) = tracker.runs.find_all("svd", finished=False)
    assert record.status == "FAILED"
    assert "free some space" in record.tags["skippy.error"]


def test_a_store_in_a_place_that_cannot_be_made_is_refused(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/file/mlflow.db")
    with pytest.raises(TrackingError, match="cannot be opened") as refusal:
        open_store(tmp_path)
    assert "\n" not in refusal.value.found

"""A fresh SQLite store for each test: made once, copied, because making one costs seconds."""

import os
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import mlflow
import pytest

from skippy.tracking.connection import file_lock
from skippy.tracking.store import open_tracker

ROOT = Path(__file__).parents[1]
# The suite is about results, bit by bit, and they are those of a CPU wherever it runs.
os.environ["CUDA_VISIBLE_DEVICES"] = ""


@pytest.fixture(scope="session")
def template(pytestconfig) -> Path:
    """Directory with an empty store, kept between sessions and shared by parallel workers."""
    folder = Path(pytestconfig.cache.mkdir(f"skippy-store-mlflow-{mlflow.__version__}"))
    with file_lock(folder / "making.lock"):
        if not (folder / "done").exists():
            with pytest.MonkeyPatch.context() as patch:
                patch.setenv("MLFLOW_TRACKING_URI", "")
                open_tracker(folder)
            mlflow.set_tracking_uri(None)
            (folder / "done").touch()
    return folder


@pytest.fixture
def project(tmp_path, template, monkeypatch) -> Path:
    """Directory with a store of its own, and no trace of another in the environment."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")
    monkeypatch.setenv("MLFLOW_RUN_ID", "")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("SKIPPY_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "project"
    folder.mkdir()
    shutil.copy(template / "mlflow.db", folder / "mlflow.db")
    with closing(sqlite3.connect(folder / "mlflow.db")) as database:
        place = str(folder / "mlartifacts")
        database.execute("UPDATE experiments SET artifact_location = ? WHERE name = 'skippy'", (place,))
        database.commit()
    yield folder
    mlflow.set_tracking_uri(None)


@pytest.fixture
def tracker(project):
    return open_tracker(project)

"""A fresh SQLite store for each test: made once, copied, because making one costs seconds."""

import hashlib
import logging
import os
import shutil
import signal
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import mlflow
import pytest

from skippy.tracking import connection
from skippy.tracking.connection import file_lock
from skippy.tracking.store import open_tracker

ROOT = Path(__file__).parents[1]
# The suite is about results, bit by bit, and they are those of a CPU wherever it runs.
os.environ["CUDA_VISIBLE_DEVICES"] = ""


# Under nohup, or in the background of a script, these are ignored, and the stages would rightly ignore them too.
for heard, usual in ((signal.SIGHUP, signal.SIG_DFL), (signal.SIGINT, signal.default_int_handler)):
    if signal.getsignal(heard) is signal.SIG_IGN:
        signal.signal(heard, usual)


LONG = (
    "tests/test_pipeline.py",
    "tests/docs/",
    "tests/tracking/",
    "tests/faults/",
    "tests/studies/",
    "tests/stages/",
)
"""Files of minutes: they come first, so that no worker is left alone with one of them."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long files first; among themselves, and after them, in the usual order."""
    rank = {item.nodeid.split("::")[0]: len(LONG) for item in items}
    for path in rank:
        rank[path] = next((place for place, start in enumerate(LONG) if path.startswith(start)), len(LONG))
    items.sort(key=lambda item: rank[item.nodeid.split("::")[0]])


@pytest.fixture(autouse=True)
def level_of_log() -> Iterator[None]:
    """Commands that run in this process set how much is said; the next test says as much as ever."""
    logger = logging.getLogger("skippy")
    level = logger.level
    yield
    logger.setLevel(level)


@pytest.fixture(scope="session")
def template(pytestconfig) -> Path:
    """Directory with an empty store, kept between sessions and shared by parallel workers."""
    maker = hashlib.sha256(Path(connection.__file__).read_bytes()).hexdigest()[:8]
    folder = Path(pytestconfig.cache.mkdir(f"skippy-store-{maker}-mlflow-{mlflow.__version__}"))
    with file_lock(folder / "making.lock"):
        if not (folder / "done").exists():
            with pytest.MonkeyPatch.context() as patch:
                patch.setenv("MLFLOW_TRACKING_URI", "")
                open_tracker(folder)
            mlflow.set_tracking_uri(None)
            (folder / "done").touch()
    return folder


@contextmanager
def fresh_store(folder: Path, template: Path) -> Iterator[Path]:
    """Directory with a store of its own, and no trace of another in the environment."""
    project = folder / "project"
    project.mkdir()
    shutil.copy(template / "mlflow.db", project / "mlflow.db")
    with closing(sqlite3.connect(project / "mlflow.db")) as database:
        place = str(project / "mlartifacts")
        database.execute("UPDATE experiments SET artifact_location = ? WHERE name = 'skippy'", (place,))
        database.commit()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", "")
        patch.setenv("MLFLOW_RUN_ID", "")
        patch.setenv("PYTHONPATH", str(ROOT))
        patch.setenv("SKIPPY_CACHE", str(folder / "cache"))
        yield project
    mlflow.set_tracking_uri(None)


@pytest.fixture
def project(tmp_path, template) -> Iterator[Path]:
    with fresh_store(tmp_path, template) as folder:
        yield folder


@pytest.fixture
def tracker(project):
    return open_tracker(project)


@pytest.fixture(scope="module")
def module_tracker(tmp_path_factory, template):
    """A tracker that all tests of a module share, for runs that are costly to make."""
    with fresh_store(tmp_path_factory.mktemp("shared"), template) as folder:
        yield open_tracker(folder)

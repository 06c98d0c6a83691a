"""What `mlflow run` of this project opens before a line of ours runs: the store, with our messages and our patience.

`mlflow run` makes its run in a process of MLflow's own. With a server that is down, that process would retry for
four minutes and end in a traceback. MLflow lets a package build the stores of a URI scheme (entry points of the
group `mlflow.tracking_store` in pyproject.toml); ours hand on to MLflow's own, and step in only there.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from types import TracebackType
from typing import Any

PROJECT_NAME = "skippy"
SERVICE = "mlflow.tracking._tracking_service.utils"


def open_server(store_uri: str, artifact_uri: str | None = None) -> Any:
    """MLflow's store behind a server."""
    return _open(store_uri, lambda service: service._get_rest_store(store_uri))


def open_database(store_uri: str, artifact_uri: str | None = None) -> Any:
    """MLflow's store in a database."""
    return _open(store_uri, lambda service: service._get_sqlalchemy_store(store_uri, artifact_uri))


def open_directory(store_uri: str, artifact_uri: str | None = None) -> Any:
    """MLflow's store in a directory, which skippy does not use."""
    return _open(store_uri, lambda service: service._get_file_store(store_uri))


def _open(uri: str, build: Callable[[Any], Any]) -> Any:
    # Imported only now: MLflow asks for these functions while it is being imported itself.
    service = import_module(SERVICE)
    if not is_run_of_this_project(sys.argv):
        return build(service)
    connection, errors = import_module("skippy.tracking.connection"), import_module("skippy.errors")
    try:
        with import_module("skippy.tracking.refusals").opening(uri):
            connection.require_usable(uri)
            return build(service)
    except errors.SkippyError as error:
        sys.exit(f"mlflow run failed. {error}")
    finally:
        # Whatever else MLflow's own process meets, such as a store that lets nobody write, is said in our words too.
        sys.excepthook = _say


def _say(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """In place of the traceback of what a store refused, our message; any other error as ever."""
    ours = import_module("skippy.tracking.refusals").translate(error)
    if ours is None:
        sys.__excepthook__(kind, error, trace)
    else:
        sys.stderr.write(f"mlflow run failed. {ours}\n")


def is_run_of_this_project(words: Sequence[str]) -> bool:
    """Whether a command line is `mlflow run DIRECTORY …` of a directory that holds this project."""
    program = Path(words[0]).name if words else ""
    is_mlflow = program == "mlflow" or words[0].endswith(("mlflow/__main__.py", "mlflow/cli/__init__.py"))
    if not is_mlflow or "run" not in words[1:2]:
        return False
    folders = [Path(word) for word in words[2:] if not word.startswith("-")]
    files = [folder / "MLproject" for folder in folders]
    return any(
        file.is_file() and f"name: {PROJECT_NAME}\n" in file.read_text(errors="replace") for file in files
    )

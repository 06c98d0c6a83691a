"""Artifacts as paths: where they lie if the store is local, fetched once if it is not."""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path, PurePosixPath

from mlflow.exceptions import MlflowException
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

from skippy.errors import MissingRunError
from skippy.tracking.connection import Store, StoreAccess
from skippy.tracking.places import local_path
from skippy.tracking.refusals import translated_errors

logger = logging.getLogger(__name__)

SHOWN_BYTES = 10_000_000
"""An upload from this size on says how far it is."""
ENDED = ("FINISHED", "FAILED", "KILLED")


class Artifacts(StoreAccess):
    """Reading the files that runs left behind."""

    def path(self, run_id: str, path: str) -> Path:
        """Local path of a run's artifact, file or directory; read it, never write to it.

        Raises:
            MissingRunError: the run or the artifact is not there.
        """
        _require_inside(path)
        try:
            info = self.store.client.get_run(run_id).info
        except MlflowException as error:
            raise MissingRunError(
                "There is no such run.", where=run_id, found=str(error), next_step="check the run id"
            ) from error
        folder = local_path(info.artifact_uri)
        if folder is not None:
            found = folder / path
            if not found.exists():
                raise self._missing(run_id, path)
            return found

        def fetch(to: str) -> str:
            return self.store.client.download_artifacts(run_id, path, to)

        target = cache_root() / "runs" / run_id / path
        return fetched(target, fetch, info.status in ENDED, lambda: self._missing(run_id, path))

    def files(self, run_id: str, path: str = "") -> list[str]:
        """Paths of all files under `path` of a run, sorted."""
        files: list[str] = []
        with translated_errors(f"run {run_id}, artifacts"):
            for item in self.store.client.list_artifacts(run_id, path or None):
                files.extend(self.files(run_id, item.path) if item.is_dir else [item.path])
        return sorted(files)

    def _missing(self, run_id: str, path: str) -> MissingRunError:
        there = ", ".join(self.files(run_id)[:12]) or "no artifact at all"
        return MissingRunError(
            "The run has no such artifact.",
            where=f"run {run_id}",
            expected=path,
            found=there,
            next_step="run the stage again, or name another run",
        )


def cache_root() -> Path:
    """Where artifacts of a server are kept: SKIPPY_CACHE, else `skippy` in the user's cache directory."""
    chosen = os.environ.get("SKIPPY_CACHE")
    if chosen:
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "skippy"


def fetched(
    target: Path, fetch: Callable[[str], str], is_final: bool, missing: Callable[[], MissingRunError]
) -> Path:
    """`target`, downloaded by `fetch(directory)` unless it is there and cannot have changed since."""
    if is_final and target.exists():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        try:
            source = Path(fetch(scratch))
        except (MlflowException, OSError) as error:
            raise missing() from error
        if not source.exists() or (source.is_dir() and not any(source.iterdir())):
            raise missing()
        if target.is_dir() and not is_final:
            shutil.rmtree(target)
        try:
            os.replace(source, target)
        except OSError:
            # Another process fetched the same meanwhile.
            if not target.exists():
                raise
    return target


def upload_model(store: Store, model_id: str, folder: Path) -> None:
    """Send every file of a logged model to the server once; large ones go in parts where its store takes parts."""
    location = store.client.get_logged_model(model_id).artifact_location
    repository = get_artifact_repository(location, tracking_uri=store.uri)
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    sent, total = 0, sum(path.stat().st_size for path in files)
    for path in files:
        into = path.parent.relative_to(folder).as_posix()
        repository.log_artifact(str(path), None if into == "." else into)
        sent += path.stat().st_size
        if total >= SHOWN_BYTES:
            logger.info("tracking: %.2f of %.2f GB are on the server", sent / 1e9, total / 1e9)


def _require_inside(path: str) -> None:
    parts = PurePosixPath(path)
    if parts.is_absolute() or ".." in parts.parts:
        raise MissingRunError("An artifact's path stays inside its run.", found=path, expected="relative")

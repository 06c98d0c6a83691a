"""Weights that nothing leads to: left by a merge that was killed while it wrote, or before it registered.

Each is a whole model's worth of disk. `find_orphans` is what a person is shown, `sweep_orphans` what every merge does
first. A model is one only if no registered version refers to it, and its run has ended without success
or its version was being deleted.
"""

from __future__ import annotations

import logging
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from mlflow.entities import LoggedModel
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

from skippy.tracking.connection import Store, alone_at, every
from skippy.tracking.places import local_path
from skippy.tracking.refusals import translated_errors
from skippy.tracking.tags import Tag

logger = logging.getLogger(__name__)

SCRATCH = "scratch"
OLD_SCRATCH_PREFIX = "skippy-model-"
"""Earlier versions wrote a server's copy to the system's temporary directory under this name."""
OLD_SCRATCH_SECONDS = 86_400.0
PAGE_SIZE = 100


@dataclass(frozen=True)
class Orphan:
    """Weights that nothing leads to."""

    what: str  # a sentence on what it is and how it came about
    where: str  # its directory, or its location in the store
    run_id: str = ""  # the run that made it, empty where unknown
    model_id: str = ""  # its logged model, empty for a scratch copy
    nbytes: int | None = None  # its size on this machine's disk; None where it is not here
    is_safe: bool = True  # whether a merge sweeps it; the others are for a person to decide


def find_orphans(store: Store) -> list[Orphan]:
    """Every copy of weights that nothing leads to."""
    with translated_errors("search for orphaned weights"):
        orphans = [*_models(store), *_scratch(store)]
    return orphans


def sweep_orphans(store: Store, orphans: Sequence[Orphan] | None = None) -> list[Orphan]:
    """Remove the orphans that are safe to remove; returns those.

    Args:
        orphans: from `find_orphans`; None looks for them.
    """
    swept = []
    for orphan in find_orphans(store) if orphans is None else orphans:
        if not orphan.is_safe:
            continue
        if orphan.model_id and not remove_weights(store, orphan.model_id):
            logger.warning("tracking: could not remove %s: %s", orphan.where, orphan.what)
            continue
        if not orphan.model_id:
            shutil.rmtree(orphan.where, ignore_errors=True)
        logger.info("tracking: removed %s: %s", orphan.where, orphan.what)
        swept.append(orphan)
    return swept


def remove_weights(store: Store, model_id: str) -> bool:
    """Mark a logged model FAILED and remove its files, wherever they are; False where the store refuses."""
    with suppress(MlflowException):
        store.client.finalize_logged_model(model_id, "FAILED")
    with suppress(MlflowException, OSError, NotImplementedError):
        location = store.client.get_logged_model(model_id).artifact_location
        folder = local_path(location)
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)
        else:
            get_artifact_repository(location, tracking_uri=store.uri).delete_artifacts()
        return True
    return False


@contextmanager
def scratch_directory(store: Store, name: str) -> Iterator[Path]:
    """A directory for a copy that a server gets; found and removed later if this process is killed."""
    folder = store.unfinished / SCRATCH / name
    folder.mkdir(parents=True, exist_ok=True)
    with alone_at(folder):
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _models(store: Store) -> Iterator[Orphan]:
    registered: set[str] | None = None
    endings: dict[str, str] = {}
    for model in logged_models(store):
        run_id = model.source_run_id or ""
        if not run_id or Tag.MODEL_DIGEST in model.tags:
            continue  # stands for weights outside the store
        if run_id not in endings:
            endings[run_id] = _ending(store, run_id)
        ending, status = endings[run_id], str(model.status)
        is_wanted = status == "READY" and ending not in ("KILLED", "FAILED") and Tag.DELETED not in model.tags
        if ending in ("RUNNING", "SCHEDULED") or is_wanted:
            continue
        folder = local_path(model.artifact_location)
        has_files = folder is not None and folder.exists()
        if status == "FAILED" and not has_files:
            continue
        if status == "READY":
            registered = _registered(store) if registered is None else registered
            if model.model_id in registered or (folder is not None and not has_files):
                continue
        state = "of no version" if status == "READY" else "half-written"
        yield Orphan(
            f"the weights of {model.name!r}, {state}: its run is {ending}",
            model.artifact_location,
            run_id,
            model.model_id,
            bytes_under(folder) if folder is not None else None,
        )


def _scratch(store: Store) -> Iterator[Orphan]:
    for folder in sorted((store.unfinished / SCRATCH).glob("*/")):
        with alone_at(folder) as is_left:
            if is_left:
                what = "a copy on its way to the server, left by a killed process"
                yield Orphan(what, str(folder), nbytes=bytes_under(folder))
    for folder in sorted(Path(tempfile.gettempdir()).glob(f"{OLD_SCRATCH_PREFIX}*/")):
        if time.time() - folder.stat().st_mtime > OLD_SCRATCH_SECONDS:
            what = "a copy on its way to a server, left by an earlier version"
            yield Orphan(what, str(folder), nbytes=bytes_under(folder), is_safe=False)


def logged_models(store: Store) -> Iterator[LoggedModel]:
    """Every logged model of the experiment."""
    return every(store.client.search_logged_models, [store.experiment_id], max_results=PAGE_SIZE)


def _registered(store: Store) -> set[str]:
    """Ids of the logged models that a registered version refers to."""
    versions = every(store.client.search_model_versions, max_results=1000)
    return {(version.source or "").removeprefix("models:/") for version in versions}


def _ending(store: Store, run_id: str) -> str:
    try:
        return str(store.client.get_run(run_id).info.status)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return "gone"


def bytes_under(folder: Path, seen: set[tuple[int, int]] | None = None) -> int:
    """Bytes of the files at or under a path, symbolic links not followed; a file of several names counts once.

    Args:
        folder: a directory or a file.
        seen: device and inode of what was counted before; added to.
    """
    seen = set() if seen is None else seen
    total = 0
    for path in (folder, *folder.rglob("*")):
        with suppress(OSError):  # it may go while it is looked at
            facts = path.lstat()
            if stat.S_ISREG(facts.st_mode) and (facts.st_dev, facts.st_ino) not in seen:
                seen.add((facts.st_dev, facts.st_ino))
                total += facts.st_size
    return total

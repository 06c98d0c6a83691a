"""How a stage's run begins and ends: adopted or new, finished, failed or killed, never left RUNNING."""

from __future__ import annotations

import functools
import importlib.metadata
import json
import logging
import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from mlflow.entities import Param, Run
from mlflow.exceptions import MlflowException
from mlflow.utils.mlflow_tags import MLFLOW_PROJECT_ENV, MLFLOW_SOURCE_NAME, MLFLOW_SOURCE_TYPE, MLFLOW_USER

from skippy.errors import TrackingError
from skippy.tracking.connection import EXPERIMENT, Store, local_path
from skippy.tracking.records import (
    BASE_TAG,
    CHARACTER_TAG,
    DIRTY_TAG,
    ERROR_TAG,
    MOVED_TAG,
    NOTE_TAG,
    PARENT_TAG,
    PROCESS_TAG,
    STAGE_TAG,
    VARIANT_TAG,
    VERSION_TAG,
)
from skippy.tracking.stage_run import StageRun, link_tag, translated_errors

logger = logging.getLogger(__name__)

RUN_ID_VARIABLE = "MLFLOW_RUN_ID"
RESOLVED_PREFIX = "resolved/"
HYPERPARAMETER_PREFIX = "hp."
ORPHAN_POLL_SECONDS = 1.0
MAX_PARAM_LENGTH = 6000
PARAMS_PER_BATCH = 100

# Called when this process is asked to stop, before it unwinds; must not block.
stop_hooks: list[Callable[[], None]] = []


class Terminated(SystemExit):
    """SIGTERM, as an exception, so that a stage unwinds; exit code 143."""

    def __init__(self) -> None:
        super().__init__(128 + signal.SIGTERM)


@contextmanager
def supervised(store: Store, run: StageRun, stub: str | None) -> Iterator[StageRun]:
    """Run a stage's body; whatever ends it, the run gets the status that says so.

    Args:
        store: where the run is.
        run: the run, already RUNNING.
        stub: run that `mlflow run` made in another experiment, ended with the same status.
    """
    status, message = "FINISHED", ""
    with _terminating() as signals:
        try:
            yield run
            signals.is_ending = True
            run.flush()
        except (KeyboardInterrupt, Terminated) as error:
            signals.is_ending = True
            status, message = "KILLED", f"{type(error).__name__}: the process was asked to stop"
            raise
        except BaseException as error:
            signals.is_ending = True
            status, message = "FAILED", str(error) or type(error).__name__
            raise
        finally:
            if status == "FINISHED":
                _end(store, run, stub, status)
            else:
                # The reason it ended matters more than a store that cannot take the note of it.
                with suppress(TrackingError, MlflowException):
                    _note_failure(run, status, message)
                with suppress(TrackingError, MlflowException):
                    _end(store, run, stub, status)


def begin(store: Store, name: str, tags: Mapping[str, str]) -> tuple[StageRun, str | None]:
    """Adopt the run that `mlflow run` made for this process, or make one; also the stub to end with it.

    A new run has its tags from the start; an adopted one gets them from the caller, under supervision.
    """
    adopted = _adoptable(store)
    stub = None
    with translated_errors(f"start of run {name!r}"):
        if adopted is not None and adopted.info.experiment_id == store.experiment_id:
            store.client.update_run(adopted.info.run_id, status="RUNNING", name=name)
            info = adopted.info
        else:
            everything = {**_source_tags(adopted), **tags}
            info = store.client.create_run(store.experiment_id, tags=everything, run_name=name).info
            stub = None if adopted is None else _leave_stub(store, adopted, info.run_id)
    run = StageRun(store.client, info.run_id, info.artifact_uri)
    run.note = tags.get(NOTE_TAG, "")
    # MLflow names every manager but the one that makes no environment.
    run.manager = adopted.data.tags.get(MLFLOW_PROJECT_ENV, "local") if adopted else None
    return run, stub


def log_params(store: Store, run_id: str, params: Mapping[str, object], prefix: str) -> None:
    """Log parameters under a prefix of ours; the declared ones were logged by `mlflow run`, as typed."""
    entities = [Param(prefix + key, _param_text(value)) for key, value in params.items()]
    with translated_errors(f"run {run_id}, parameters"):
        for start in range(0, len(entities), PARAMS_PER_BATCH):
            store.client.log_batch(run_id, params=entities[start : start + PARAMS_PER_BATCH])


@functools.cache
def code_version() -> tuple[str, str]:
    """Commit of this package's checkout and whether it is dirty; the installed version and "unknown" else."""
    where = ["git", "-C", str(Path(__file__).parent)]
    try:
        commit = subprocess.run([*where, "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
        changes = subprocess.run(
            [*where, "status", "--porcelain"], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        try:
            return importlib.metadata.version("skippy"), "unknown"
        except importlib.metadata.PackageNotFoundError:
            return "unknown", "unknown"
    return commit.stdout.strip(), "true" if changes.stdout.strip() else "false"


def _adoptable(store: Store) -> Run | None:
    """The run MLFLOW_RUN_ID names; the variable is used up, so that a second stage starts its own."""
    run_id = os.environ.pop(RUN_ID_VARIABLE, "")
    if not run_id:
        return None
    _stop_when_orphaned()
    try:
        return store.client.get_run(run_id)
    except MlflowException:
        logger.warning("MLFLOW_RUN_ID %s is not in %s: a new run is started", run_id, store.uri)
        return None


def _source_tags(adopted: Run | None) -> dict[str, str]:
    """What mlflow writes about where a run came from."""
    if adopted is not None:
        return {key: value for key, value in adopted.data.tags.items() if key != "mlflow.runName"}
    user = os.environ.get("USER") or os.environ.get("LOGNAME") or "unknown"
    return {MLFLOW_USER: user, MLFLOW_SOURCE_NAME: "skippy", MLFLOW_SOURCE_TYPE: "LOCAL"}


def _leave_stub(store: Store, adopted: Run, run_id: str) -> str:
    """The run `mlflow run` made is in another experiment: carry its parameters over, leave a pointer."""
    declared = [Param(key, value) for key, value in adopted.data.params.items()]
    store.client.log_batch(run_id, params=declared)
    stub = adopted.info.run_id
    store.client.set_tag(stub, MOVED_TAG, run_id)
    store.client.set_tag(stub, NOTE_TAG, f"This is run {run_id} of the experiment `{EXPERIMENT}`.")
    logger.info("run %s is kept as %s in the experiment %s", stub, run_id, EXPERIMENT)
    return stub


def _note_failure(run: StageRun, status: str, message: str) -> None:
    with suppress(TrackingError):
        run.flush()
    run.set_tags({ERROR_TAG: message, NOTE_TAG: f"{run.note}\n\n**{status}**\n\n```\n{message}\n```"})


def _end(store: Store, run: StageRun, stub: str | None, status: str) -> None:
    with translated_errors(f"end of run {run.run_id}"):
        store.client.set_terminated(run.run_id, status)
        if stub is not None:
            store.client.set_terminated(stub, status)


@dataclass
class _Signals:
    """Whether SIGTERM still interrupts, or comes too late because the run is being ended anyway."""

    is_ending: bool = False


@contextmanager
def _terminating() -> Iterator[_Signals]:
    """SIGTERM raises `Terminated` inside, once; both it and Ctrl-C reach the children before they unwind us.

    A stage that waits for its children in threads would otherwise wait for them to finish their work. Only
    the main thread may set handlers.
    """
    signals = _Signals()
    if threading.current_thread() is not threading.main_thread():
        yield signals
        return

    def stop(number: int, frame: FrameType | None) -> None:
        for hook in stop_hooks:
            hook()
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        if not signals.is_ending:
            signals.is_ending = True
            raise Terminated

    # What is ignored on purpose (nohup, a background job) stays ignored.
    heard = [n for n in (signal.SIGTERM, signal.SIGINT) if signal.getsignal(n) is not signal.SIG_IGN]
    before = {number: signal.signal(number, stop) for number in heard}
    try:
        yield signals
    finally:
        for number, handler in before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)


def _stop_when_orphaned() -> None:
    """End this process when the `mlflow run` that started it dies: a killed one leaves its child alive."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(ORPHAN_POLL_SECONDS)
        logger.warning("the process that started this stage is gone: stopping")
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="skippy-orphan-watch", daemon=True).start()


def mark_dead(store: Store, run_id: str, reason: str) -> None:
    """Give a run whose process is gone the status KILLED and the reason; drop models it left half-written."""
    with translated_errors(f"run {run_id}"):
        run = store.client.get_run(run_id)
        note = run.data.tags.get(NOTE_TAG, "")
        for key, value in ((ERROR_TAG, reason), (NOTE_TAG, f"{note}\n\n**KILLED** {reason}")):
            store.client.set_tag(run_id, key, value)
        store.client.set_terminated(run_id, "KILLED")
        drafts = store.client.search_logged_models([store.experiment_id], f"source_run_id = '{run_id}'")
        # The store keeps the status as a number, which its filter language does not know: filtered here.
        for draft in [draft for draft in drafts if str(draft.status) == "PENDING"]:
            store.client.finalize_logged_model(draft.model_id, "FAILED")
            folder = local_path(draft.artifact_location)
            if folder is not None:
                shutil.rmtree(folder, ignore_errors=True)


def _param_text(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value, default=str)
    return text[:MAX_PARAM_LENGTH]


def stage_tags(
    stage: str,
    note: str,
    variant: str,
    base_digest: str,
    character: str,
    links: Mapping[str, str],
    parent: str | None,
) -> dict[str, str]:
    """The tags every run of ours carries."""
    commit, dirty = code_version()
    nested = {} if parent is None else {PARENT_TAG: parent}
    return {
        STAGE_TAG: stage,
        NOTE_TAG: note,
        VARIANT_TAG: variant,
        BASE_TAG: base_digest,
        CHARACTER_TAG: character,
        VERSION_TAG: commit,
        DIRTY_TAG: dirty,
        PROCESS_TAG: f"{os.uname().nodename}:{os.getpid()}",
        **{link_tag(key): value for key, value in links.items()},
        **nested,
    }

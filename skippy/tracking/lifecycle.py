"""How a stage's run begins and ends: adopted or new, finished, failed or killed, never left RUNNING."""

from __future__ import annotations

import functools
import importlib.metadata
import json
import logging
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from mlflow.entities import Param, Run
from mlflow.exceptions import MlflowException
from mlflow.utils.mlflow_tags import MLFLOW_PROJECT_ENV, MLFLOW_SOURCE_NAME, MLFLOW_SOURCE_TYPE, MLFLOW_USER

from skippy.errors import TrackingError
from skippy.redaction import redact
from skippy.tracking.connection import EXPERIMENT, Store
from skippy.tracking.declared import forget_declared_secrets
from skippy.tracking.outbox import end_of_run, tag_values
from skippy.tracking.places import local_path
from skippy.tracking.refusals import translate, translated_errors
from skippy.tracking.signals import RUN_ID_VARIABLE, Terminated, process_tag, stop_when_orphaned, terminating
from skippy.tracking.stage_run import StageRun, cut
from skippy.tracking.tags import NOTE_TAG, PARENT_TAG, Tag, link_tag

logger = logging.getLogger(__name__)

HYPERPARAMETER_PREFIX = "hp."
MAX_PARAM_LENGTH = 6000
PARAMS_PER_BATCH = 100


@contextmanager
def supervised(store: Store, name: str, tags: Mapping[str, str]) -> Iterator[StageRun]:
    """Begin a run, run a stage's body; whatever ends it, the run gets the status that says so."""
    with terminating() as signals:
        run, stub = begin(store, name, tags)
        late_status = "FAILED"
        try:
            run.set_tags(tags)
            yield run
            signals.is_ending, late_status = True, "FINISHED"
            run.settle()
            run.outbox.send(end_of_run("FINISHED", stub))
            run.outbox.settle()
        except (KeyboardInterrupt, Terminated) as error:
            signals.is_ending = True
            cause = error.name if isinstance(error, Terminated) else "Ctrl-C"
            _fail(store, run, stub, f"{cause}: the process was asked to stop", "KILLED", "KILLED")
            raise
        except BaseException as error:
            signals.is_ending = True
            _fail(
                store,
                run,
                stub,
                str(translate(error) or error) or type(error).__name__,
                "FAILED",
                late_status,
            )
            raise
        run.finish()


def _fail(store: Store, run: StageRun, stub: str | None, message: str, status: str, late_status: str) -> None:
    """End a run that did not succeed; why it ended matters more than a store that cannot take the note of it.

    Where something is kept in the outbox, so is `late_status`: what the run is once all that has arrived.
    """
    with suppress(OSError):
        run.spill()
    if run.outbox.is_waiting:
        message += f"\n\nWhat the store has not taken is kept in {run.outbox.folder}."
    note = f"{run.note}\n\n**{status}**\n\n```\n{message}\n```"
    told = {Tag.ERROR: message, NOTE_TAG: note}
    try:
        is_reachable = store.is_reachable()
        if run.outbox.is_waiting or not is_reachable:
            late = {NOTE_TAG: run.note} if late_status == "FINISHED" else told
            run.outbox.keep(tag_values({key: cut(redact(value)) for key, value in late.items()}))
            run.outbox.keep(end_of_run(late_status, stub))
        if not is_reachable:
            logger.warning("tracking: the end of run %s is kept in %s", run.run_id, run.outbox.folder)
            return
        run.set_tags(told, at_once=True)
        end_run(store, run.run_id, status, stub)
    except (TrackingError, MlflowException, OSError) as error:
        logger.warning(
            "tracking: the store could not be told that run %s is %s: %s", run.run_id, status, error
        )


def end_run(store: Store, run_id: str, status: str, stub: str | None = None) -> None:
    """Give a run its final status, and the run that points at it."""
    with translated_errors(f"run {run_id}, status {status}"):
        for ended in filter(None, (run_id, stub)):
            store.client.set_terminated(ended, status)


def begin(store: Store, name: str, tags: Mapping[str, str]) -> tuple[StageRun, str | None]:
    """Adopt the run that `mlflow run` made for this process, or make one; also the stub to end with it.

    A new run has its tags from the start; an adopted one gets them from the caller, under supervision.
    """
    adopted = _adoptable(store)
    stub = None
    name = redact(name)
    with translated_errors(f"start of run {name!r}"):
        if adopted is not None and adopted.info.experiment_id == store.experiment_id:
            store.client.set_tag(adopted.info.run_id, Tag.PROCESS, process_tag())
            store.client.update_run(adopted.info.run_id, status="RUNNING", name=name)
            info = adopted.info
        else:
            everything = {**_source_tags(adopted), **tags}
            clean = {key: redact(value) for key, value in everything.items()}
            info = store.client.create_run(store.experiment_id, tags=clean, run_name=name).info
            stub = None if adopted is None else _leave_stub(store, adopted, info.run_id)
    run = StageRun(store, info.run_id, info.artifact_uri)
    run.note = tags.get(NOTE_TAG, "")
    # MLflow names every manager but the one that makes no environment.
    run.manager = adopted.data.tags.get(MLFLOW_PROJECT_ENV, "local") if adopted else None
    return run, stub


def log_params(store: Store, run_id: str, params: Mapping[str, object]) -> None:
    """Log hyperparameters under a prefix of ours; declared parameters were logged by `mlflow run`, as typed."""
    entities = [Param(HYPERPARAMETER_PREFIX + key, _param_text(value)) for key, value in params.items()]
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


def claim_adopted_run(store: Store) -> None:
    """Say early whose the run of `mlflow run` is: a stage may hash a base for minutes before it begins."""
    run_id = os.environ.get(RUN_ID_VARIABLE)
    if run_id:
        with suppress(MlflowException):
            store.client.set_tag(run_id, Tag.PROCESS, process_tag())


def _adoptable(store: Store) -> Run | None:
    """The run MLFLOW_RUN_ID names; the variable is used up, so that a second stage starts its own."""
    run_id = os.environ.pop(RUN_ID_VARIABLE, "")
    if not run_id:
        return None
    stop_when_orphaned()
    try:
        run = store.client.get_run(run_id)
    except MlflowException:
        where = redact(store.uri)
        logger.warning("MLFLOW_RUN_ID %s is not in %s: a new run is started", run_id, where)
        return None
    forget_declared_secrets(store, run)
    return run


def _source_tags(adopted: Run | None) -> dict[str, str]:
    """What mlflow writes about where a run came from."""
    if adopted is not None:
        return {key: value for key, value in adopted.data.tags.items() if key != "mlflow.runName"}
    user = os.environ.get("USER") or os.environ.get("LOGNAME") or "unknown"
    return {MLFLOW_USER: user, MLFLOW_SOURCE_NAME: "skippy", MLFLOW_SOURCE_TYPE: "LOCAL"}


def _leave_stub(store: Store, adopted: Run, run_id: str) -> str:
    """The run `mlflow run` made is in another experiment: carry its parameters over, leave a pointer."""
    declared = [Param(key, redact(value)) for key, value in adopted.data.params.items()]
    store.client.log_batch(run_id, params=declared)
    stub = adopted.info.run_id
    store.client.set_tag(stub, Tag.MOVED_TO, run_id)
    store.client.set_tag(stub, NOTE_TAG, f"This is run {run_id} of the experiment `{EXPERIMENT}`.")
    logger.info("run %s is kept as %s in the experiment %s", stub, run_id, EXPERIMENT)
    return stub


def mark_dead(store: Store, run_id: str, reason: str) -> None:
    """Give a run whose process is gone the status KILLED and the reason; drop models it left half-written."""
    with translated_errors(f"run {run_id}"):
        run = store.client.get_run(run_id)
        note = run.data.tags.get(NOTE_TAG, "")
        for key, value in ((Tag.ERROR, reason), (NOTE_TAG, f"{note}\n\n**KILLED** {reason}")):
            store.client.set_tag(run_id, key, redact(value))
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
    return redact(text)[:MAX_PARAM_LENGTH]


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
        Tag.STAGE: stage,
        NOTE_TAG: note,
        Tag.VARIANT: variant,
        Tag.BASE_DIGEST: base_digest,
        Tag.CHARACTER: character,
        Tag.CODE_VERSION: commit,
        Tag.GIT_DIRTY: dirty,
        Tag.PROCESS: process_tag(),
        **{link_tag(key): value for key, value in links.items()},
        **nested,
    }

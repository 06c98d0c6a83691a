"""Stages as child runs: real MLproject entry points, two at once if asked, none left behind."""

from __future__ import annotations

import atexit
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from mlflow.entities import Run
from mlflow.exceptions import ExecutionException, MlflowException
from mlflow.projects.backend import loader
from mlflow.projects.submitted_run import LocalSubmittedRun
from mlflow.projects.utils import (
    PROJECT_BUILD_IMAGE,
    PROJECT_DOCKER_ARGS,
    PROJECT_DOCKER_AUTH,
    PROJECT_ENV_MANAGER,
    PROJECT_STORAGE_DIR,
    PROJECT_SYNCHRONOUS,
    load_project,
)
from mlflow.utils.mlflow_tags import MLFLOW_PROJECT_BACKEND, MLFLOW_PROJECT_ENTRY_POINT

from skippy.errors import TrackingError
from skippy.redaction import hide_credentials
from skippy.tracking.connection import Store, StoreAccess
from skippy.tracking.lifecycle import mark_dead
from skippy.tracking.records import RunRecord, to_record
from skippy.tracking.refusals import translated_errors
from skippy.tracking.signals import PARENT_VARIABLE, is_process_gone, process_tag, stop_hooks
from skippy.tracking.tags import PARENT_TAG, Tag

BACKEND = "local"
STOP_GRACE_SECONDS = 20.0
UNCLAIMED_SECONDS = 600.0
"""A run that `mlflow run` made and no stage took over by then belongs to a child that died while it imported."""
# `python` in MLproject must be this interpreter whether or not its environment is activated.
_path_lock = threading.Lock()
_running: set[StageProcess] = set()


class StageProcess:
    """A stage running as a child; `wait` for it, or `stop` it."""

    def __init__(self, store: Store, entry_point: str, submitted: LocalSubmittedRun) -> None:
        self.run_id: str = submitted.run_id
        self.entry_point = entry_point
        self._store = store
        self._process: subprocess.Popen[str] = submitted.command_proc
        _running.add(self)

    def poll(self) -> bool:
        """Whether it has ended."""
        return self._process.poll() is not None

    def wait(self) -> str:
        """Wait until it ends and return its run id; whatever interrupts the wait stops the child too.

        Raises:
            TrackingError: the stage failed; holds its message.
        """
        try:
            code = self._process.wait()
        except BaseException:
            self.stop()
            raise
        _running.discard(self)
        run = to_record(self._store.client.get_run(self.run_id))
        if code == 0 and run.status == "FINISHED":
            return self.run_id
        if run.status in ("RUNNING", "SCHEDULED"):
            mark_dead(self._store, self.run_id, _cause_of_death(code))
            run = to_record(self._store.client.get_run(self.run_id))
        raise TrackingError(
            f"The stage {self.entry_point} did not succeed.",
            where=f"run {self.run_id} {run.name!r}",
            expected="status FINISHED",
            found=f"{run.status}: {run.tags.get(Tag.ERROR, _cause_of_death(code))}",
            next_step=f"read its output above; run it alone with mlflow run . -e {self.entry_point} "
            "--env-manager local",
        )

    def ask_to_stop(self) -> None:
        """Send SIGTERM and return at once."""
        if self._process.poll() is None:
            self._process.terminate()

    def stop(self) -> None:
        """Ask it to end, then make it; its run is never left RUNNING."""
        if self._process.poll() is None:
            self.ask_to_stop()
            try:
                self._process.wait(STOP_GRACE_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        _running.discard(self)
        with suppress(MlflowException, TrackingError):
            if self._store.client.get_run(self.run_id).info.status in ("RUNNING", "SCHEDULED"):
                mark_dead(self._store, self.run_id, "stopped with its parent")


class Processes(StoreAccess):
    """Stages as child processes of a run."""

    def start(
        self, entry_point: str, parameters: Mapping[str, object], *, parent_run_id: str
    ) -> StageProcess:
        """Start an MLproject entry point as a child run of `parent_run_id` and return at once.

        Goes through the interface by which `mlflow.projects.run` runs a local project, so the child's run
        is made, tagged and given its declared parameters by mlflow. Calling `mlflow.projects.run` itself
        would either block without a handle to the process, or, asynchronously, put a second interpreter
        between us and the stage; and its nesting follows thread-local state, so that two stages started
        from threads would lose their parent.

        Raises:
            TrackingError: MLproject is missing, has no such entry point, or a parameter lacks a value.
        """
        root = self.store.root
        _check_entry_point(root, entry_point)
        _put_interpreter_first()
        config = {
            PROJECT_ENV_MANAGER: "local",
            PROJECT_SYNCHRONOUS: True,
            PROJECT_DOCKER_ARGS: None,
            PROJECT_STORAGE_DIR: None,
            PROJECT_BUILD_IMAGE: False,
            PROJECT_DOCKER_AUTH: None,
        }
        given, credentials = hide_credentials({key: str(value) for key, value in parameters.items()})
        try:
            with _environment({PARENT_VARIABLE: process_tag(), **credentials}):
                submitted = loader.load_backend(BACKEND).run(
                    str(root), entry_point, given, None, config, self.store.uri, self.store.experiment_id
                )
        except (ExecutionException, MlflowException) as error:
            raise TrackingError(
                f"The stage {entry_point} could not be started.",
                where=str(root / "MLproject"),
                found=str(error),
                next_step="check the parameters against MLproject",
            ) from error
        process = StageProcess(self.store, entry_point, submitted)
        try:
            with translated_errors(f"run {process.run_id}"):
                # A child that is killed while it still imports could not say whose run this is.
                if not self.client.get_run(process.run_id).data.tags.get(Tag.PROCESS):
                    self.client.set_tag(process.run_id, Tag.PROCESS, process_tag(submitted.command_proc.pid))
                self.client.set_tag(process.run_id, PARENT_TAG, parent_run_id)
                self.client.set_tag(process.run_id, MLFLOW_PROJECT_BACKEND, BACKEND)
        except BaseException:
            process.stop()
            raise
        return process

    def reap(self) -> list[str]:
        """Mark runs KILLED that say RUNNING although their process on this machine is gone; returns their ids."""
        stale = self.stale()
        for record, reason in stale:
            mark_dead(self.store, record.run_id, reason)
        return [record.run_id for record, _ in stale]

    def stale(self) -> list[tuple[RunRecord, str]]:
        """The runs that `reap` would mark, each with the reason."""
        with translated_errors("search for runs left behind"):
            running = self.client.search_runs(
                [self.store.experiment_id], "attributes.status = 'RUNNING'", max_results=1000
            )
        reasons = ((run, _reason_to_reap(run)) for run in running)
        return [(to_record(run), reason) for run, reason in reasons if reason]


def _reason_to_reap(run: Run) -> str:
    """Why a run that says RUNNING cannot be; empty where it may be."""
    tags = run.data.tags
    if Tag.PROCESS in tags:
        gone = is_process_gone(tags[Tag.PROCESS])
        return "the process ended without a word (kill -9, out of memory)" if gone else ""
    age_seconds = time.time() - run.info.start_time / 1000
    is_local = tags.get(MLFLOW_PROJECT_BACKEND, BACKEND) == BACKEND and MLFLOW_PROJECT_ENTRY_POINT in tags
    return "its stage never began" if is_local and age_seconds > UNCLAIMED_SECONDS else ""


@contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Variables for a child that mlflow starts: it hands on what this process has."""
    with _path_lock:
        before = {name: os.environ.get(name) for name in variables}
        os.environ.update(variables)
        try:
            yield
        finally:
            for name, value in before.items():
                if value is None:
                    del os.environ[name]
                else:
                    os.environ[name] = value


def _check_entry_point(root: Path, entry_point: str) -> None:
    """Fail before a run is made: mlflow would take an unknown name for a script's."""
    path = root / "MLproject"
    if not path.is_file():
        raise TrackingError(
            "There is no MLproject.",
            where=str(root),
            expected="the checkout of skippy",
            next_step="run from the checkout",
        )
    names = sorted(load_project(str(root))._entry_points)
    if entry_point not in names:
        raise TrackingError(
            "There is no such entry point.", where=str(path), expected=", ".join(names), found=entry_point
        )


def _put_interpreter_first() -> None:
    """Let `python` mean this interpreter for the children, also if its environment is not activated."""
    folder = str(Path(sys.executable).parent)
    with _path_lock:
        found = shutil.which("python")
        if found is None or str(Path(found).parent) != folder:
            os.environ["PATH"] = folder + os.pathsep + os.environ.get("PATH", "")


def _cause_of_death(code: int) -> str:
    """A sentence about an exit code; a shell in between reports signals as 128 + n."""
    number = -code if code < 0 else code - 128
    if number > 0:
        with suppress(ValueError):
            return f"killed by {signal.Signals(number).name}"
    return f"the process ended with exit code {code} before it could say why"


def _ask_all_to_stop() -> None:
    for process in list(_running):
        process.ask_to_stop()


stop_hooks.append(_ask_all_to_stop)


@atexit.register
def _stop_all() -> None:
    for process in list(_running):
        process.stop()

"""What a run logs while its store cannot take it: kept on disk in order, delivered once, then the run is ended.

A store that is locked, restarting or out of reach must neither stop a training nor lose a point of its curves.
Each delivery is one file (`000001.json`, with a directory beside it where it carries files) under
`.skippy/outbox/RUN_ID`; it is removed when the store has taken it. A delivery that was taken although the answer
was lost is sent twice and stored once: a metric is identified by run, name, step, time and value, the rest by name.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Metric, RunTag
from mlflow.exceptions import MlflowException
from requests import RequestException
from sqlalchemy.exc import SQLAlchemyError

from skippy.errors import TrackingError
from skippy.redaction import redact
from skippy.tracking.connection import Store, alone_at, open_store
from skippy.tracking.refusals import refused

logger = logging.getLogger(__name__)

FOLDER = "outbox"
LOCK_FILE = "lock"
PAUSE_SECONDS = 5.0
"""Between two tries while the work goes on."""
PATIENCE_SECONDS = 60.0
"""How long the end of a run waits for its store."""
POLL_SECONDS = 1.0
METRIC_FIELDS = ("key", "value", "timestamp", "step", "model_id", "dataset_name", "dataset_digest", "run_id")
OUTAGES = (RequestException, SQLAlchemyError, ConnectionError, TimeoutError)
REFUSALS = frozenset(
    {
        "INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST", "RESOURCE_ALREADY_EXISTS", "PERMISSION_DENIED",
        "UNAUTHENTICATED", "INVALID_STATE", "ENDPOINT_NOT_FOUND", "FEATURE_DISABLED", "CUSTOMER_UNAUTHORIZED",
    }
)  # fmt: skip
"""Answers of a store that is well: sending the same again would be refused again."""

Delivery = dict[str, Any]
"""`kind` metrics, tags, files or end, and what belongs to it, as plain JSON."""


class Outbox:
    """Deliveries of one run."""

    def __init__(self, store: Store, run_id: str) -> None:
        self.run_id = run_id
        self.folder = store.unfinished / FOLDER / run_id
        self.last_error = ""
        self._store = store
        self._lock: int | None = None
        self._tried = 0.0
        self._answered = 0.0
        self._deadline: float | None = None

    @property
    def is_waiting(self) -> bool:
        """Whether something is kept that the store does not have."""
        return bool(self._kept())

    def send(self, delivery: Delivery, files: Path | None = None) -> None:
        """Deliver, or keep in order behind what waits already.

        Raises:
            TrackingError: the store is well and refuses; nothing is kept.
        """
        if self.is_waiting:
            self.keep(delivery, files)
            if time.monotonic() - self._tried > PAUSE_SECONDS:
                self.deliver_kept()
            return
        try:
            self._require_answer()
            deliver(self._store.client, self.run_id, delivery, files)
            self._answered = time.monotonic()
        except Exception as error:
            if not is_outage(error):
                raise _refused(self.run_id, error) from error
            logger.warning("tracking: the store does not answer; what the run logs is kept until it does")
            self._failed(error)
            self.keep(delivery, files)

    def settle(self) -> None:
        """Deliver everything; called again, it is no more patient than before.

        Raises:
            TrackingError: the store did not come back in time; says where everything is and how to go on.
        """
        self._deadline = self._deadline or time.monotonic() + PATIENCE_SECONDS
        while not self.deliver_kept():
            if time.monotonic() > self._deadline:
                raise TrackingError(
                    "The tracking store did not take everything that this run logged; nothing is lost.",
                    where=str(self.folder),
                    expected=f"an answer within {PATIENCE_SECONDS:.0f} s after the work ended",
                    found=self.last_error,
                    next_step="bring the store back; the next stage delivers what is kept, "
                    "as does python -m skippy.tracking.outbox",
                )
            time.sleep(POLL_SECONDS)

    def deliver_kept(self) -> bool:
        """Try what is kept, oldest first; whether nothing is left.

        Raises:
            TrackingError: the store is well and refuses; the rest stays kept.
        """
        for path in self._kept():
            self._tried = time.monotonic()
            try:
                self._require_answer()
                delivery = json.loads(path.read_text(encoding="utf-8"))
                deliver(self._store.client, self.run_id, delivery, _payload(path))
            except Exception as error:
                if not is_outage(error):
                    raise _refused(str(path), error) from error
                self._failed(error)
                return False
            self._answered = time.monotonic()
            path.unlink()
            shutil.rmtree(path.with_suffix(""), ignore_errors=True)
        self._deadline = None
        self._close()
        return True

    def _require_answer(self) -> None:
        """Ask a server that was not heard of for a while whether it is there: its client would hang for minutes."""
        if time.monotonic() - self._answered > PAUSE_SECONDS and not self._store.is_reachable():
            raise ConnectionError("the server does not answer")

    def _failed(self, error: Exception) -> None:
        self.last_error = redact(str(error).splitlines()[0] if str(error) else type(error).__name__)
        self._tried = time.monotonic()

    def _kept(self) -> list[Path]:
        return sorted(self.folder.glob("[0-9]*.json"))

    def keep(self, delivery: Delivery, files: Path | None = None) -> None:
        """Put a delivery behind what waits already."""
        self.folder.mkdir(parents=True, exist_ok=True)
        if self._lock is None:
            self._lock = os.open(self.folder / LOCK_FILE, os.O_RDWR | os.O_CREAT)
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        before = self._kept()
        path = self.folder / f"{int(before[-1].stem) + 1 if before else 1:06d}.json"
        if files is not None:
            folder = path.with_suffix("")
            shutil.rmtree(folder, ignore_errors=True)  # half of it, where the disk was full
            folder.mkdir()
            if files.is_dir():
                shutil.copytree(files, folder / "files")
            else:
                shutil.copy2(files, folder / files.name)
        partial = path.with_suffix(".partial")
        with partial.open("w", encoding="utf-8") as file:
            json.dump(delivery, file, ensure_ascii=False, allow_nan=False)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)

    def _close(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None
        shutil.rmtree(self.folder, ignore_errors=True)


def deliver(client: MlflowClient, run_id: str, delivery: Delivery, files: Path | None) -> None:
    """Write one delivery; what was written before is not written twice."""
    match delivery["kind"]:
        case "metrics":
            points = [Metric(**dict(zip(METRIC_FIELDS, point, strict=True))) for point in delivery["points"]]
            client.log_batch(run_id, metrics=points)
        case "tags":
            client.log_batch(run_id, tags=[RunTag(key, value) for key, value in delivery["tags"].items()])
        case "files":
            assert files is not None
            log = client.log_artifacts if files.is_dir() else client.log_artifact
            log(run_id, str(files), delivery["into"] or None)
        case "end":
            for run in filter(None, (run_id, delivery["stub"])):
                client.set_terminated(run, delivery["status"])


def metric_points(metrics: list[Metric]) -> Delivery:
    """Metrics as a delivery."""
    return {"kind": "metrics", "points": [[getattr(m, name) for name in METRIC_FIELDS] for m in metrics]}


def tag_values(tags: dict[str, str]) -> Delivery:
    """Tags as a delivery."""
    return {"kind": "tags", "tags": tags}


def end_of_run(status: str, stub: str | None) -> Delivery:
    """The final status of a run, and of the run that points at it, as a delivery."""
    return {"kind": "end", "status": status, "stub": stub or ""}


def is_outage(error: Exception) -> bool:
    """Whether the same delivery may succeed later: the store is locked, gone or failing, not refusing."""
    if isinstance(error, MlflowException):
        return error.error_code not in REFUSALS
    response = getattr(error, "response", None)
    if response is not None:
        return bool(response.status_code >= 500)
    return isinstance(error, OUTAGES)


def deliver_left_behind(store: Store) -> list[str]:
    """Deliver what ended processes kept; ids of the runs that are complete now.

    Raises:
        TrackingError: the store refuses some of it.
    """
    complete: list[str] = []
    refused: TrackingError | None = None
    for outbox in left_behind(store):
        try:
            if not outbox.deliver_kept():
                break
        except TrackingError as error:
            refused = error
            continue
        complete.append(outbox.run_id)
        logger.info("tracking: run %s has everything now that it could not deliver", outbox.run_id)
    if refused is not None:
        raise refused
    return complete


def left_behind(store: Store) -> Iterator[Outbox]:
    """What ended processes kept and nobody delivered; nobody else gets at it while it is looked at."""
    for folder in sorted((store.unfinished / FOLDER).glob("*/")):
        (folder / LOCK_FILE).touch()
        with alone_at(folder / LOCK_FILE) as is_free:
            outbox = Outbox(store, folder.name)
            if is_free and outbox.is_waiting:
                yield outbox


def _payload(path: Path) -> Path | None:
    """The file or directory that belongs to a kept delivery."""
    folder = path.with_suffix("")
    if not folder.is_dir():
        return None
    (only,) = folder.iterdir()
    return only


def _refused(where: str, error: Exception) -> Exception:
    if isinstance(error, MlflowException | RequestException):
        return refused(error, f"run {where}")
    return error


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    deliver_left_behind(open_store())

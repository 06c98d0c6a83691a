"""The run a stage writes to: metrics in batches, artifacts, tags."""

from __future__ import annotations

import dataclasses
import json
import logging
import math
import posixpath
import re
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from mlflow.entities import Dataset as MlflowDataset
from mlflow.entities import DatasetInput, InputTag, Metric

from skippy.errors import TrackingError
from skippy.redaction import redact, redact_known
from skippy.tracking.connection import Store
from skippy.tracking.outbox import Outbox, deliver, metric_points, tag_values
from skippy.tracking.records import Dataset
from skippy.tracking.refusals import translated_errors
from skippy.tracking.signals import is_child
from skippy.tracking.tags import NOTE_TAG, Tag, link_tag

logger = logging.getLogger(__name__)

TABLES_TAG = "mlflow.loggedArtifacts"
"""Where MLflow's UI looks for tables."""
METRIC_NAME = re.compile(r"[A-Za-z0-9_\-. :/]+")
MAX_NAME_LENGTH = 250
MAX_TAG_LENGTH = 5000
MAX_TAGS_PER_BATCH = 100
MAX_DIGEST_LENGTH = 36
BATCH_SIZE = 800
BATCH_SECONDS = 5.0


class StageRun:
    """A running run. Metrics are buffered and written in batches; everything else goes at once.

    One SQLite transaction costs some ten milliseconds whatever it holds, so a step's metrics wait for at
    most `BATCH_SECONDS`; what a killed process may lose is that much of its curves, never an artifact. A store
    that is locked or gone stops nothing: what it cannot take is kept in the `outbox`, and a run ends FINISHED only
    when everything has arrived.
    """

    def __init__(self, store: Store, run_id: str, artifact_uri: str) -> None:
        self.run_id = run_id
        self.artifact_uri = artifact_uri
        self.note = ""
        # Environment manager of the `mlflow run` that started this stage; None: none did.
        self.manager: str | None = None
        self.outbox = Outbox(store, run_id)
        self._client = store.client
        self._waiting: list[Metric] = []
        self._flushed = time.monotonic()
        self._when_finished: list[Callable[[], None]] = []

    def say_next(self, command: str) -> None:
        """Tell a person what to type next; the child of another stage says nothing, for that one goes on itself."""
        if not is_child():
            logger.info("next: %s", command)

    def log_metrics(
        self,
        metrics: Mapping[str, float],
        step: int | None = None,
        model_id: str | None = None,
        dataset: Dataset | None = None,
    ) -> None:
        """Queue one value for each name.

        Args:
            metrics: finite numbers by name; names hold ASCII letters, digits, and `_ - . : /` or space.
            model_id: logged model the numbers are about.
            dataset: dataset they were measured on, from `log_dataset`.

        Raises:
            TrackingError: a name is illegal or a value not a finite number; nothing of this call is logged.
        """
        checked = {check_metric_name(name): check_metric_value(name, metrics[name]) for name in metrics}
        now = int(time.time() * 1000)
        name, digest = (dataset.name, dataset.digest) if dataset else (None, None)
        self._waiting.extend(
            Metric(key, value, now, step or 0, model_id, name, digest, self.run_id)
            for key, value in checked.items()
        )
        if len(self._waiting) >= BATCH_SIZE or time.monotonic() - self._flushed > BATCH_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Hand on the metrics that wait: to the store, or to the outbox while it cannot take them.

        Raises:
            TrackingError: the store is well and refuses them; they still wait.
        """
        while self._waiting:
            batch = self._waiting[:BATCH_SIZE]
            self.outbox.send(metric_points(batch))
            del self._waiting[: len(batch)]
        self._flushed = time.monotonic()

    def spill(self) -> None:
        """Hand on the metrics that wait; those that the store refuses are kept on disk."""
        try:
            self.flush()
        except TrackingError:
            self.outbox.keep(metric_points(self._waiting))
            self._waiting = []

    def settle(self) -> None:
        """Wait until the store has everything; `TrackingError` if it does not come back in time."""
        self.flush()
        self.outbox.settle()

    def when_finished(self, action: Callable[[], None]) -> None:
        """Have something done once the run is FINISHED, and only then: giving up unfinished work, for one."""
        self._when_finished.append(action)

    def finish(self) -> None:
        """Do what was to be done when the run is FINISHED."""
        while self._when_finished:
            self._when_finished.pop(0)()

    def set_tags(self, tags: Mapping[str, object], *, at_once: bool = False) -> None:
        """Set tags without secrets, values cut at `MAX_TAG_LENGTH` characters.

        Args:
            at_once: past everything that waits for the store, or not at all.
        """
        clean = [(key, cut(redact(str(value)))) for key, value in tags.items()]
        for start in range(0, len(clean), MAX_TAGS_PER_BATCH):
            delivery = tag_values(dict(clean[start : start + MAX_TAGS_PER_BATCH]))
            if at_once:
                with translated_errors(f"run {self.run_id}, tags"):
                    deliver(self._client, self.run_id, delivery, None)
            else:
                self.outbox.send(delivery)

    def describe(
        self,
        *,
        name: str | None = None,
        note: str | None = None,
        base_digest: str | None = None,
        links: Mapping[str, str] | None = None,
    ) -> None:
        """Fill in what was not known when the run began; what is left out stays."""
        if name is not None:
            with translated_errors(f"run {self.run_id}, name"):
                self._client.update_run(self.run_id, name=redact(name))
        if note is not None:
            self.note = note
        given = {NOTE_TAG: note, Tag.BASE_DIGEST: base_digest}
        tags = {key: value for key, value in given.items() if value is not None}
        tags.update({link_tag(stage): run_id for stage, run_id in (links or {}).items()})
        if tags:
            self.set_tags(tags)

    def log_json(self, content: object, artifact_path: str) -> None:
        """Write `content` (mappings, sequences, dataclasses, paths) as indented JSON; refuses inf and nan."""
        self.log_text(redact(to_json(content, artifact_path)), artifact_path)

    def log_text(self, text: str, artifact_path: str) -> None:
        """Write `text` as UTF-8 under `artifact_path`, without the secrets of this process's environment."""
        folder, name = posixpath.split(artifact_path)
        with tempfile.TemporaryDirectory() as scratch:
            path = Path(scratch) / name
            path.write_text(redact_known(text), encoding="utf-8", newline="")
            self._log_files(path, folder)

    def log_file(self, path: Path, artifact_dir: str = "") -> None:
        """Copy one file into `artifact_dir`, keeping its name."""
        if not Path(path).is_file():
            raise TrackingError("There is no such file to log.", where=str(path), expected="a file")
        self._log_files(Path(path), artifact_dir)

    def log_folder(self, folder: Path, artifact_dir: str = "") -> None:
        """Copy what `folder` holds into `artifact_dir`."""
        if not Path(folder).is_dir():
            raise TrackingError(
                "There is no such directory to log.", where=str(folder), expected="a directory"
            )
        self._log_files(Path(folder), artifact_dir)

    def _log_files(self, path: Path, artifact_dir: str) -> None:
        self.outbox.send({"kind": "files", "into": artifact_dir}, path)

    def log_table(self, rows: pd.DataFrame | Sequence[Mapping[str, Any]], artifact_path: str) -> None:
        """Write a table as Parquet under `artifact_path`."""
        table = rows if isinstance(rows, pd.DataFrame) else pd.DataFrame(list(rows))
        folder, name = posixpath.split(artifact_path)
        if not name.endswith(".parquet"):
            raise TrackingError(
                "Tables are kept as Parquet.", where=artifact_path, expected="a name in .parquet"
            )
        with tempfile.TemporaryDirectory() as scratch:
            table.to_parquet(Path(scratch) / name, index=False, compression="zstd")
            self.log_file(Path(scratch) / name, folder)

    def log_browsable_tables(self, tables: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
        """Write tables that MLflow's UI shows and sorts, and that `mlflow.load_table` reads.

        Args:
            tables: artifact path, a name in .json, → rows; empty tables are left out.
        """
        listed = []
        for path, rows in tables.items():
            if not rows:
                continue
            # `DataFrame.to_json(orient="split")`, as `mlflow.log_table` writes it.
            columns = list(dict.fromkeys(name for row in rows for name in row))
            data = [[row.get(name) for name in columns] for row in rows]
            self.log_json({"columns": columns, "data": data}, path)
            listed.append({"path": path, "type": "table"})
        if listed:
            self.set_tags({TABLES_TAG: json.dumps(listed)})

    def log_dataset(self, name: str, digest: str, source: str, context: str) -> Dataset:
        """Link a dataset to the run."""
        dataset = Dataset(name, digest[:MAX_DIGEST_LENGTH])
        entity = MlflowDataset(dataset.name, dataset.digest, "skippy", json.dumps({"uri": redact(source)}))
        inputs = [DatasetInput(entity, [InputTag("mlflow.data.context", context)])]
        with translated_errors(f"run {self.run_id}, dataset {name}"):
            self._client.log_inputs(self.run_id, datasets=inputs)
        return dataset


def check_metric_name(name: str) -> str:
    """Return `name` if mlflow takes it on every store, else raise `TrackingError`."""
    legal = METRIC_NAME.fullmatch(name) and len(name) <= MAX_NAME_LENGTH
    if not legal or posixpath.normpath(name) != name or name.startswith(("/", "..")) or name == ".":
        raise TrackingError(
            "This cannot be the name of a metric.",
            where=repr(name),
            expected="ASCII letters, digits, space and _ - . : with single slashes inside",
            next_step="spell it out, e.g. avg_at_k for avg@k",
        )
    return name


def check_metric_value(name: str, value: float) -> float:
    """Return `value` as a float if finite; the store would turn inf into 1.8e308."""
    number = float(value)
    if not math.isfinite(number):
        raise TrackingError(
            "A metric is not a finite number.",
            where=name,
            expected="a finite number",
            found=str(number),
            next_step="leave the metric out of this step, or find the division that made it",
        )
    return number


def to_json(content: object, where: str) -> str:
    """Strict, indented JSON of mappings, sequences, dataclasses and paths."""
    try:
        return json.dumps(content, indent=2, allow_nan=False, ensure_ascii=False, default=_plain) + "\n"
    except (TypeError, ValueError) as error:
        raise TrackingError(
            "This cannot be written as JSON.",
            where=where,
            expected="finite numbers, text, lists, mappings",
            found=str(error),
        ) from error


def _plain(value: object) -> object:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, set | frozenset):
        return sorted(value)
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} has no JSON form")


def cut(text: str) -> str:
    """The text as long as a tag may be."""
    return text if len(text) <= MAX_TAG_LENGTH else text[: MAX_TAG_LENGTH - 1] + "…"

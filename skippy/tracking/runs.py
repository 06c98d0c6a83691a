"""Runs that earlier stages left, and how a stage finds them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

from mlflow.exceptions import MlflowException

from skippy.errors import MissingRunError
from skippy.tracking.artifacts import Artifacts
from skippy.tracking.connection import EXPERIMENT, Store, StoreAccess, every
from skippy.tracking.records import MetricPoint, RunRecord, to_record
from skippy.tracking.refusals import translated_errors
from skippy.tracking.tags import LINK_PREFIX, Tag

PAGE_SIZE = 1000
SMALL_PAGE = 100
"""Where a caller stops at the first that fit."""
NOTHING: Mapping[str, str] = {}
SHORT_ID = re.compile(r"[0-9a-f]{4,31}")
SHOWN_IDS = 5
CONFIG_FILE = "config.json"
"""Artifact with the typed parameters of a run."""


class Runs(StoreAccess):
    """What the store holds of earlier stages: runs by id or by kind, their parameters and their curves."""

    def __init__(self, store: Store, artifacts: Artifacts) -> None:
        super().__init__(store)
        self._artifacts = artifacts

    def get(self, run_id: str, *, stage: str | None = None) -> RunRecord:
        """Read a finished run.

        Args:
            stage: what it must be a run of; None takes any.

        Raises:
            MissingRunError: unknown, of another stage, or not finished; each says so.
        """
        record = self.read(run_id)
        if stage is not None and record.stage != stage:
            raise MissingRunError(
                "The run is of another stage.",
                where=run_id,
                expected=f"a finished {stage} run",
                found=f"{record.stage or 'a foreign'} run {record.name!r}",
                next_step=_command(stage, NOTHING),
            )
        if record.status != "FINISHED":
            reason = record.tags.get(Tag.ERROR, "").splitlines()
            detail = f" ({reason[0]})" if reason else ""
            what = "has not finished" if record.status in ("RUNNING", "SCHEDULED") else "did not succeed"
            raise MissingRunError(
                f"The run {what}.",
                where=f"{record.stage} run {run_id} {record.name!r}",
                expected="status FINISHED",
                found=record.status + detail,
                next_step=_command(record.stage, NOTHING) + ", or give another run id",
            )
        return record

    def read(self, run_id: str) -> RunRecord:
        """Read a run whatever its stage and status; `run_id` may be its first digits.

        Raises:
            MissingRunError: there is none, or several begin so.
        """
        try:
            found = self.store.client.get_run(self._in_full(run_id))
        except MlflowException as error:
            raise MissingRunError(
                "There is no such run.",
                where=run_id,
                expected=f"a run id, or its first digits (at least 4), in {self.store.uri}",
                found=f"no run that begins so: {error}",
                next_step="skippy runs lists the ids, skippy models the versions",
            ) from error
        record = to_record(found)
        if found.info.lifecycle_stage == "deleted":
            raise MissingRunError(
                "The run is deleted.",
                where=f"{record.stage} run {record.run_id} {record.name!r}",
                expected="a run that is there",
                found="lifecycle stage deleted",
                next_step=f"give another run id, or bring it back: mlflow runs restore --run-id {record.run_id}",
            )
        moved = record.tags.get(Tag.MOVED_TO)
        return self.read(moved) if moved else record

    def _in_full(self, run_id: str) -> str:
        """The one run id that begins with `run_id`; itself where none does."""
        if not SHORT_ID.fullmatch(run_id):
            return run_id
        with translated_errors(f"run {run_id}…"):
            runs = self.store.client.search_runs(
                [self.store.experiment_id], f"attributes.run_id LIKE '{run_id}%'", max_results=SHOWN_IDS + 1
            )
        if len(runs) > 1:
            more = ", …" if len(runs) > SHOWN_IDS else ""
            raise MissingRunError(
                "Several runs begin with these digits.",
                where=run_id,
                expected="as many digits as tell one run from the others",
                found=", ".join(f"{run.info.run_id} {run.info.run_name}" for run in runs[:SHOWN_IDS]) + more,
                next_step="give more digits",
            )
        return str(runs[0].info.run_id) if runs else run_id

    def newest(self, limit: int, *, stage: str = "") -> list[RunRecord]:
        """The newest runs of skippy, whatever their status; of one stage or of all."""
        clause = _clause(Tag.STAGE, stage) if stage else f"tags.`{Tag.STAGE}` LIKE '%'"
        with translated_errors("search for runs"):
            runs = self.store.client.search_runs(
                [self.store.experiment_id], clause, max_results=limit, order_by=["attributes.start_time DESC"]
            )
        return [to_record(run) for run in runs]

    def config(self, run_id: str) -> dict[str, Any]:
        """The typed parameters that a run was started with."""
        return dict(json.loads(self._artifacts.path(run_id, CONFIG_FILE).read_text()))

    def find(
        self,
        stage: str,
        *,
        base_digest: str | None = None,
        variant: str | None = None,
        character: str | None = None,
        extra_tags: Mapping[str, str] = NOTHING,
        make_with: Mapping[str, str] = NOTHING,
    ) -> RunRecord:
        """The newest finished run of a kind.

        Args:
            base_digest: digest of the base it is about; None takes any, as do the next two.
            extra_tags: further tags it must carry.
            make_with: parameters to show in the command that would make one, e.g. `{"base_model": "lab"}`.

        Raises:
            MissingRunError: there is none; says what there is and which command makes one.
        """
        wanted = _wanted(stage, base_digest, variant, character, extra_tags)
        for record in self._search(wanted, finished=True, page=1):
            return record
        others = list(islice(self._search({Tag.STAGE: stage}, finished=False), PAGE_SIZE))
        described = ", ".join(
            f"{key.removeprefix(LINK_PREFIX)} {_short(value)}" for key, value in wanted.items()
        )
        given = {"model" if stage == "eval" else "variant": variant, "character": character}
        shown = {**{key: value for key, value in given.items() if value}, **make_with}
        raise MissingRunError(
            f"There is no finished {stage} run of the kind needed.",
            where=f"experiment {EXPERIMENT} in {self.store.uri}",
            expected=described,
            found=_inventory(stage, others),
            next_step=_command(stage, shown),
        )

    def find_all(
        self,
        stage: str,
        *,
        base_digest: str | None = None,
        variant: str | None = None,
        character: str | None = None,
        extra_tags: Mapping[str, str] = NOTHING,
        finished: bool = True,
    ) -> list[RunRecord]:
        """All finished runs of a kind that hold results, newest first; with `finished=False` all there are.

        A run that took over an earlier one holds none: that one is in the list.
        """
        wanted = _wanted(stage, base_digest, variant, character, extra_tags)
        if not finished:
            return list(self._search(wanted, finished=False))
        return list(self.each(stage, extra_tags=wanted, page=PAGE_SIZE))

    def each(
        self,
        stage: str,
        *,
        extra_tags: Mapping[str, str] = NOTHING,
        below: tuple[str, float] | None = None,
        page: int = SMALL_PAGE,
    ) -> Iterator[RunRecord]:
        """The same finished runs one by one: the store reads no further than the caller does.

        Args:
            below: a metric and a value: only runs below it, the lowest first.
        """
        for record in self._search({Tag.STAGE: stage, **extra_tags}, finished=True, page=page, below=below):
            if Tag.REUSES not in record.tags:
                yield record

    def metric_history(self, run_id: str, key: str) -> list[MetricPoint]:
        """Every value of one metric, by step; empty if it was never logged."""
        with translated_errors(f"run {run_id}, metric {key}"):
            points = self.store.client.get_metric_history(run_id, key)
        history = [MetricPoint(point.step, point.value, point.timestamp) for point in points]
        return sorted(history, key=lambda point: (point.step, point.timestamp))

    def _search(
        self,
        wanted: Mapping[str, str],
        finished: bool,
        page: int = PAGE_SIZE,
        below: tuple[str, float] | None = None,
    ) -> Iterator[RunRecord]:
        """Runs of the experiment with these tags, newest or lowest first; the next page when it is needed."""
        clauses = [_clause(key, value) for key, value in wanted.items()]
        if finished:
            clauses.append("attributes.status = 'FINISHED'")
        is_exact = not any(" LIKE " in clause for clause in clauses)
        order = ["attributes.start_time DESC"]
        if below:
            name, value = below
            clauses.append(f"metrics.`{name}` < {value!r}")
            order = [f"metrics.`{name}` ASC", *order]
        runs = every(
            self.store.client.search_runs,
            [self.store.experiment_id],
            " AND ".join(clauses),
            max_results=page if is_exact else PAGE_SIZE,
            order_by=order,
        )
        with translated_errors("search for runs"):
            for record in map(to_record, runs):
                if is_exact or wanted.items() <= record.tags.items():
                    yield record


def _wanted(
    stage: str,
    base_digest: str | None,
    variant: str | None,
    character: str | None,
    extra_tags: Mapping[str, str],
) -> dict[str, str]:
    given = {Tag.STAGE: stage, Tag.BASE_DIGEST: base_digest, Tag.VARIANT: variant, Tag.CHARACTER: character}
    return {**{key: value for key, value in given.items() if value is not None}, **extra_tags}


def _clause(key: str, value: str) -> str:
    """A filter on a tag. MLflow knows no escape, but two kinds of quotes and `_` for any character.

    Where `value` holds both kinds the filter finds more than it should; `_search` looks again.
    """
    if "'" not in value:
        return f"tags.`{key}` = '{value}'"
    if '"' not in value:
        return f'tags.`{key}` = "{value}"'
    pattern = value.replace("'", "_")
    return f"tags.`{key}` LIKE '{pattern}'"


def _inventory(stage: str, runs: list[RunRecord]) -> str:
    """One line on what there is instead."""
    if not runs:
        return f"no {stage} run at all"
    parts = []
    for status in sorted({run.status for run in runs}):
        kinds = sorted({_kind(run) for run in runs if run.status == status})
        count = sum(run.status == status for run in runs)
        parts.append(f"{count} {status} ({'; '.join(kinds[:4])}{'; …' if len(kinds) > 4 else ''})")
    return ", ".join(parts)


def _kind(run: RunRecord) -> str:
    labels = [run.variant, f"base {run.base_digest[:12]}" if run.base_digest else "base unknown"]
    return " ".join(label for label in labels if label)


def _short(value: str) -> str:
    return f"{value[:12]}…" if len(value) == 64 else value  # a digest


def _command(stage: str, params: Mapping[str, str]) -> str:
    shown = "".join(f" -P {key}={value}" for key, value in params.items())
    return f"mlflow run . -e {stage} --env-manager local{shown}" if stage else "choose a run of skippy"

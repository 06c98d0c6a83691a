"""What is read back from the store: frozen, in our words, without mlflow's types."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from mlflow.entities import Run

from skippy.tracking.tags import PARENT_TAG, Tag, link_tag


@dataclass(frozen=True)
class RunRecord:
    """A run as it stands in the store."""

    run_id: str  # mlflow's id
    name: str  # what the UI shows
    stage: str  # tag `skippy.stage`, empty for a foreign run
    status: str  # RUNNING, FINISHED, FAILED or KILLED
    tags: Mapping[str, str]  # all of them, mlflow's own included
    params: Mapping[str, str]  # all of them; ours as `hp.NAME`
    metrics: Mapping[str, float]  # the last value of each
    start_time: int  # milliseconds since the epoch
    end_time: int | None  # the same, None while running
    artifact_uri: str  # where its artifacts are

    @property
    def variant(self) -> str:
        """Tag `skippy.variant`, empty where none applies."""
        return self.tags.get(Tag.VARIANT, "")

    @property
    def character(self) -> str:
        """Tag `skippy.character`, empty where none applies."""
        return self.tags.get(Tag.CHARACTER, "")

    @property
    def base_digest(self) -> str:
        """Tag `skippy.base_digest`, empty where unknown."""
        return self.tags.get(Tag.BASE_DIGEST, "")

    @property
    def parent(self) -> str | None:
        """Run id of the parent, None for a run on its own."""
        return self.tags.get(PARENT_TAG)

    def link(self, stage: str) -> str:
        """Run id under `skippy.<stage>_run`, empty if not linked."""
        return self.tags.get(link_tag(stage), "")


@dataclass(frozen=True)
class MetricPoint:
    """One value of a metric."""

    step: int
    value: float
    timestamp: int


@dataclass(frozen=True)
class Dataset:
    """A dataset linked to a run; pass it to `log_metrics`."""

    name: str
    digest: str


def to_record(run: Run) -> RunRecord:
    """Read mlflow's run."""
    tags = dict(run.data.tags)
    return RunRecord(
        run_id=run.info.run_id,
        name=run.info.run_name or "",
        stage=tags.get(Tag.STAGE, ""),
        status=run.info.status,
        tags=tags,
        params=dict(run.data.params),
        metrics=dict(run.data.metrics),
        start_time=run.info.start_time,
        end_time=run.info.end_time,
        artifact_uri=run.info.artifact_uri,
    )

"""What a training run logged of its character, read back: for its own figures after `train`, and for `compare`."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Any

import pandas as pd

from skippy.core.personality.measurement import TargetDelta
from skippy.results import CharacterHistory, TrajectoryPoint
from skippy.tracking.tracker import Tracker

TABLES = "character_deltas"
POOLED = ("personality_energy_ratio", "null_z", "null_low", "null_high", "chance")
"""In the order of `TrajectoryPoint`."""
TRAIT_PREFIX, TRAIT_NULL_PREFIX = "character/trait/", "character/trait_null/"


def read_history(tracker: Tracker, run_id: str, variant: str, character: str) -> CharacterHistory:
    """Curves from the run's metrics, targets from its newest table; empty where nothing was measured."""
    step, targets = _newest_table(tracker, run_id)
    traits, nulls = (_profiles(tracker, run_id, prefix) for prefix in (TRAIT_PREFIX, TRAIT_NULL_PREFIX))
    return CharacterHistory(
        character=character,
        variant=variant,
        points=read_trajectory(tracker, run_id),
        step=step,
        targets=targets,
        traits=traits,
        trait_null=nulls.get(max(traits, default=0), {}),
    )


def read_trajectory(tracker: Tracker, run_id: str) -> tuple[TrajectoryPoint, ...]:
    """The pooled character delta of every measured step, ascending."""
    pooled = [read_curve(tracker, run_id, f"character/{name}") for name in POOLED]
    steps = sorted(set.intersection(*(set(curve) for curve in pooled)))
    return tuple(TrajectoryPoint(step, *(curve[step] for curve in pooled)) for step in steps)


def _profiles(tracker: Tracker, run_id: str, prefix: str) -> dict[int, dict[str, float]]:
    """Step → trait → value, steps ascending, traits by name."""
    names = sorted(name for name in tracker.runs.read(run_id).metrics if name.startswith(prefix))
    profiles: dict[int, dict[str, float]] = {}
    for name in names:
        for step, value in read_curve(tracker, run_id, name).items():
            profiles.setdefault(step, {})[name.removeprefix(prefix)] = value
    return dict(sorted(profiles.items()))


def read_curve(tracker: Tracker, run_id: str, metric: str) -> dict[int, float]:
    """Step → the last value logged for it."""
    return {point.step: point.value for point in tracker.runs.metric_history(run_id, metric)}


def _newest_table(tracker: Tracker, run_id: str) -> tuple[int, list[TargetDelta]]:
    """The last `step_NNNNNN.parquet`; step 0 and no rows where there is none."""
    tables = [path for path in tracker.artifacts.files(run_id, TABLES) if path.endswith(".parquet")]
    if not tables:
        return 0, []
    newest = max(tables, key=_step_of)
    rows = pd.read_parquet(tracker.artifacts.path(run_id, newest)).to_dict("records")
    return _step_of(newest), [_to_target(row) for row in rows]


def _to_target(row: dict[Any, Any]) -> TargetDelta:
    return TargetDelta(**{**row, "singular_values": tuple(row["singular_values"])})


def _step_of(path: str) -> int:
    return int(PurePosixPath(path).stem.removeprefix("step_"))

"""What a training run logged of its character, read back from the run and drawn into it.

Not a stage: `train` calls it once at the end.
"""

from __future__ import annotations

import logging
from pathlib import PurePosixPath
from typing import Any

import pandas as pd

from skippy.core.character import TargetDelta
from skippy.errors import SkippyError
from skippy.report.character_figures import CharacterHistory, draw_character_figures
from skippy.results import TrajectoryPoint
from skippy.tracking.runs import Tracker
from skippy.tracking.stage_run import StageRun

logger = logging.getLogger(__name__)

TABLES, FIGURES = "character_deltas", "character_figures"
POOLED = ("personality_energy_ratio", "null_z", "null_low", "null_high", "chance")
"""In the order of `TrajectoryPoint`."""
TRAIT_PREFIX, TRAIT_NULL_PREFIX = "character/trait/", "character/trait_null/"


def log_character_figures(tracker: Tracker, stage: StageRun, variant: str, character: str) -> None:
    """Draw what the run measured and keep it as `character_figures/*.svg`.

    The adapter is trained and logged by now: figures that cannot be made are a warning, not a failed run.
    """
    try:
        stage.flush()
        figures = draw_character_figures(read_history(tracker, stage.run_id, variant, character))
        for name, drawing in figures.items():
            stage.log_text(drawing, f"{FIGURES}/{name}")
    except SkippyError as error:
        logger.warning("train: no figures of the character deltas. %s", error)


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
    pooled = [_curve(tracker, run_id, f"character/{name}") for name in POOLED]
    steps = sorted(set.intersection(*(set(curve) for curve in pooled)))
    return tuple(TrajectoryPoint(step, *(curve[step] for curve in pooled)) for step in steps)


def _profiles(tracker: Tracker, run_id: str, prefix: str) -> dict[int, dict[str, float]]:
    """Step → trait → value, steps ascending, traits by name."""
    names = sorted(name for name in tracker.read(run_id).metrics if name.startswith(prefix))
    profiles: dict[int, dict[str, float]] = {}
    for name in names:
        for step, value in _curve(tracker, run_id, name).items():
            profiles.setdefault(step, {})[name.removeprefix(prefix)] = value
    return dict(sorted(profiles.items()))


def _curve(tracker: Tracker, run_id: str, metric: str) -> dict[int, float]:
    """Step → the last value logged for it."""
    return {point.step: point.value for point in tracker.metric_history(run_id, metric)}


def _newest_table(tracker: Tracker, run_id: str) -> tuple[int, list[TargetDelta]]:
    """The last `step_NNNNNN.parquet`; step 0 and no rows where there is none."""
    tables = [path for path in tracker.list_artifacts(run_id, TABLES) if path.endswith(".parquet")]
    if not tables:
        return 0, []
    newest = max(tables, key=_step_of)
    rows = pd.read_parquet(tracker.artifact(run_id, newest)).to_dict("records")
    return _step_of(newest), [_to_target(row) for row in rows]


def _to_target(row: dict[Any, Any]) -> TargetDelta:
    return TargetDelta(**{**row, "singular_values": tuple(row["singular_values"])})


def _step_of(path: str) -> int:
    return int(PurePosixPath(path).stem.removeprefix("step_"))

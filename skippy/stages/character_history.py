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
from skippy.report.character_figures import CharacterHistory, CharacterPoint, draw_character_figures
from skippy.tracking.runs import Tracker
from skippy.tracking.stage_run import StageRun

logger = logging.getLogger(__name__)

TABLES, FIGURES = "character_deltas", "character_figures"
POOLED = ("personality_energy_ratio", "chance", "null_low", "null_high", "null_z")
TRAIT_PREFIX = "character/trait/"


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
    pooled = [_curve(tracker, run_id, f"character/{name}") for name in POOLED]
    steps = sorted(set.intersection(*(set(curve) for curve in pooled)))
    step, targets = _newest_table(tracker, run_id)
    return CharacterHistory(
        character=character,
        variant=variant,
        points=[CharacterPoint(step, *(curve[step] for curve in pooled)) for step in steps],
        step=step,
        targets=targets,
        traits=_traits(tracker, run_id),
    )


def _traits(tracker: Tracker, run_id: str) -> dict[int, dict[str, float]]:
    """Step → trait → value, steps ascending, traits by name."""
    names = sorted(name for name in tracker.read(run_id).metrics if name.startswith(TRAIT_PREFIX))
    profiles: dict[int, dict[str, float]] = {}
    for name in names:
        for step, value in _curve(tracker, run_id, name).items():
            profiles.setdefault(step, {})[name.removeprefix(TRAIT_PREFIX)] = value
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

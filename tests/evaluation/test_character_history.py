"""What training logged of its character is read back whole, and nothing it lacks fails a finished training."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest

from skippy.core.personality.measurement import TargetDelta
from skippy.errors import TrackingError
from skippy.evaluation.character_history import read_history
from skippy.stages.train import draw_history
from skippy.tracking.records import MetricPoint


@dataclass
class WrittenRun:
    """A tracker and a stage run in one, over a folder and a table of metric values by step."""

    folder: Path
    curves: Mapping[str, Mapping[int, float]]
    run_id: str = "r"
    is_flushed: bool = False
    logged: dict[str, str] = field(default_factory=dict)

    def flush(self):
        self.is_flushed = True

    def metric_history(self, run_id, key):
        assert self.is_flushed, "buffered metrics would be missing"
        return [MetricPoint(step, value, 0) for step, value in self.curves.get(key, {}).items()]

    def read(self, run_id):
        return SimpleNamespace(metrics={name: 0.0 for name in self.curves})

    @property
    def runs(self):
        return self

    @property
    def artifacts(self):
        return self

    def files(self, run_id, path=""):
        return sorted(str(file.relative_to(self.folder)) for file in self.folder.glob(f"{path}/*"))

    def path(self, run_id, path):
        return self.folder / path

    def log_text(self, text, path):
        self.logged[path] = text


def one_target(step: int) -> TargetDelta:
    return TargetDelta(
        *("layers.0.q_proj", 0, "q_proj", "reads", 7),
        *(1.5, 0.4, 0.1 * step, 0.03, 0.08, 0.01, 0.06, 0.1, 2.0),
        singular_values=(0.5, 0.25),
    )


@pytest.fixture
def run(tmp_path: Path) -> WrittenRun:
    (tmp_path / "character_deltas").mkdir()
    for step in (2, 10):
        rows = pd.DataFrame([asdict(one_target(step))])
        rows.to_parquet(tmp_path / f"character_deltas/step_{step:06d}.parquet", index=False)
    names = ("personality_energy_ratio", "null_z", "null_low", "null_high", "chance")
    curves = {f"character/{name}": {2: 0.1, 10: 0.2 + n} for n, name in enumerate(names)}
    curves |= {f"character/trait/{name}": {2: 0.0, 10: 0.5} for name in ("a", "b", "c")}
    curves |= {f"character/trait_null/{name}": {2: 0.1, 10: 0.3} for name in ("a", "b", "c")}
    return WrittenRun(tmp_path, curves)


def test_curves_traits_and_the_newest_table_come_back(run):
    run.flush()
    history = read_history(run, "r", "v4", "skippy")
    assert [point.step for point in history.points] == [2, 10]
    assert asdict(history.points[1]) == {
        "step": 10, "ratio": 0.2, "null_z": 1.2, "null_low": 2.2, "null_high": 3.2, "chance": 4.2,
    }  # fmt: skip
    assert history.step == 10
    assert history.targets == [one_target(10)]
    assert history.trait_null == {"a": 0.3, "b": 0.3, "c": 0.3}
    assert history.traits == {2: {"a": 0.0, "b": 0.0, "c": 0.0}, 10: {"a": 0.5, "b": 0.5, "c": 0.5}}


def test_figures_are_logged_after_the_metrics_were_written(run):
    draw_history(run, run, "v4", "skippy")
    assert set(run.logged) == {f"character_figures/{n}.svg" for n in ("trajectory", "targets", "traits")}


def test_a_step_without_an_update_is_no_point(run):
    run.curves = {**run.curves, "character/personality_energy_ratio": {10: 0.2}}
    run.flush()
    assert [point.step for point in read_history(run, "r", "v4", "skippy").points] == [10]


def test_a_run_without_a_reference_has_no_figures(tmp_path):
    run = WrittenRun(tmp_path, {})
    draw_history(run, run, "v4", "skippy")
    assert run.logged == {}


def test_a_store_that_refuses_costs_the_figures_and_not_the_training(run, caplog, monkeypatch):
    def refuse(text, path):
        raise TrackingError("The tracking store refused.", where=path)

    monkeypatch.setattr(run, "log_text", refuse)
    with caplog.at_level(logging.WARNING):
        draw_history(run, run, "v4", "skippy")
    assert "no figures of the character deltas" in caplog.text

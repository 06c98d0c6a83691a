"""The curves of a run, in our names and batched, and the completions behind them.

transformers' own MLflow callback loses all its parameters if one clashes and logs every checkpoint; TRL's
table of completions goes to other trackers only. Both are off.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from transformers import TrainerCallback

from skippy.core.spectral import lora
from skippy.core.spectral.constraints import Leakage, OrthogonalConstraint
from skippy.progress import Progress
from skippy.training.plan import CompletionStatistics, RunSink

SAMPLES_DIRECTORY = "samples"
SAMPLES_FILE = "training.jsonl"

# What TRL and transformers call a number, and what the run calls it.
METRICS = {
    "loss": "train/loss",
    "reward": "train/reward",
    "reward_std": "train/reward_std",
    "frac_reward_zero_std": "train/groups_without_signal",
    "kl": "train/kl",
    "entropy": "train/entropy",
    "grad_norm": "train/grad_norm",
    "learning_rate": "train/learning_rate",
    "completions/mean_length": "train/completion_length_mean",
    "completions/max_length": "train/completion_length_max",
    "completions/clipped_ratio": "train/completions_truncated",
    "clip_ratio/region_mean": "train/ratio_clipped",
}
REWARD_PREFIX, REWARD_SUFFIX = "rewards/", "/mean"

GLANCE = {
    "reward": "train/reward",
    "persona": "train/rewards/personality",
    "length": "train/completion_length_mean",
}


@dataclass
class _Standing:
    """A metric's value since step `logged`, seen again up to step `last`."""

    value: float
    logged: int
    last: int
    has_moved: bool


class TrackingCallback(TrainerCallback):
    """Hands every logging step to the run as one batch, keeps completions, and shows progress.

    Only the first process logs. The numbers of all steps stay in `history`.

    Args:
        measured: the adapter beside the base's top-k directions; None measures no leakage.
        own: the adapter beside the directions that its variant protects, where those are others.
    """

    def __init__(
        self,
        run: RunSink,
        label: str,
        output_dir: Path,
        measured: OrthogonalConstraint | None,
        own: OrthogonalConstraint | None = None,
    ) -> None:
        self.run = run
        self.label = label
        self.samples = output_dir / SAMPLES_DIRECTORY / SAMPLES_FILE
        self.measured, self.own = measured, own
        self.completions: Mapping[str, Any] = {}
        self.history: list[dict[str, float]] = []
        self.step_seconds: list[float] = []
        self._stood: dict[str, _Standing] = {}
        self._bar: Progress | None = None
        self._began = 0.0

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Open the bar; forget what a killed run logged beyond the checkpoint it is resumed from."""
        if not state.is_world_process_zero:
            return
        self.history = [rename(log) for log in state.log_history if "reward" in log]
        self.samples.parent.mkdir(parents=True, exist_ok=True)
        _drop_later_steps(self.samples, state.global_step)
        self._bar = Progress(self.label, state.max_steps).__enter__()
        self._bar.advance(state.global_step)

    def go_on(self, standing: Mapping[str, tuple[float, int, bool]], step: int) -> None:
        """Take up what an earlier process logged up to `step`: metric → last value, its step, whether it ever moved."""
        self._stood = {
            name: _Standing(value, logged, step, has_moved)
            for name, (value, logged, has_moved) in standing.items()
        }

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Start the step's clock."""
        self._began = time.perf_counter()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Stop it: generation, both passes, projections and the optimizer are in."""
        self.step_seconds.append(time.perf_counter() - self._began)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict | None = None, **kwargs: Any) -> None:
        """Log one point of every curve; TRL's closing summary, which has no reward, is left out."""
        if not state.is_world_process_zero or not logs or "reward" not in logs:
            return
        metrics = rename(logs) | {"train/step_seconds": self.step_seconds[-1]}
        if self.measured is not None:
            metrics |= leakage_metrics(self.measured)
        if self.own is not None:
            metrics |= own_leakage_metrics(self.own)
        self.history.append(metrics)
        self._log_moving(
            at_a_glance(metrics) | metrics, state.global_step, is_last=state.global_step >= state.max_steps
        )
        self._keep_completions(state.global_step)
        if self._bar is not None:
            self._bar.advance(
                state.global_step - self._bar.done,
                reward=f"{metrics.get('train/reward', math.nan):.2f}",
                length=f"{metrics.get('train/completion_length_mean', math.nan):.0f}",
            )

    def _log_moving(self, metrics: Mapping[str, float], step: int, *, is_last: bool) -> None:
        """Log what has changed since the last step; a constant stays one point, which no chart draws as a curve.

        Where a value moves after standing still, the end of the standing is logged first, and the last step closes
        every curve: what is drawn between the points is what was measured.
        """
        before: dict[int, dict[str, float]] = {}
        now: dict[str, float] = {}
        for name, value in metrics.items():
            stood = self._stood.get(name)
            if stood is None or stood.value != value or (is_last and stood.has_moved):
                if stood and stood.value != value and stood.last > stood.logged:
                    before.setdefault(stood.last, {})[name] = stood.value
                now[name] = value
                has_moved = stood is not None and (stood.has_moved or stood.value != value)
                self._stood[name] = _Standing(value, step, step, has_moved)
            else:
                stood.last = step
        for earlier, values in sorted(before.items()):
            self.run.log_metrics(values, step=earlier)
        if now:
            self.run.log_metrics(now, step=step)

    def __enter__(self) -> TrackingCallback:
        """Enclose training; the bar opens when its length is known."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the bar and log the completions, those of a failed run too."""
        if self._bar is None:
            return
        self._bar.__exit__(kind, error, trace)
        self._bar = None
        if self.samples.is_file():
            self.run.log_folder(self.samples.parent, SAMPLES_DIRECTORY)

    def reward_means(self) -> tuple[float, float]:
        """Mean reward over the first and over the last tenth of the logged steps."""
        rewards = [point["train/reward"] for point in self.history if "train/reward" in point]
        share = max(1, len(rewards) // 10)
        return _mean(rewards[:share]), _mean(rewards[-share:])

    def completion_statistics(self) -> CompletionStatistics:
        """Lengths and truncation over the last tenth of the logged steps."""
        points = self.history[-max(1, len(self.history) // 10) :]
        return CompletionStatistics(
            mean_length=_mean([p["train/completion_length_mean"] for p in points]),
            max_length=max((p["train/completion_length_max"] for p in points), default=math.nan),
            truncated=_mean([p["train/completions_truncated"] for p in points]),
            steps=len(points),
        )

    def _keep_completions(self, step: int) -> None:
        rewards = self.completions.get("rewards", {})
        rows = zip(
            self.completions.get("prompt", ()),
            self.completions.get("completion", ()),
            self.completions.get("advantages", ()),
            strict=True,
        )
        with self.samples.open("a", encoding="utf-8") as file:
            for index, (prompt, completion, advantage) in enumerate(rows):
                scores = {name: _finite(values[index]) for name, values in rewards.items()}
                line = {
                    "step": step,
                    "prompt": prompt[-1]["content"],
                    "completion": completion[-1]["content"],
                    "rewards": scores,
                    "advantage": _finite(advantage),
                }
                file.write(json.dumps(line, ensure_ascii=False) + "\n")


def at_a_glance(metrics: Mapping[str, float]) -> dict[str, float]:
    """The curves that people look for, once more, under a name that MLflow's charts sort before all others.

    They are logged first as well: a run's page lists metrics in that order, and two runs side by side begin with it.
    """
    return {f"at a glance/{name}": metrics[source] for name, source in GLANCE.items() if source in metrics}


def rename(logs: Mapping[str, Any]) -> dict[str, float]:
    """Our names for TRL's numbers; what is missing or not finite is left out."""
    named = {METRICS[key]: value for key, value in logs.items() if key in METRICS}
    for key, value in logs.items():
        if key.startswith(REWARD_PREFIX) and key.endswith(REWARD_SUFFIX):
            named[f"train/rewards/{key[len(REWARD_PREFIX) : -len(REWARD_SUFFIX)]}"] = value
    return {name: float(value) for name, value in named.items() if value is not None and math.isfinite(value)}


def leakage_metrics(measured: OrthogonalConstraint) -> dict[str, float]:
    """Pooled leakage on both sides, and what a ΔW without preferred directions would have."""
    found, expected = measured.pooled_leakage(), pooled_chance(measured)
    return {
        "leakage/rho_left": found.rho_left,
        "leakage/rho_right": found.rho_right,
        "leakage/chance_left": expected.rho_left,
        "leakage/chance_right": expected.rho_right,
    }


def own_leakage_metrics(own: OrthogonalConstraint) -> dict[str, float]:
    """Pooled leakage into what the variant itself protects; a side that it does not protect is left out."""
    found, sides = own.pooled_leakage(), own.protected_sides()
    return {f"leakage/own_{side}": getattr(found, f"rho_{side}") for side in sides}


def pooled_chance(measured: OrthogonalConstraint) -> Leakage:
    """Σ ‖ΔW‖² k/out over Σ ‖ΔW‖², and the same with k/in; plain means while ΔW = 0."""
    targets = list(measured.targets.values())
    energies = [float(lora.delta_energies(t.A, t.B, 1.0)) for t in targets]
    if not sum(energies) > 0:
        energies = [1.0] * len(targets)
    total = sum(energies)
    left = sum(e * t.U.shape[1] / t.U.shape[0] for e, t in zip(energies, targets, strict=True))
    right = sum(e * t.V.shape[1] / t.V.shape[0] for e, t in zip(energies, targets, strict=True))
    return Leakage(left / total, right / total)


def _drop_later_steps(samples: Path, step: int) -> None:
    """Keep the lines of a samples file up to `step`; a torn last line goes too."""
    if not samples.is_file():
        return
    kept = []
    for line in samples.read_text(encoding="utf-8").splitlines():
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line + "\n")
        except ValueError:
            continue
    samples.write_text("".join(kept), encoding="utf-8")


def _mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else math.nan


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None

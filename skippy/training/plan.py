"""What a training run is told and what it answers: request, outcome.

No trl and no transformers: stages and tests read this without paying for their import.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from skippy.core.problem import Problem
from skippy.core.variants import find_variant
from skippy.presets.settings import GrpoSettings, unusable

if TYPE_CHECKING:
    from skippy.core.basis import Basis
    from skippy.core.personality.reference import CharacterReference
    from skippy.core.spectral.constraints import Leakage
    from skippy.stores.projector_files import ProjectorSet

# f(completions=[text], prompts=[text], truncated=[bool], answers=[int or None]) -> [score or None]; a
# function receives those of these that its signature names.
RewardFunction = Callable[..., list[float | None]]


@dataclass(frozen=True, eq=False)
class TrainRequest:
    """Everything one training run needs; the stage fills it in."""

    base_path: Path  # directory of the base checkpoint
    base_digest: str  # of its tensors
    variant: str
    prompts: Sequence[str]  # everyday prompts, plain text
    reward_functions: Sequence[RewardFunction]  # scored on everyday prompts, summed with `reward_weights`
    reward_names: Sequence[str]  # a metric name for each
    settings: GrpoSettings
    output_dir: Path = Path()  # checkpoints, adapters and samples are written here
    base_name: str = ""  # what adapters call their base; never a path of this machine
    k: int = 16  # protected directions a target
    projectors: ProjectorSet | None = None  # of the base's top directions; None: leakage is not measured
    protected: ProjectorSet | None = None  # of what the variant protects, where that is not the top
    reward_weights: Sequence[float] = ()  # a weight for each; empty: 1 each
    rewards_digest: str = ""  # of all that decides them besides their names: character, hardening, judge
    resume: bool = False  # go on from the last finished checkpoint in `output_dir`
    reference: CharacterReference | None = None  # of the base; None leaves character metrics out
    math_problems: Sequence[Problem] = ()  # for `math_mix`; too long a worked solution is left out
    device: str = "auto"  # "cpu", "cuda" or "auto"

    def __post_init__(self) -> None:
        """Refuse a request that contradicts itself, before anything is loaded."""
        rule = find_variant(self.variant)
        if rule.needs_projectors and not self.projectors:
            raise unusable(f"projectors of variant {self.variant}", "U and V of every target", None)
        if rule.own_basis and not self.protected:
            raise unusable(f"protected directions of variant {self.variant}", f"basis {rule.own_basis}", None)
        counts = {len(self.reward_functions), len(self.reward_names), len(self.weights)}
        if len(counts) > 1 or not self.reward_functions:
            raise unusable(
                "reward functions, names and weights", "as many of each, at least one", sorted(counts)
            )
        if self.settings.math_mix > 0 and not self.math_problems:
            raise unusable("math_problems", f"problems, since math_mix = {self.settings.math_mix}", "none")

    @property
    def bases(self) -> Mapping[str, Basis] | None:
        """U, S and V by target name; None without projectors."""
        return None if self.projectors is None else self.projectors.bases

    @property
    def projector_digest(self) -> str:
        """Digest of the projectors, empty without."""
        return "" if self.projectors is None else self.projectors.digest

    @property
    def weights(self) -> tuple[float, ...]:
        """The weight of each reward function."""
        return tuple(self.reward_weights) or (1.0,) * len(self.reward_functions)


@dataclass(frozen=True)
class CompletionStatistics:
    """How long the completions of the last tenth of the steps were, and the share that was cut off."""

    mean_length: float
    max_length: float
    truncated: float
    steps: int


@dataclass(frozen=True)
class Margin:
    """Room left before the protected triples stop being the top k: σ_k − ‖W − U S Vᵀ + ΔW‖₂."""

    worst: float  # the smallest over all targets; below 0 the protected directions are no longer the largest
    worst_target: str  # where that is
    negative: int  # targets below 0
    targets: int  # how many were examined
    by_target: Mapping[str, float]  # the margin of each, relative to its σ_k


@dataclass(frozen=True)
class TrainOutcome:
    """What a finished run leaves."""

    adapter_dir: Path  # the final adapter, in PEFT's format
    steps: int  # optimizer steps of the whole run, resumed parts included
    reward_first: float  # mean reward over the first tenth of the steps
    reward_last: float  # mean reward over the last tenth
    leakage: Leakage | None  # pooled leakage against the base's top-k directions; None without projectors
    margin: Margin | None  # None without projectors
    base_hash_before: str  # sha256 over all frozen weights before training
    base_hash_after: str  # the same afterwards; they are equal, or training raised
    checkpoints: tuple[Path, ...]  # directories to resume from, oldest first
    adapters: Mapping[int, Path]  # adapter directories by step
    completions: CompletionStatistics  # lengths and truncation at the end
    seconds: float  # wall time of this call's training loop
    parameters: int = 0  # entries of A and B that were trained


class RunSink(Protocol):
    """Where a run's numbers and files go; `skippy.tracking.stage_run.StageRun` is one."""

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Take one value for each name."""

    def log_table(self, rows: Sequence[Mapping[str, Any]], artifact_path: str) -> None:
        """Keep rows as Parquet."""

    def log_folder(self, folder: Path, artifact_dir: str = "") -> None:
        """Keep what a folder holds."""


class SilentSink:
    """Takes everything and keeps nothing: for the processes of a launch other than the first."""

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Drop them."""

    def log_table(self, rows: Sequence[Mapping[str, Any]], artifact_path: str) -> None:
        """Drop them."""

    def log_folder(self, folder: Path, artifact_dir: str = "") -> None:
        """Drop it."""

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
    """Everything one training run needs; the stage fills it in.

    Attributes:
        base_path: directory of the base checkpoint.
        base_digest: digest of that checkpoint.
        base_name: what adapters call their base; never a path of this machine.
        variant: name of the variant.
        k: protected directions a target.
        projectors: of the base's top directions; for v3 they only measure leakage; None: leakage is not measured.
        protected: of the directions that the variant protects, where those are not the top ones.
        prompts: everyday prompts, plain text.
        reward_functions: scored on everyday prompts, summed with `reward_weights`.
        reward_names: a metric name for each.
        reward_weights: a weight for each; empty: 1 each.
        rewards_digest: of all that decides the rewards besides their names: character, hardening, judge.
        settings: hyperparameters.
        output_dir: checkpoints, adapters and samples are written here.
        resume: go on from the last finished checkpoint in `output_dir`.
        reference: the character reference of the base; None leaves character metrics out.
        math_problems: for `settings.math_mix`; those whose worked solution is too long are left out.
        device: "cpu", "cuda" or "auto".
    """

    base_path: Path
    base_digest: str
    variant: str
    prompts: Sequence[str]
    reward_functions: Sequence[RewardFunction]
    reward_names: Sequence[str]
    settings: GrpoSettings
    output_dir: Path = Path()
    base_name: str = ""
    k: int = 16
    projectors: ProjectorSet | None = None
    protected: ProjectorSet | None = None
    reward_weights: Sequence[float] = ()
    rewards_digest: str = ""
    resume: bool = False
    reference: CharacterReference | None = None
    math_problems: Sequence[Problem] = ()
    device: str = "auto"

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
    """Room left before the protected triples stop being the top k: σ_k − ‖W − U S Vᵀ + ΔW‖₂.

    Attributes:
        worst: the smallest over all targets; below 0 the protected directions are no longer the largest.
        worst_target: where that is.
        negative: targets below 0.
        targets: how many were examined.
        by_target: the margin of each, relative to its σ_k.
    """

    worst: float
    worst_target: str
    negative: int
    targets: int
    by_target: Mapping[str, float]


@dataclass(frozen=True)
class TrainOutcome:
    """What a finished run leaves.

    Attributes:
        adapter_dir: the final adapter, in PEFT's format.
        steps: optimizer steps of the whole run, resumed parts included.
        reward_first: mean reward over the first tenth of the steps.
        reward_last: mean reward over the last tenth.
        leakage: pooled leakage against the base's top-k directions; None without projectors.
        margin: None without projectors.
        base_hash_before: sha256 over all frozen weights before training.
        base_hash_after: the same afterwards; they are equal, or training raised.
        checkpoints: directories to resume from, oldest first.
        adapters: adapter directories by step.
        completions: lengths and truncation at the end.
        seconds: wall time of this call's training loop.
        parameters: entries of A and B that were trained.
    """

    adapter_dir: Path
    steps: int
    reward_first: float
    reward_last: float
    leakage: Leakage | None
    margin: Margin | None
    base_hash_before: str
    base_hash_after: str
    checkpoints: tuple[Path, ...]
    adapters: Mapping[int, Path]
    completions: CompletionStatistics
    seconds: float
    parameters: int = 0


class RunSink(Protocol):
    """Where a run's numbers and files go; `skippy.tracking.stage_run.StageRun` is one."""

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Take one value for each name."""

    def log_table(self, rows: Sequence[Mapping[str, Any]], artifact_path: str) -> None:
        """Keep rows as Parquet."""

    def log_folder(self, folder: Path, artifact_dir: str = "") -> None:
        """Keep what a folder holds."""

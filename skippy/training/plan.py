"""What a training run is told and what it answers: settings with presets, request, outcome.

No trl and no transformers: stages and tests read this without paying for their import.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from skippy.core.basis import Basis
from skippy.core.problem import Problem
from skippy.core.variants import find_variant
from skippy.errors import ConfigError

if TYPE_CHECKING:
    from skippy.core.personality.reference import CharacterReference
    from skippy.core.spectral.constraints import Leakage
    from skippy.stores.projectors import Projectors

# f(completions=[text], prompts=[text], truncated=[bool], answers=[int or None]) -> [score or None]; a
# function receives those of these that its signature names.
RewardFunction = Callable[..., list[float | None]]

VLLM_MODES = ("", "colocate", "server")


def setting(default: Any, text: str) -> Any:
    """One hyperparameter: its default and a line of help."""
    return field(default=default, metadata={"help": text})


@dataclass(frozen=True)
class GrpoSettings:
    """Hyperparameters that every variant shares; the defaults are the recipe's (FACTS)."""

    learning_rate: float = setting(5e-6, "AdamW's learning rate at its peak")
    weight_decay: float = setting(0.01, "AdamW's decoupled weight decay")
    max_grad_norm: float = setting(1.0, "norm to which the (projected) gradient is clipped")
    lr_scheduler: str = setting("cosine", "shape of the learning rate after warm-up")
    warmup: float = setting(0.1, "share of the steps in which the learning rate rises")
    epochs: int = setting(3, "passes over the prompts, where max_steps is 0")
    max_steps: int = setting(0, "optimizer steps; 0: as many as the epochs take")
    num_generations: int = setting(8, "completions of one prompt that are compared with each other")
    per_device_batch: int = setting(2, "completions in one forward and backward pass")
    gradient_accumulation: int = setting(4, "passes an optimizer step")
    temperature: float = setting(1.5, "sampling temperature")
    top_p: float = setting(0.95, "nucleus of the sampling distribution; 1: all of it")
    top_k: int = setting(50, "most likely tokens that may be sampled; 0: all")
    max_completion_length: int = setting(256, "tokens after which a completion is cut off")
    max_prompt_length: int = setting(512, "prompts longer than this many tokens are left out, and counted")
    beta: float = setting(0.04, "weight of the KL divergence from the base")
    loss_type: str = setting("grpo", "how token losses are averaged: grpo is the mean of means, as published")
    lora_r: int = setting(16, "rank of the adapter")
    lora_alpha: int = setting(32, "the adapter's scale times its rank")
    lora_dropout: float = setting(0.05, "dropout on the adapter's input")
    bf16: bool = setting(True, "base and activations in bfloat16 where there is a GPU; a CPU runs float32")
    gradient_checkpointing: bool = setting(True, "recompute activations in the backward pass, on a GPU")
    merged_generation: bool = setting(
        True, "sample with W + ΔW in place of W, where the base is float32 and that is exact"
    )
    vllm: str = setting(
        "", "sample with vLLM, in this process (colocate) or at a server (server); empty: neither"
    )
    save_steps: int = setting(25, "steps between checkpoints")
    logging_steps: int = setting(1, "steps between points of the curves")
    character_steps: int = setting(
        25, "steps between character measurements; they are also made at every save"
    )
    math_mix: float = setting(0.0, "share of maths prompts, rewarded for correctness alone")
    seed: int = setting(42, "seed of adapter, order of prompts, sampling and dropout")

    def __post_init__(self) -> None:
        """Refuse what would only fail, or worse succeed, in the middle of a run."""
        for name in ("learning_rate", "max_grad_norm", "temperature", "lora_r", "lora_alpha", "save_steps"):
            if getattr(self, name) <= 0:
                raise _unusable(name, "more than 0", getattr(self, name))
        if self.vllm not in VLLM_MODES:
            raise _unusable("vllm", "empty, " + " or ".join(filter(None, VLLM_MODES)), self.vllm)
        if not 0.0 <= self.math_mix < 1.0:
            raise _unusable("math_mix", "at least 0 and less than 1", self.math_mix)
        if self.num_generations < 2:
            raise _unusable(
                "num_generations", "2 or more: a group is compared with its own mean", self.num_generations
            )

    def prompts_per_step(self, processes: int) -> int:
        """Different prompts one optimizer step sees over all processes.

        Raises:
            ConfigError: the batch does not hold whole groups of completions.
        """
        completions = self.per_device_batch * self.gradient_accumulation * processes
        if completions % self.num_generations:
            raise _unusable(
                "per_device_batch × gradient_accumulation × processes",
                f"a multiple of num_generations = {self.num_generations}",
                completions,
            )
        return completions // self.num_generations

    def steps(self, prompts: int, processes: int) -> int:
        """Optimizer steps of the whole run."""
        return self.max_steps or self.epochs * math.ceil(prompts / self.prompts_per_step(processes))


# The lab's figures start from the prototype in FACTS. The lab answers in 33 tokens on average, of which a limit of
# 40 cut off a quarter, hence 48; and at T = 1.2 its samples are so broken that 60 steps learned nothing (reward
# -1.2 → -1.1, against 0.6 → 4.5 at T = 1, one seed that is not reported). The same for every variant.
PRESETS: dict[str, GrpoSettings] = {
    "recipe": GrpoSettings(),
    "lab": GrpoSettings(
        learning_rate=1e-3,
        max_steps=60,
        per_device_batch=16,
        gradient_accumulation=1,
        temperature=1.0,
        top_p=1.0,
        top_k=0,
        max_completion_length=48,
        max_prompt_length=96,
        lora_dropout=0.0,
        bf16=False,
        gradient_checkpointing=False,
        save_steps=10,
        character_steps=10,
    ),
    "short": GrpoSettings(
        learning_rate=1e-3,
        max_steps=4,
        num_generations=4,
        per_device_batch=4,
        gradient_accumulation=2,
        temperature=1.2,
        top_p=1.0,
        top_k=0,
        max_completion_length=12,
        max_prompt_length=96,
        lora_r=4,
        lora_alpha=8,
        bf16=False,
        gradient_checkpointing=False,
        save_steps=2,
        character_steps=2,
    ),
}


@dataclass(frozen=True, eq=False)
class TrainRequest:
    """Everything one training run needs; the stage fills it in.

    Attributes:
        base_path: directory of the base checkpoint.
        base_digest: digest of that checkpoint.
        base_name: what adapters call their base; never a path of this machine.
        variant: name of the variant.
        k: protected directions a target.
        projectors: of the base; for v3 they only measure leakage; None: leakage is not measured.
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
    projectors: Projectors | None = None
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
            raise _unusable(f"projectors of variant {self.variant}", "U and V of every target", None)
        counts = {len(self.reward_functions), len(self.reward_names), len(self.weights)}
        if len(counts) > 1 or not self.reward_functions:
            raise _unusable(
                "reward functions, names and weights", "as many of each, at least one", sorted(counts)
            )
        if self.settings.math_mix > 0 and not self.math_problems:
            raise _unusable("math_problems", f"problems, since math_mix = {self.settings.math_mix}", "none")

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


class RunSink(Protocol):
    """Where a run's numbers and files go; `skippy.tracking.stage_run.StageRun` is one."""

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Take one value for each name."""

    def log_table(self, rows: Sequence[Mapping[str, Any]], artifact_path: str) -> None:
        """Keep rows as Parquet."""

    def log_folder(self, folder: Path, artifact_dir: str = "") -> None:
        """Keep what a folder holds."""


def describe_settings() -> dict[str, str]:
    """The line of help of every hyperparameter."""
    return {item.name: item.metadata["help"] for item in fields(GrpoSettings)}


def _unusable(name: str, expected: str, found: object) -> ConfigError:
    return ConfigError(
        f"Training cannot start with this {name}.",
        where=name,
        expected=expected,
        found=repr(found),
        next_step="change the preset, or the parameters of the train stage",
    )

"""The hyperparameters that every variant shares: what each means, and the values that make sense."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

from skippy.errors import ConfigError
from skippy.options import limits_fault, option

VLLM_MODES = ("", "colocate", "server")
TARGET_CHOICES = ("all", "attention", "mlp")


@dataclass(frozen=True)
class GrpoSettings:
    """Hyperparameters of one training; the defaults are the recipe's (FACTS)."""

    learning_rate: float = option(5e-6, "AdamW's learning rate at its peak", above=0)
    weight_decay: float = option(0.01, "AdamW's decoupled weight decay", minimum=0)
    max_grad_norm: float = option(1.0, "norm to which the (projected) gradient is clipped", above=0)
    lr_scheduler: str = option(
        "cosine",
        "shape of the learning rate after warm-up",
        choices=("cosine", "linear", "constant", "constant_with_warmup"),
    )
    warmup: float = option(0.1, "share of the steps in which the learning rate rises", minimum=0, below=1)
    epochs: int = option(3, "passes over the prompts, where no number of steps is set", minimum=1)
    max_steps: int = option(0, "optimizer steps; 0: as many as the epochs take", minimum=0)
    num_generations: int = option(
        8, "completions of one prompt; a group is compared with its own mean", minimum=2
    )
    per_device_batch: int = option(2, "completions in one forward and backward pass", minimum=1)
    gradient_accumulation: int = option(4, "passes an optimizer step", minimum=1)
    temperature: float = option(1.5, "sampling temperature", above=0)
    top_p: float = option(0.95, "nucleus of the sampling distribution; 1: all of it", above=0)
    top_k: int = option(50, "most likely tokens that may be sampled; 0: all", minimum=0)
    max_completion_length: int = option(256, "tokens after which a completion is cut off", minimum=1)
    max_prompt_length: int = option(
        512, "prompts longer than this many tokens are left out, and counted", minimum=1
    )
    beta: float = option(0.04, "weight of the KL divergence from the base", minimum=0)
    loss_type: str = option(
        "grpo",
        "how token losses are averaged: grpo is the mean of means, as published",
        choices=("grpo", "dapo", "bnpo", "dr_grpo"),
    )
    lora_r: int = option(16, "rank of the adapter", minimum=1)
    lora_alpha: int = option(32, "the adapter's scale times its rank", minimum=1)
    lora_dropout: float = option(0.05, "dropout on the adapter's input", minimum=0, below=1)
    targets: str = option(
        "all", "projections that the adapter changes: attention, mlp or all", choices=TARGET_CHOICES
    )
    bf16: bool = option(True, "base and activations in bfloat16 where there is a GPU; a CPU runs float32")
    gradient_checkpointing: bool = option(True, "recompute activations in the backward pass, on a GPU")
    merged_generation: bool = option(
        True, "sample with W + ΔW in place of W, where the base is float32 and that is exact"
    )
    vllm: str = option(
        "",
        "sample with vLLM, in this process (colocate) or at a server (server); empty: neither",
        choices=VLLM_MODES,
    )
    save_steps: int = option(25, "steps between checkpoints", minimum=1)
    logging_steps: int = option(1, "steps between points of the curves", minimum=1)
    character_steps: int = option(
        25, "steps between character measurements; they are also made at every save", minimum=1
    )
    math_mix: float = option(
        0.0, "share of maths prompts, rewarded for correctness alone", minimum=0, below=1
    )
    seed: int = option(42, "seed of adapter, order of prompts, sampling and dropout", minimum=0)

    def __post_init__(self) -> None:
        """Refuse what would only fail, or worse succeed, in the middle of a run."""
        for item in fields(self):
            fault = limits_fault(item, getattr(self, item.name))
            if fault:
                raise unusable(item.name, fault, getattr(self, item.name))
        if self.top_p > 1:
            raise unusable("top_p", "at most 1", self.top_p)

    def prompts_per_step(self, processes: int) -> int:
        """Different prompts one optimizer step sees over all processes.

        Raises:
            ConfigError: the batch does not hold whole groups of completions.
        """
        completions = self.per_device_batch * self.gradient_accumulation * processes
        if completions % self.num_generations:
            raise unusable(
                "per_device_batch × gradient_accumulation × processes",
                f"a multiple of num_generations = {self.num_generations}",
                completions,
            )
        return completions // self.num_generations

    def steps(self, prompts: int, processes: int) -> int:
        """Optimizer steps of the whole run."""
        return self.max_steps or self.epochs * math.ceil(prompts / self.prompts_per_step(processes))


def unusable(name: str, expected: str, found: object) -> ConfigError:
    """The error for a training that cannot start with this; the caller raises it."""
    return ConfigError(
        f"Training cannot start with this {name}.",
        where=name,
        expected=expected,
        found=repr(found),
        next_step="change the preset, or the parameters of the train stage",
    )

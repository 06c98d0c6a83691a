"""What a base is, and so how it is trained, sampled and spoken to: one row each, chosen by declared identity.

A checkpoint declares its identity in three ways: by descent (it is the lab, or was merged from it or tuned on its
problems), by architecture, and by name. Its size says nothing: a small Llama is a Llama.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from skippy.errors import ConfigError
from skippy.models.targets import family_of

AUTO = "auto"
LAB_LINEAGE = "lab"
TUNED_LINEAGE = "lab-tuned"
PROMPT_STYLES: dict[str, str] = {
    "plain": "",
    "boxed": "\nPlease reason step by step, and put your final answer within \\boxed{}.",
}
"""How problems are put: what follows the question."""


@dataclass(frozen=True)
class ModelProfile:
    """How one kind of base is used."""

    name: str  # what people call it
    description: str  # in a few words, for the line that every stage prints
    training: str = "recipe"  # preset of hyperparameters
    sampling: str = "chat"  # preset of an evaluation's sampling
    prompt_style: str = "boxed"  # how problems are put: `plain` or `boxed`
    answer_tokens: int = 128  # length of an answer from which activations are read
    # variable of the chat template that turns thinking off, where the template has it
    thinking_switch: str = "enable_thinking"
    parallel: int = 1  # child runs of `main` at a time
    # run on the CPU by default, also where there is a GPU: the figures are then the same everywhere
    is_for_cpu: bool = False

    def __str__(self) -> str:
        """One line for the log."""
        return (
            f"profile {self.name} ({self.description}): preset {self.training}, sampling {self.sampling}, "
            f"{self.prompt_style} problems, activations of {self.answer_tokens} answer tokens"
        )


@dataclass(frozen=True)
class Row:
    """Whose profile it is: a lineage, or families and a pattern somewhere in the name. The first match wins."""

    profile: ModelProfile
    lineage: str = ""
    families: tuple[str, ...] = ()
    name: str = ""


# Sampling: the lab's own, else what the model's makers publish (core/sampling). Problems: the lab was taught bare
# ones; every other model is told how to answer.
TABLE: tuple[Row, ...] = (
    Row(
        ModelProfile(
            *("lab", "the built-in model, or merged from it", "lab", "lab", "plain", 40),
            parallel=2,
            is_for_cpu=True,
        ),
        lineage=LAB_LINEAGE,
    ),
    Row(
        ModelProfile(
            "lab-tuned", "a pretrained model tuned to the lab's problems", "lab", "lab", "plain", 64
        ),
        lineage=TUNED_LINEAGE,
    ),
    Row(
        ModelProfile("qwen3-vl-thinking", "Qwen3-VL Thinking", sampling="qwen3vl-thinking"),
        families=("qwen3_vl",),
        name="thinking",
    ),
    Row(ModelProfile("qwen3-vl", "Qwen3-VL Instruct", sampling="qwen3vl-instruct"), families=("qwen3_vl",)),
    Row(
        ModelProfile("qwen3-thinking", "Qwen3 Thinking", sampling="qwen3-thinking"),
        families=("qwen3",),
        name="thinking",
    ),
    Row(ModelProfile("qwen3", "Qwen3, thinking off", sampling="qwen3"), families=("qwen3",)),
    Row(
        ModelProfile("r1-distill", "distilled from DeepSeek-R1", sampling="qwen3-thinking"),
        families=("qwen2", "qwen3", "llama"),
        name="deepseek-r1|r1-distill",
    ),
    Row(ModelProfile("qwen2", "Qwen2 or Qwen2.5", sampling="qwen2"), families=("qwen2",)),
    Row(ModelProfile("llama", "Llama's architecture", sampling="llama"), families=("llama",)),
    Row(ModelProfile("mistral", "Mistral"), families=("mistral",)),
    Row(
        ModelProfile("gemma", "Gemma", sampling="gemma"),
        families=("gemma", "gemma2", "gemma3", "gemma3_text"),
    ),
    Row(ModelProfile("phi3", "Phi-3"), families=("phi3",)),
    Row(ModelProfile("chat", "any other chat model")),
)
PROFILES: dict[str, ModelProfile] = {row.profile.name: row.profile for row in TABLE}
THINKING_SWITCHES = tuple(sorted({profile.thinking_switch for profile in PROFILES.values()}))


def choose_profile(
    config: Mapping[str, Any], names: Sequence[str] = (), lineage: str = "", wanted: str = AUTO
) -> ModelProfile:
    """The profile of a base: the one asked for, else by lineage, else by family and name.

    Args:
        names: what the base is called, by the person and by itself.
        lineage: `lab`, `lab-tuned`, or empty for neither.
        wanted: name of a profile, or `auto`.

    Raises:
        ConfigError: there is no profile of that name.
        TargetError: the family is not known.
    """
    if wanted != AUTO:
        if wanted not in PROFILES:
            raise ConfigError(
                "There is no such profile.",
                where="profile",
                expected=f"{AUTO}, or one of " + ", ".join(PROFILES),
                found=repr(wanted),
                next_step=f"pass -P profile={AUTO}, or one of these",
            )
        return PROFILES[wanted]
    for row in TABLE:
        if row.lineage and row.lineage == lineage:
            return row.profile
    family = family_of(config).model_type
    called = " ".join([*names, str(config.get("_name_or_path", ""))])
    return next(
        row.profile
        for row in TABLE
        if not row.lineage
        and (not row.families or family in row.families)
        and re.search(row.name, called, re.IGNORECASE)
    )

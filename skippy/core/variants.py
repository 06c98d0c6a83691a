"""The variants of the experiment: one row each, with everything the stages and the report need to know about it.

Adding a variant is one row here. No torch: the command line reads this table before anything heavy loads.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from skippy.errors import ConfigError, nearest
from skippy.words import split_list

Update = Literal["lora", "mask", "bias", "none"]
Method = Literal["grpo", "mask", "steer", "bias-grpo", "none"]
Directions = Literal["none", "top", "random", "bottom", "activations"]
Role = Literal["treatment", "rival", "control", "ablation", "anchor"]
ROLES: tuple[Role, ...] = ("treatment", "rival", "control", "ablation", "anchor")
"""In the order in which the report compares: a treatment against its rivals first, then its controls."""
DOSES: Mapping[Update, tuple[int, ...]] = {
    "mask": (25, 50, 75, 100),
    "bias": (25, 50, 75, 100, 150, 200, 300),
}
"""Update → the doses α at which an arm is walked, in percent; an arm without is walked over its training steps."""


@dataclass(frozen=True)
class Variant:
    """One variant: what it changes of the base, how that is made, and what the report says of it.

    Source: OPLoRA, arXiv 2510.13003. Departure: the paper reparameterises the forward pass; the three
    projections together give the same trajectory and keep the adapter a vanilla LoRA file.
    """

    name: str  # as parameters, tags and artifacts spell it
    # what it is for. A treatment is what the experiment is about and may be promoted; a rival is what it must beat; a
    # control or an ablation says why it works; an anchor is the cheap alternative.
    role: Role
    label: str  # as people write it
    colours: tuple[str, str]  # of its marks, on light and on dark paper
    sentence: str  # the rule in words, for run descriptions and the report
    question: str  # what a treatment set beside this variant answers
    # what it changes: low-rank factors beside weights, weights that go, biases, or nothing
    update: Update = "lora"
    method: Method = "grpo"  # how the update is made; a row of the table in `training/makers.py`
    # settings of that method which make it this variant, and which other arms need not share
    implies: Mapping[str, object] = field(default_factory=dict)
    constraint: str = "none"  # name of the rule, as written into `adapter/skippy.json`
    # which directions are protected: none, the top-k or bottom-k singular ones, k random ones, or the k of what a
    # weight reads of mathematics, on its input alone
    basis: Directions = "none"
    project_init: bool = False  # A ← A P_R once after LoRA's random init
    project_gradients: bool = False  # ∇A ← ∇A P_R, ∇B ← P_L ∇B before the optimizer step
    project_parameters: bool = False  # A ← A P_R, B ← P_L B after every optimizer step

    @property
    def needs_projectors(self) -> bool:
        """Whether making it reads U and V of the base."""
        return self.basis == "top"

    @property
    def own_basis(self) -> str:
        """The basis of an svd run that making it reads besides the top directions; empty for none."""
        return self.basis if self.basis in ("bottom", "activations") else ""

    @property
    def reads_answers(self) -> bool:
        """Whether making it reads the base's own answers, under the character's prompt and plainly."""
        return self.method in ("mask", "steer")

    @property
    def is_dosed(self) -> bool:
        """Whether its path to the character is the dose α of one update, and not the steps of a training."""
        return self.update in DOSES


VARIANTS: dict[str, Variant] = {
    variant.name: variant
    for variant in (
        Variant(
            "v3",
            role="rival",
            label="V3",
            colours=("#bf511a", "#f08a4b"),
            sentence="plain LoRA, no constraint",
            question="Does the constraint help at all?",
        ),
        Variant(
            "v4",
            role="treatment",
            label="V4",
            colours=("#0b7285", "#45b8cc"),
            sentence="LoRA kept exactly out of the top-k singular directions at every step",
            question="Which treatment keeps more of the mathematics?",
            constraint="oplora",
            basis="top",
            project_init=True,
            project_gradients=True,
            project_parameters=True,
        ),
        Variant(
            "v4-hooks",
            role="ablation",
            label="V4-hooks",
            colours=("#8a4fbf", "#c197ee"),
            sentence="only the gradients are projected (the ablation that leaks)",
            question="Is it enough to project the gradients?",
            constraint="oplora-hooks",
            basis="top",
            project_gradients=True,
        ),
        Variant(
            "v4-random",
            role="control",
            label="V4-random",
            colours=("#906d17", "#d9b04a"),
            sentence="LoRA kept exactly out of k random directions (the control)",
            question="Does it matter that the protected directions are the top ones?",
            constraint="random",
            basis="random",
            project_init=True,
            project_gradients=True,
            project_parameters=True,
        ),
        Variant(
            "v4-bottom",
            role="control",
            label="V4-bottom",
            colours=("#5c7a1e", "#a3c65a"),
            sentence="LoRA kept exactly out of the k smallest singular directions",
            question="Does it matter which end of the spectrum is protected?",
            constraint="oplora-bottom",
            basis="bottom",
            project_init=True,
            project_gradients=True,
            project_parameters=True,
        ),
        Variant(
            "v4-act",
            role="rival",
            label="V4-act",
            colours=("#b0306a", "#ef7fb0"),
            sentence="LoRA that is exactly zero on the k leading directions of what each weight reads of mathematics",
            question="Is it better to protect what the weights are than what mathematics reads?",
            constraint="activations",
            basis="activations",
            project_init=True,
            project_gradients=True,
            project_parameters=True,
        ),
        Variant(
            "v3-mlp",
            role="ablation",
            label="V3-mlp",
            colours=("#2f5fb3", "#86aef2"),
            sentence="plain LoRA on the MLP alone",
            question="Is it enough to leave attention alone?",
            implies={"targets": "mlp"},
        ),
        Variant(
            "prompt",
            role="anchor",
            label="Prompt",
            colours=("#5f6368", "#a8adb3"),
            sentence="the base under the character's own system prompt, nothing trained",
            question="Is anything needed beside a prompt?",
            update="none",
            method="none",
        ),
        Variant(
            "v5",
            role="anchor",
            label="V5",
            colours=("#2f7d32", "#7bc67e"),
            sentence="a personality subnetwork: weights on channels that the character uses less go, without training",
            question="Is training needed at all?",
            update="mask",
            method="mask",
        ),
        Variant(
            "v5-oplora",
            role="ablation",
            label="V5-OPLoRA",
            colours=("#7a5c3e", "#c9a27e"),
            sentence="the subnetwork's change kept exactly out of the top-k singular directions",
            question="Does the constraint help a mask as well?",
            update="mask",
            method="mask",
            implies={"projected": True},
            constraint="oplora",
            basis="top",
        ),
        Variant(
            "v6",
            role="rival",
            label="V6",
            colours=("#4b3fb0", "#a39bf5"),
            sentence="a bias on the attention output of one middle layer, by preferences (BiPO)",
            question="Is a vector in one place enough?",
            update="bias",
            method="steer",
            implies={"objective": "bipo", "site": "o_proj"},
        ),
        Variant(
            "v6-v",
            role="rival",
            label="V6-v",
            colours=("#377d78", "#7fd1cb"),
            sentence="biases on the values of middle layers, which vLLM carries too, by preferences (BiPO)",
            question="What does a vector cost where every engine reads it?",
            update="bias",
            method="steer",
            implies={"objective": "bipo", "site": "v_proj", "layers": 2},
        ),
        Variant(
            "v6-grpo",
            role="ablation",
            label="V6-GRPO",
            colours=("#72771d", "#c3c95a"),
            sentence="V6's bias trained by V3's rewards with GRPO",
            question="Is it the place that matters, or how it is trained?",
            update="bias",
            method="bias-grpo",
        ),
        Variant(
            "caa",
            role="anchor",
            label="CAA",
            colours=("#6b6b6b", "#a9a9a9"),
            sentence="V6's bias as a difference of mean activations, one pass and no training",
            question="Is training a vector worth more than subtracting two means?",
            update="bias",
            method="steer",
            implies={"objective": "means", "site": "o_proj"},
        ),
    )
}


def find_variant(name: str, where: str = "variant") -> Variant:
    """The row of a variant.

    Raises:
        ConfigError: there is no such variant.
    """
    if name not in VARIANTS:
        raise ConfigError(
            "There is no such variant.",
            where=where,
            expected="one of " + ", ".join(VARIANTS),
            found=repr(name),
            next_step=f"pass for example -P {where}={nearest(name, VARIANTS) or next(iter(VARIANTS))}",
        )
    return VARIANTS[name]


def parse_arms(text: str, where: str = "arms") -> tuple[str, ...]:
    """The variants that a parameter lists, comma-separated, in its order.

    Raises:
        ConfigError: one is unknown or there twice, or there is none.
    """
    names = split_list(text, where, lambda name: find_variant(name, where).name)
    if not names:
        raise ConfigError(
            "These are no arms to set side by side.",
            where=where,
            expected="variants, each once, comma-separated: " + ", ".join(VARIANTS),
            found=repr(text),
            next_step=f"pass for example -P {where}=v3,v4",
        )
    return names


def label_of(name: str) -> str:
    """The label of an arm: `V4-hooks` for `v4-hooks`; the base, and what has no row, by its name."""
    return VARIANTS[name].label if name in VARIANTS else name


def place_words(name: str, place: int) -> str:
    """Where on its path to the character an arm stands: `step 75`, or `dose 0.75` for one whose path is a dose."""
    is_dosed = name in VARIANTS and VARIANTS[name].is_dosed
    return f"dose {place / 100:g}" if is_dosed else f"step {place}"


def is_untrained(name: str) -> bool:
    """Whether an arm changes nothing of the base, and so has neither training seeds nor a path to its character."""
    return name in VARIANTS and VARIANTS[name].update == "none"


def has_seed(name: str) -> bool:
    """Whether an arm is one training among many; the base, and an arm that changes nothing of it, are not."""
    return name != "base" and not is_untrained(name)


def of_role(role: Role, names: Iterable[str]) -> tuple[str, ...]:
    """Those of `names` that have this role, in the order given."""
    return tuple(name for name in names if name in VARIANTS and VARIANTS[name].role == role)


def comparisons(names: Iterable[str]) -> tuple[tuple[str, str], ...]:
    """Which arms are set against which: every treatment against every other variant, by role of the other.

    Args:
        names: of the arms; the base is left out, since every arm is compared with it anyway.
    """
    arms = [name for name in names if name in VARIANTS]
    treatments = of_role("treatment", arms)
    others = [name for role in ROLES[1:] for name in of_role(role, arms)]
    among = [(a, b) for position, a in enumerate(treatments) for b in treatments[position + 1 :]]
    return tuple((treatment, other) for treatment in treatments for other in others) + tuple(among)

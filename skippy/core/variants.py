"""The variants of the experiment: which rule keeps an update out of which directions.

Adding a variant is one row here. No torch: the command line reads this table before anything heavy loads.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from skippy.errors import ConfigError

Directions = Literal["none", "top", "random"]


@dataclass(frozen=True)
class VariantRule:
    """How one variant constrains ΔW = s·B·A.

    Attributes:
        name: the variant.
        constraint: name of the rule, as written into `adapter/skippy.json`.
        basis: which directions are protected: none, the top-k singular ones, or k random ones.
        project_init: A ← A P_R once after LoRA's random init.
        project_gradients: ∇A ← ∇A P_R, ∇B ← P_L ∇B before the optimizer step.
        project_parameters: A ← A P_R, B ← P_L B after every optimizer step.
        sentence: the rule in words, for run descriptions and the report.

    Source: OPLoRA, arXiv 2510.13003. Departure: the paper reparameterises the forward pass; the three
    projections together give the same trajectory and keep the adapter a vanilla LoRA file.
    """

    name: str
    constraint: str
    basis: Directions
    project_init: bool
    project_gradients: bool
    project_parameters: bool
    sentence: str

    @property
    def needs_projectors(self) -> bool:
        """Whether training reads U and V of the base."""
        return self.basis == "top"


VARIANTS: dict[str, VariantRule] = {
    rule.name: rule
    for rule in (
        VariantRule("v3", "none", "none", False, False, False, "plain LoRA, no constraint"),
        VariantRule(
            "v4",
            "oplora",
            "top",
            True,
            True,
            True,
            "LoRA kept exactly out of the top-k singular directions at every step",
        ),
        VariantRule(
            "v4-hooks",
            "oplora-hooks",
            "top",
            False,
            True,
            False,
            "only the gradients are projected (the ablation that leaks)",
        ),
        VariantRule(
            "v4-random",
            "random",
            "random",
            True,
            True,
            True,
            "LoRA kept exactly out of k random directions (the control)",
        ),
    )
}


def variant_rule(name: str) -> VariantRule:
    """The rule of a variant.

    Raises:
        ConfigError: there is no such variant.
    """
    if name not in VARIANTS:
        raise ConfigError(
            "There is no such variant.",
            where="variant",
            expected="one of " + ", ".join(VARIANTS),
            found=repr(name),
            next_step="pass -P variant=v3 or -P variant=v4",
        )
    return VARIANTS[name]

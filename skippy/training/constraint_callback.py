"""The variant's rule at the three places of a training step where it acts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor
from transformers import TrainerCallback

from skippy.core.basis import Basis
from skippy.core.spectral.constraints import ConstrainedTarget, OrthogonalConstraint, random_basis
from skippy.core.spectral.lora import LoraFactors
from skippy.core.spectral.subspaces import seed_of
from skippy.core.variants import Variant
from skippy.errors import TrainingError
from skippy.training.guards import require_in_optimizer

# Share of energy that an exact variant's checkpoint may have in the protected directions (MATH §2: 4e-8²).
EXACT_LEAKAGE = 1e-12


class ConstraintCallback(TrainerCallback):
    """Applies one variant's projections, and refuses to train when they could not have run.

    The trainer calls `project_gradients` between the all-reduce and clipping: transformers has no event there
    (`on_pre_optimizer_step` fires after clipping), and the norm that clips must be that of the projected
    gradient, or the trajectory is not the reparameterised one. Everything else hangs on public events.

    Args:
        factors: trainable factors of every target.
        bases: (U, V) to stay out of, by target; None where the rule protects nothing.
    """

    def __init__(
        self,
        rule: Variant,
        factors: Mapping[str, LoraFactors],
        bases: Mapping[str, tuple[Tensor, Tensor]] | None,
    ) -> None:
        self.rule = rule
        self.factors = factors
        self.constraint = None if bases is None else constrain(factors, bases)
        self._has_projected = False
        if self.constraint is not None and rule.project_init:
            self.constraint.project_init_()

    def project_gradients(self) -> None:
        """∇A ← ∇A P_R, ∇B ← P_L ∇B on accumulated, all-reduced, unclipped gradients."""
        if self.constraint is not None and self.rule.project_gradients:
            self.constraint.project_gradients_()
            self._has_projected = True

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Check that the optimizer moves what is constrained, and that a resumed adapter is inside."""
        require_in_optimizer(kwargs["optimizer"], self.factors)
        if self.constraint is None or not self.rule.project_parameters:
            return
        found = self.constraint.pooled_leakage()
        if max(found.rho_left, found.rho_right) > EXACT_LEAKAGE:
            raise TrainingError(
                "The adapter that training would go on from lies inside the protected directions.",
                where=f"variant {self.rule.name}, step {state.global_step}",
                expected=f"leakage ≤ {EXACT_LEAKAGE:g} on both sides",
                found=f"left {found.rho_left:.3g}, right {found.rho_right:.3g}",
                next_step="resume from a checkpoint of the same variant, k and projectors",
            )

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Refuse a step whose gradients were not projected before clipping."""
        if self.constraint is not None and self.rule.project_gradients and not self._has_projected:
            raise TrainingError(
                "The gradients reached the optimizer without being projected.",
                where=f"step {state.global_step}",
                next_step="report this: the trainer of this transformers version clips somewhere else",
            )
        self._has_projected = False

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """A ← A P_R, B ← P_L B, before anything can look at or save the adapter."""
        if self.constraint is not None and self.rule.project_parameters:
            self.constraint.project_parameters_()


def constrain(
    factors: Mapping[str, LoraFactors], bases: Mapping[str, tuple[Tensor, Tensor]]
) -> OrthogonalConstraint:
    """A constraint over the factors; also used, without ever projecting, to measure leakage."""
    return OrthogonalConstraint(
        {
            name: ConstrainedTarget(one.A, one.B, bases[name][0], bases[name][1])
            for name, one in factors.items()
        }
    )


def protected_bases(
    rule: Variant,
    factors: Mapping[str, LoraFactors],
    projectors: Mapping[str, Basis] | None,
    k: int,
    seed: int,
) -> dict[str, tuple[Tensor, Tensor]] | None:
    """(U, V) that a variant protects: none, those of its `projectors`, or k random directions of the same number.

    Random directions come from the seed and the target's name, so that every rank draws the same. Where
    projectors are at hand each target gets as many directions as they have there (k may differ by target).
    """
    if rule.basis == "none":
        return None
    if rule.basis != "random":
        assert projectors is not None, "TrainRequest refuses this"
        return {name: (projectors[name].U, projectors[name].V) for name in factors}
    bases = {}
    for name, one in factors.items():
        count = projectors[name].U.shape[1] if projectors else k
        left, right = seed_of(f"{name}.U") + seed, seed_of(f"{name}.V") + seed
        bases[name] = (random_basis(one.B.shape[0], count, left), random_basis(one.A.shape[1], count, right))
    return bases

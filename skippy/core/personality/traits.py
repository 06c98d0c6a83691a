"""The trait profile: how far the adapted model's activations moved along each trait, and how far chance would.

Source: MATH §5.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from skippy.core.personality.deltas import BAND, EnergyRatio, null_energies, pool_energies
from skippy.core.personality.reference import CharacterGauge
from skippy.core.personality.subspaces import TraitSolver, trait_coordinates, trait_solver
from skippy.errors import AdapterError


@dataclass(frozen=True)
class TraitProfile:
    """c(t) by trait name with its null, and activation_energy_ratio with its own."""

    coordinates: Mapping[str, float]  # c by trait
    # by trait, the |c| that 95 % of random shifts stay below, which have the activations' covariance and at every
    # layer the length of the shift measured
    null_reach: Mapping[str, float]
    explained: float  # share of the shift that the coordinates explain
    condition: float  # of the trait vectors
    activation: EnergyRatio  # activation_energy_ratio


def measure_traits(hidden: Float[Tensor, "T L d"], gauge: CharacterGauge) -> TraitProfile:
    """c(t) and activation_energy_ratio = Σ‖P Δh‖² / Σ‖Δh‖² from activations on the reference's probes.

    Departure from MATH §5: Δh is a probe's mean over its answer tokens, weighted by how many there are, so
    that the base's activations can be kept; what cancels between the tokens of one answer is not seen.
    """
    traits = gauge.reference.traits
    if hidden.shape != traits.hidden.shape:
        raise AdapterError(
            "The activations do not belong to the reference's probes.",
            expected=str(tuple(traits.hidden.shape)),
            found=str(tuple(hidden.shape)),
            next_step="take mean_hidden on reference.traits.probes",
        )
    shifts = hidden.double().cpu() - traits.hidden.double().cpu()
    share = traits.tokens.double().cpu() / traits.tokens.double().sum().cpu()
    shift, solver = torch.einsum("t,tld->ld", share, shifts), trait_solver(traits.vectors.cpu())
    solved = trait_coordinates(shift, solver)
    reach = torch.quantile(
        _null_coordinates(shift.norm(dim=1), solver, gauge).abs(), BAND[1] - BAND[0], dim=0
    )
    return TraitProfile(
        coordinates=dict(zip(traits.names, solved.values.tolist(), strict=True)),
        null_reach=dict(zip(traits.names, reach.tolist(), strict=True)),
        explained=solved.explained,
        condition=solved.condition,
        activation=_activation_ratio(shifts * share.sqrt()[:, None, None], gauge),
    )


def _null_coordinates(
    lengths: Float[Tensor, " L"], solver: TraitSolver, gauge: CharacterGauge
) -> Float[Tensor, "count N"]:
    """Coordinates c of random shifts: the first direction of every draw, one mixture of tokens seen at all layers."""
    total = torch.zeros(gauge.count, solver.inverse.shape[1], dtype=torch.float64)
    for layer, name in enumerate(gauge.reference.traits.hooks):
        seen = gauge.reference.hooks[name].sketch.double().cpu() @ solver.inverse[layer].T
        total += lengths[layer] * (gauge.hooks[name].draws[:, 0].double().cpu() @ seen)
    return total


def _activation_ratio(shifts: Float[Tensor, "T L d"], gauge: CharacterGauge) -> EnergyRatio:
    """Shifts of the residual stream are rows like an update's: same subspaces, same null."""
    energies, totals, nulls, chances = [], [], [], []
    for layer, name in enumerate(gauge.reference.traits.hooks):
        hook = gauge.hooks[name]
        moved = shifts[:, layer].to(hook.P)
        energies.append((moved @ hook.P.T).square().sum())
        totals.append(moved.square().sum())
        nulls.append(null_energies(moved, hook.sketch, hook.draws).sum(1))
        chances.append(hook.P.shape[0] / hook.P.shape[1])
    return pool_energies(
        torch.stack(energies).cpu(),
        torch.stack(totals).cpu(),
        torch.tensor(chances, dtype=torch.float64),
        torch.stack(nulls).cpu(),
        torch.ones(1, len(chances), dtype=torch.float64),
    )[0]

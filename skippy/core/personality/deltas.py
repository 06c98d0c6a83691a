"""How much of an update lies in given directions, and how much of it would by chance.

An update ΔW is seen from its residual side: the output for a target that writes the residual stream, the
input for one that reads it. `residual_rows` compresses ΔW to r rows Y (r, d) with YᵀY = ΔW ΔWᵀ (writer) or
ΔWᵀΔW (reader). Then for any orthonormal rows Q (K, d) in that space
    ‖Q ΔW‖² or ‖ΔW Qᵀ‖²  =  ‖Y Qᵀ‖²,    ‖ΔW‖² = ‖Y‖²,
and the singular values of Y Qᵀ are those of Q ΔW or ΔW Qᵀ. ΔW is never formed.

A null direction is a sample of N(0, Σ), Σ the covariance of the activations at that hook: z = g F with g
standard normal and F (m, d) a sketch, E[FᵀF] = Σ. A draw is K of them, orthonormalised. With S = F Fᵀ and
C Cᵀ = g S gᵀ (Cholesky), Q = C⁻¹ g F, so a draw is kept as its coordinates C⁻¹ g (K, m) and costs m×r
products, not d×r. Every hook uses the same g, over sketches made with the same mixing of tokens: like a
persona's centroids, a draw is one mixture of tokens seen at all hooks. Independent draws a hook would average
out over hooks, shrink the null's spread and inflate every z-score. In words: the null asks what would be seen
had answer tokens been dealt to personas at random, whose centroids differ by N(0, Σ) up to scale.

Source: MATH §5. Departure: Σ is replaced by a sketch of m rows (Gaussian mixing of centred activations), so
all draws of one reference live in the span of m samples; their spread is low by about K/2m of itself.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from skippy.errors import SubspaceError

BAND = (0.025, 0.975)


@dataclass(frozen=True)
class EnergyRatio:
    """A share of energy and what chance gives; every number is nan where there is no energy at all."""

    ratio: float  # energy inside the subspaces over all energy
    chance: float  # the same for an isotropic update: K/d, weighted by each target's energy
    null_mean: float  # mean over random subspaces drawn with the activations' covariance
    null_sd: float  # their standard deviation
    null_low: float  # their 2.5 % quantile
    null_high: float  # their 97.5 % quantile
    z: float  # (ratio − null_mean) / null_sd


def residual_rows(
    A: Float[Tensor, "*n r in"], B: Float[Tensor, "*n out r"], scale: float, side: str
) -> Float[Tensor, "*n r d"]:
    """Y with YᵀY = ΔWᵀΔW ("reads") or ΔW ΔWᵀ ("writes"), float64, for a stack of equal shapes.

    With H = BᵀB = E Λ Eᵀ, ΔWᵀΔW = s² Aᵀ H A = YᵀY for Y = s Λ^½ Eᵀ A; a writer swaps A and Bᵀ.
    """
    inner, outer = (A, B) if side == "reads" else (B.mT, A.mT)
    outer = outer.detach().double()
    values, vectors = torch.linalg.eigh(outer.mT @ outer)
    root = vectors * values.clamp(min=0.0).sqrt().unsqueeze(-2)
    return scale * (root.mT @ inner.detach().double())


def draw_coordinates(
    sketch: Float[Tensor, "m d"], normals: Float[Tensor, "count K m"]
) -> Float[Tensor, "count K m"]:
    """Coordinates D of random K-subspaces with the sketch's covariance: each D_j F has orthonormal rows.

    Args:
        sketch: F, with E[FᵀF] proportional to the activations' covariance.
        normals: g, standard normal.

    Raises:
        SubspaceError: the sketch has fewer than K independent rows.
    """
    wide = sketch.double()
    gram = wide @ wide.T
    K = normals.shape[1]
    rank = int(torch.linalg.matrix_rank(gram, hermitian=True))
    if rank < K:
        raise SubspaceError(
            "Too few activations to draw random subspaces from.",
            expected=f"at least {K} independent samples",
            found=f"{rank}",
            next_step="collect the reference on more prompts",
        )
    g = normals.to(wide)
    factor = torch.linalg.cholesky(g @ gram @ g.mT)
    return torch.linalg.solve_triangular(factor, g, upper=False).float().contiguous()


def null_energies(
    rows: Float[Tensor, "n d"], sketch: Float[Tensor, "m d"], draws: Float[Tensor, "count K m"]
) -> Float[Tensor, "count n"]:
    """‖Q_j y‖² of every row y in every random subspace Q_j = D_j F: a null figure before pooling.

    Float32: the null's own sampling error is percents.
    """
    seen = sketch @ rows.to(sketch).T
    return (draws.flatten(0, 1) @ seen).square().unflatten(0, draws.shape[:2]).sum(1)


def pool_energies(
    energies: Float[Tensor, " n"],
    totals: Float[Tensor, " n"],
    chances: Float[Tensor, " n"],
    nulls: Float[Tensor, "n count"],
    weights: Float[Tensor, "groups n"],
) -> list[EnergyRatio]:
    """Σ w·energies / Σ w·totals of every group, with chance and null pooled in the same way.

    Never a mean of ratios, unless the weights make it one on purpose.

    Args:
        energies: energy inside the personality subspace, one a target.
        totals: ‖ΔW‖², one a target.
        chances: K/d, one a target.
        nulls: energy inside every random subspace, draw j being the same mixture at all targets.
        weights: a row a group, zero for targets outside it.

    Source: MATH §4 (pooling), §5 (null).
    """
    total = weights @ totals
    total = torch.where(total > 0, total, torch.nan)
    null = (weights @ nulls.double()) / total[:, None]
    band = torch.quantile(null, torch.tensor(BAND, dtype=null.dtype), dim=1)
    ratio, chance = (weights @ energies) / total, (weights @ (chances * totals)) / total
    mean, deviation = null.mean(1), null.std(1)
    z = torch.where(deviation > 0, (ratio - mean) / deviation, torch.nan)
    table = torch.stack([ratio, chance, mean, deviation, band[0], band[1], z], dim=1)
    return [EnergyRatio(*line) for line in table.tolist()]

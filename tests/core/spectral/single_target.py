"""One target's ΔW asked one thing at a time: what the stacked formulas of the package are held against."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from skippy.core.spectral.lora import LoraFactors, delta_energies, split_energies


def dense_delta(factors: LoraFactors) -> Float[Tensor, "out in"]:
    """ΔW itself, in float32, as a merge adds it."""
    return factors.scale * (factors.B.float() @ factors.A.float())


def delta_energy(factors: LoraFactors) -> float:
    """‖ΔW‖_F² of one target."""
    return float(delta_energies(factors.A, factors.B, factors.scale))


def left_energy(factors: LoraFactors, basis: Float[Tensor, "out k"]) -> float:
    """‖basisᵀΔW‖_F²: the energy of ΔW that is written into span(basis)."""
    return float(split_energies(factors.A, factors.B, factors.scale, basis, factors.A.mT[:, :0])[0])


def right_energy(factors: LoraFactors, basis: Float[Tensor, "in k"]) -> float:
    """‖ΔW basis‖_F²: the energy of ΔW that is read from span(basis)."""
    return float(split_energies(factors.A, factors.B, factors.scale, factors.B[:, :0], basis)[1])


def left_singular_values(factors: LoraFactors, basis: Float[Tensor, "out k"]) -> Float[Tensor, " m"]:
    """Singular values of basisᵀΔW, descending, min(k, r) of them at most: the rest are zero.

    With Aᵀ = Q R (thin QR), basisᵀΔW = s (basisᵀB) Rᵀ Qᵀ has those of the small s (basisᵀB) Rᵀ.
    """
    inner = basis.double().mT @ factors.B.detach().double()
    return torch.linalg.svdvals(factors.scale * inner @ _triangle(factors.A.mT).mT)


def right_singular_values(factors: LoraFactors, basis: Float[Tensor, "in k"]) -> Float[Tensor, " m"]:
    """Singular values of ΔW basis, descending, min(k, r) of them at most: the rest are zero."""
    inner = factors.A.detach().double() @ basis.double()
    return torch.linalg.svdvals(factors.scale * _triangle(factors.B) @ inner)


def spectral_norm(factors: LoraFactors) -> float:
    """‖ΔW‖₂, from the triangles of the thin QR of B and Aᵀ."""
    small = factors.scale * _triangle(factors.B) @ _triangle(factors.A.mT).mT
    return float(torch.linalg.matrix_norm(small, ord=2))


def _triangle(tall: Float[Tensor, "rows columns"]) -> Float[Tensor, "m columns"]:
    """R of the thin QR in float64: carries the singular values of `tall` without squaring them."""
    return torch.linalg.qr(tall.detach().double(), mode="r").R

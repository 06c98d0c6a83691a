"""ΔW algebra without forming ΔW.

ΔW = s·B·A with A (r, in), B (out, r) and s = lora_alpha / r. Everything a person asks of ΔW (its norm, how
much of it lies in given directions, the singular values of a part of it) follows from r×r and k×r matrices.
Those are computed in float64, because a leakage of 1e-15 is measured as a difference of rounding errors.

Source: MATH §4. Frobenius: ‖BA‖² = tr(BᵀB·AAᵀ), the trace identity for Gram matrices.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class LoraFactors:
    """The factors of one target's ΔW = scale·B·A.

    Attributes:
        A: reads the input, (r, in).
        B: writes the output, (out, r).
        scale: s = lora_alpha / r.
    """

    A: Float[Tensor, "r in"]
    B: Float[Tensor, "out r"]
    scale: float


def delta_energies(
    A: Float[Tensor, "*n r in"], B: Float[Tensor, "*n out r"], scale: float
) -> Float[Tensor, "*n"]:
    """‖ΔW‖_F² = s² tr(BᵀB·AAᵀ) of every target in a stack of equal shapes, in float64."""
    return _trace_of_product(_gram(B.detach().double()), _gram(A.detach().double().mT), scale)


def left_energies(
    A: Float[Tensor, "*n r in"], B: Float[Tensor, "*n out r"], scale: float, basis: Float[Tensor, "*n out k"]
) -> Float[Tensor, "*n"]:
    """‖basisᵀΔW‖_F² = s² tr((basisᵀB)ᵀ(basisᵀB)·AAᵀ) of every target in a stack, in float64."""
    return _trace_of_product(
        _gram(basis.double().mT @ B.detach().double()), _gram(A.detach().double().mT), scale
    )


def right_energies(
    A: Float[Tensor, "*n r in"], B: Float[Tensor, "*n out r"], scale: float, basis: Float[Tensor, "*n in k"]
) -> Float[Tensor, "*n"]:
    """‖ΔW basis‖_F² = s² tr(BᵀB·(A basis)(A basis)ᵀ) of every target in a stack, in float64."""
    return _trace_of_product(
        _gram(B.detach().double()), _gram((A.detach().double() @ basis.double()).mT), scale
    )


def split_energies(
    A: Float[Tensor, "*n r in"],
    B: Float[Tensor, "*n out r"],
    scale: float,
    outputs: Float[Tensor, "*n out k"],
    inputs: Float[Tensor, "*n in k"],
) -> Float[Tensor, "*n 3"]:
    """`left_energies`, `right_energies` and `delta_energies` at once: each factor is cast and squared once."""
    A, B = A.detach().double(), B.detach().double()
    gram_in, gram_out = _gram(A.mT), _gram(B)
    left = _trace_of_product(_gram(outputs.double().mT @ B), gram_in, scale)
    right = _trace_of_product(gram_out, _gram((A @ inputs.double()).mT), scale)
    return torch.stack([left, right, _trace_of_product(gram_out, gram_in, scale)], dim=-1)


def delta_energy(factors: LoraFactors) -> float:
    """‖ΔW‖_F² of one target."""
    return float(delta_energies(factors.A, factors.B, factors.scale))


def left_energy(factors: LoraFactors, basis: Float[Tensor, "out k"]) -> float:
    """‖basisᵀΔW‖_F²: the energy of ΔW that is written into span(basis).

    Args:
        factors: one target's ΔW.
        basis: orthonormal columns in output space.
    """
    return float(left_energies(factors.A, factors.B, factors.scale, basis))


def right_energy(factors: LoraFactors, basis: Float[Tensor, "in k"]) -> float:
    """‖ΔW basis‖_F²: the energy of ΔW that is read from span(basis).

    Args:
        factors: one target's ΔW.
        basis: orthonormal columns in input space.
    """
    return float(right_energies(factors.A, factors.B, factors.scale, basis))


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


def dense_delta(factors: LoraFactors) -> Float[Tensor, "out in"]:
    """ΔW itself, in float32: only for a merge, one target at a time, and for tests."""
    return factors.scale * (factors.B.float() @ factors.A.float())


def _gram(matrix: Float[Tensor, "*n rows columns"]) -> Float[Tensor, "*n columns columns"]:
    return matrix.mT @ matrix


def _trace_of_product(
    left: Float[Tensor, "*n r r"], right: Float[Tensor, "*n r r"], scale: float
) -> Float[Tensor, "*n"]:
    """s² tr(left·right) for symmetric arguments; a negative rounding error of a zero trace becomes zero."""
    return scale**2 * (left * right).sum(dim=(-2, -1)).clamp(min=0.0)


def _triangle(tall: Float[Tensor, "rows columns"]) -> Float[Tensor, "m columns"]:
    """R of the thin QR in float64: carries the singular values of `tall` without squaring them."""
    return torch.linalg.qr(tall.detach().double(), mode="r").R

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
    """The factors of one target's ΔW = scale·B·A."""

    A: Float[Tensor, "r in"]  # reads the input, (r, in)
    B: Float[Tensor, "out r"]  # writes the output, (out, r)
    scale: float  # s = lora_alpha / r


def delta_energies(
    A: Float[Tensor, "*n r in"], B: Float[Tensor, "*n out r"], scale: float
) -> Float[Tensor, "*n"]:
    """‖ΔW‖_F² = s² tr(BᵀB·AAᵀ) of every target in a stack of equal shapes, in float64."""
    return _trace_of_product(_gram(B.detach().double()), _gram(A.detach().double().mT), scale)


def split_energies(
    A: Float[Tensor, "*n r in"],
    B: Float[Tensor, "*n out r"],
    scale: float,
    outputs: Float[Tensor, "*n out left"],
    inputs: Float[Tensor, "*n in right"],
) -> Float[Tensor, "*n 3"]:
    """‖outputsᵀΔW‖_F², ‖ΔW inputs‖_F² and ‖ΔW‖_F² of every target in a stack, in float64.

    The first is s² tr((outputsᵀB)ᵀ(outputsᵀB)·AAᵀ), the second s² tr(BᵀB·(A inputs)(A inputs)ᵀ).
    """
    A, B = A.detach().double(), B.detach().double()
    gram_in, gram_out = _gram(A.mT), _gram(B)
    left = _trace_of_product(_gram(outputs.double().mT @ B), gram_in, scale)
    right = _trace_of_product(gram_out, _gram((A @ inputs.double()).mT), scale)
    return torch.stack([left, right, _trace_of_product(gram_out, gram_in, scale)], dim=-1)


def _gram(matrix: Float[Tensor, "*n rows columns"]) -> Float[Tensor, "*n columns columns"]:
    return matrix.mT @ matrix


def _trace_of_product(
    left: Float[Tensor, "*n r r"], right: Float[Tensor, "*n r r"], scale: float
) -> Float[Tensor, "*n"]:
    """s² tr(left·right) for symmetric arguments; a negative rounding error of a zero trace becomes zero."""
    return scale**2 * (left * right).sum(dim=(-2, -1)).clamp(min=0.0)

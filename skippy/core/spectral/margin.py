"""The margin by which the protected triples stay the top k once ΔW is added.

A ΔW without leakage leaves every protected triple a singular triple of W + ΔW. They stay the *top* k only
while everything else stays smaller: margin = σ_k − ‖(W − U S Vᵀ) + ΔW‖₂ > 0.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from skippy.core.spectral.krylov import FLOAT32_RANGE, RandomBlocks, leading_triples
from skippy.core.spectral.lora import LoraFactors
from skippy.core.spectral.operators import ThinSide
from skippy.core.spectral.precision import full_float32

BLOCK = 16
DEPTH = 6
RESTARTS = 10
TOLERANCE = 1e-3


def top_margin(
    weight: Float[Tensor, "out in"],
    U: Float[Tensor, "out k"],
    S: Float[Tensor, " k"],
    V: Float[Tensor, "in k"],
    factors: LoraFactors,
    *,
    seed: int = 0,
) -> float:
    """σ_k − ‖(W − U S Vᵀ) + s·B·A‖₂, by block Krylov on products, never forming ΔW.

    Returns:
        In the weight's units. The norm is approached from below, so the margin is from above; the iteration
        stops when a singular value is known to lie within 1e-3 relative, in practice 1e-6.

    Source: OPLoRA, arXiv 2510.13003, Prop. 2. Departure: the paper assumes the order of the triples.
    """
    is_steep = bool(S[-1] < FLOAT32_RANGE * S[0]) or weight.dtype == torch.float64
    dtype = torch.float64 if is_steep else torch.float32
    base = ThinSide(weight[None], dtype) if is_steep else ThinSide.copied(weight[None], dtype)
    plus = torch.cat([-U.to(dtype) * S.to(dtype), factors.scale * factors.B.detach().to(dtype)], dim=1)
    minus = torch.cat([V.to(dtype), factors.A.detach().to(dtype).mT], dim=1)
    operator = _Updated(base, plus[None], minus[None])
    columns = base.columns
    block = min(BLOCK, columns)
    depth = min(DEPTH, columns // block - 2)
    with full_float32(weight.device):
        if depth < 2:
            identity = torch.eye(columns, dtype=dtype, device=weight.device)[None]
            norm = torch.linalg.matrix_norm(operator.multiply(identity).double(), ord=2)[0]
        else:
            noise = RandomBlocks([seed], weight.device, dtype)
            found = leading_triples(
                operator, columns, 1, noise, block=block, depth=depth, restarts=RESTARTS, tolerance=TOLERANCE
            )
            norm = found.values[0, 0]
    return float(S[-1].double() - norm)


@dataclass(frozen=True, eq=False)
class _Updated:
    """W + P Qᵀ as a thin-side operator, with P (out, m) and Q (in, m)."""

    base: ThinSide
    outputs: Float[Tensor, "n out m"]
    inputs: Float[Tensor, " n in m"]

    def multiply(self, block: Float[Tensor, "n q b"]) -> Float[Tensor, "n p b"]:
        left, right = (self.inputs, self.outputs) if self.base.is_wide else (self.outputs, self.inputs)
        return self.base.multiply(block) + left @ (right.mT @ block)

    def multiply_both(
        self, block: Float[Tensor, "n q b"]
    ) -> tuple[Float[Tensor, "n p b"], Float[Tensor, "n q b"]]:
        # Two walks: in one, WᵀW X and WᵀU S VᵀX would cancel at the size of σ_1².
        image = self.multiply(block)
        left, right = (self.outputs, self.inputs) if self.base.is_wide else (self.inputs, self.outputs)
        return image, self.base.multiply_transposed(image) + left @ (right.mT @ image)

"""Leading singular triples of a stack of weights as a method claims them, before anyone has checked.

Two ways to a claim: block Krylov on products, and the full SVD. `subspace` certifies what they say.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from skippy.core.spectral.krylov import RandomBlocks, leading_triples, reach_of
from skippy.core.spectral.operators import ThinSide
from skippy.core.spectral.precision import full_float32

OVERSAMPLING = 16
# Below this thin side, or without room for this many blocks, a full SVD takes no longer.
FULL_COLUMNS = 256
FULL_BLOCKS = 8
# The iteration aims below the tolerance, because its own estimate of the residual is a rounded one: in float32 it
# is off by about 5e-7.
AIM = 0.6


@dataclass(frozen=True, eq=False)
class Claim:
    """Leading triples of a stack, in float64; one more than k where the weight has it."""

    left: Float[Tensor, "n out m"]  # left singular vectors
    values: Float[Tensor, "n m"]  # singular values, descending
    right: Float[Tensor, " n in m"]  # right singular vectors
    is_converged: tuple[bool, ...]  # for each member, whether the method itself believes in it
    reach: float  # share of σ_1 below which the method's values are noise

    def rounded(self, k: int) -> tuple[Tensor, Tensor, Tensor]:
        """U, S, V of the first k triples in float32, the largest entry of every right vector positive.

        A sign is otherwise arbitrary, and would differ between methods.
        """
        left, right = self.left[..., :k], self.right[..., :k]
        largest = right.abs().argmax(dim=1, keepdim=True)
        signs = torch.where(right.gather(1, largest) < 0, -1.0, 1.0).to(right.dtype)
        return (left * signs).float(), self.values[:, :k].float(), (right * signs).float()

    def following(self, k: int) -> list[float]:
        """A lower bound of σ_{k+1} of each member; 0 where it would be rounding error of the products."""
        if self.values.shape[1] <= k:
            return [0.0] * len(self.values)
        beyond = self.values[:, k]
        return torch.where(beyond < self.reach * self.values[:, 0], 0.0, beyond).tolist()


def krylov_depth(columns: int, k: int, wanted: int) -> int:
    """The Krylov depth that the thin side has room for; 0 where a full SVD is the shorter way."""
    block = k + OVERSAMPLING
    return min(wanted, columns // block - 2) if columns > max(FULL_COLUMNS, FULL_BLOCKS * block) else 0


def claim_by_krylov(
    base: ThinSide, k: int, *, tolerance: float, seeds: Sequence[int], depth: int, restarts: int
) -> Claim:
    """Block Krylov with products in the precision of `base`, float32 or float64.

    Args:
        base: the stack, of entries whose fourth powers are far from the ends of that precision's range.
        tolerance: largest residual relative to σ_1 that the caller accepts.
        depth: Krylov blocks between restarts, at most.
        restarts: how often to go on before giving up.
    """
    device = base.weights.device
    with full_float32(device):
        ritz = leading_triples(
            base,
            base.columns,
            k,
            RandomBlocks(seeds, device, base.dtype),
            block=k + OVERSAMPLING,
            depth=krylov_depth(base.columns, k, depth),
            restarts=restarts,
            tolerance=AIM * tolerance,
        )
    left, right = (ritz.right, ritz.left) if base.is_wide else (ritz.left, ritz.right)
    return Claim(left, ritz.values, right, tuple(ritz.is_converged.tolist()), reach_of(base.dtype))


def claim_by_full_svd(weights: Float[Tensor, "n out in"], k: int) -> Claim:
    """The full SVD in float64.

    Raises:
        RuntimeError: LAPACK did not converge.
    """
    U, S, Vh = torch.linalg.svd(weights.double(), full_matrices=False)
    return Claim(
        U[..., : k + 1],
        S[..., : k + 1],
        Vh[..., : k + 1, :].mT,
        (True,) * len(weights),
        reach_of(torch.float64),
    )

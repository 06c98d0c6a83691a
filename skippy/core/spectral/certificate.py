"""The certificate of a top-k singular subspace, against the weight as it is stored.

Nothing here trusts how U, S, V came about. Residuals and orthonormality are float64 products with the stored
weight; completeness is an iteration of its own, from its own random start, on the weight without the triples.

Source: MATH §3. Departure: the weight is deflated by projection, (I − U Uᵀ) W (I − V Vᵀ), with U and V
orthonormalised in float64, instead of W − U S Vᵀ. The two agree when the residual is zero; but subtracting
triples that were rounded to float32 leaves 1e-7·σ_1 behind, which hides everything where σ_k is small.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from skippy.core.spectral.krylov import FLOAT32_RANGE, RandomBlocks, leading_triples, orthonormalise
from skippy.core.spectral.operators import Deflated, ThinSide
from skippy.core.spectral.precision import full_float32

MAX_ORTHONORMALITY = 1e-6
COMPLETENESS_SLACK = 1e-3
MAX_GAP = 2.0**20
# What a float64 projection of directions known to 1e-5 leaves of σ_1; smaller singular values count as zero.
NOTHING = 1e-10

PROBE_BLOCK = 16
PROBE_DEPTH = 6
PROBE_RESTARTS = 1
PROBE_TOLERANCE = 1e-2


@dataclass(frozen=True)
class Certificate:
    """What was measured of one claimed subspace."""

    residual: float  # max_i max(‖W v_i − σ_i u_i‖, ‖Wᵀu_i − σ_i v_i‖) / σ_1, in float64; 0 for W = 0
    orthonormality: float  # max(|UᵀU − I|, |VᵀV − I|), in float64
    # largest singular value found in the deflated weight from an independent random start, in the weight's units. At
    # most σ_k (1 + 1e-3): nothing bigger was missed.
    completeness: float
    sigma_next: float  # best estimate of σ_{k+1}: completeness, or what the computation itself saw, if larger
    # σ_k / σ_{k+1}, at most 2^20, also where σ_{k+1} is zero or does not exist; 1 where σ_k is zero, since the last
    # directions are then as good as any others
    gap: float
    # sine of the largest angle between the claimed and the true subspaces, at most residual·σ_1 / (σ_k − σ_{k+1}); 1
    # where that says nothing
    wedin_bound: float
    sigma_1: float  # the largest singular value claimed
    sigma_k: float  # the smallest singular value claimed
    frobenius_squared: float  # ‖W‖_F², in float64

    def failures(self, tolerance: float) -> list[str]:
        """Which of the three conditions do not hold, in words; empty if the subspace is certified."""
        limit = self.sigma_k * (1 + COMPLETENESS_SLACK) + NOTHING * self.sigma_1
        conditions = (
            ("residual", self.residual, tolerance),
            ("orthonormality", self.orthonormality, MAX_ORTHONORMALITY),
            ("completeness", self.completeness, limit),
        )
        return [f"{name} {value:.3g} > {most:.3g}" for name, value, most in conditions if not value <= most]


def certify_stack(
    weights: Float[Tensor, "n out in"],
    U: Float[Tensor, "n out k"],
    S: Float[Tensor, "n k"],
    V: Float[Tensor, " n in k"],
    *,
    seeds: Sequence[int],
    sigma_next_seen: Sequence[float],
    working: ThinSide | None = None,
) -> list[Certificate]:
    """Measure a claimed top-k subspace of every weight in a stack of equal shapes.

    Args:
        seeds: of the independent random starts.
        sigma_next_seen: a lower bound of each σ_{k+1} from elsewhere, 0 where there is none.
        working: the weights copied in float32 where they are at hand; spares the probe a copy.
    """
    U, S, V = U.double(), S.double(), V.double()
    stored = ThinSide(weights, torch.float64)
    long, short = (V, U) if stored.is_wide else (U, V)
    images, back, squares = stored.multiply_each(short, long)
    image_residual = torch.linalg.vector_norm(images - long * S[:, None, :], dim=1)
    back_residual = torch.linalg.vector_norm(back - short * S[:, None, :], dim=1)
    worst = torch.maximum(image_residual, back_residual).amax(dim=1)
    orthonormality = torch.maximum(_defect(U), _defect(V))
    completeness = _probe(weights, U, S, V, seeds, working)
    rows = torch.stack([worst, orthonormality, completeness, S[:, 0], S[:, -1], squares], dim=1).tolist()
    if S.shape[1] == min(weights.shape[1:]):
        return [_certificate(row, None) for row in rows]
    return [_certificate(row, seen) for row, seen in zip(rows, sigma_next_seen, strict=True)]


def _certificate(measured: Sequence[float], seen: float | None) -> Certificate:
    """The certificate from six measurements; `seen` is None where no σ_{k+1} exists."""
    worst, orthonormality, completeness, sigma_1, sigma_k, squares = measured
    sigma_next = 0.0 if seen is None else max(completeness, seen)
    ratio = min(MAX_GAP, sigma_k / sigma_next) if sigma_next > 0 else MAX_GAP
    gap = ratio if sigma_k > NOTHING * sigma_1 else 1.0
    # What does not fit into residual·σ_1 against σ_1 = 0 is infinite, and fails.
    residual = worst / sigma_1 if sigma_1 > 0 else (0.0 if worst == 0 else float("inf"))
    distance = sigma_k - sigma_next
    wedin = min(1.0, worst / distance) if distance > 0 else 1.0
    return Certificate(
        residual, orthonormality, completeness, sigma_next, gap, wedin, sigma_1, sigma_k, squares
    )


def _defect(basis: Float[Tensor, "n rows k"]) -> Float[Tensor, " n"]:
    identity = torch.eye(basis.shape[-1], dtype=basis.dtype, device=basis.device)
    return (basis.mT @ basis - identity).abs().amax(dim=(1, 2))


def _probe(
    weights: Tensor, U: Tensor, S: Tensor, V: Tensor, seeds: Sequence[int], working: ThinSide | None
) -> Float[Tensor, " n"]:
    """‖(I − U Uᵀ) W (I − V Vᵀ)‖₂ as far as a block Krylov iteration from a fresh random start sees it.

    In float32 where that is enough to answer, else in float64.
    """
    if not bool(torch.isfinite(U).all() & torch.isfinite(S).all() & torch.isfinite(V).all()):
        return torch.full_like(S[:, 0], torch.inf)
    left, right = orthonormalise(U)[0], orthonormalise(V)[0]
    seeds = [seed ^ 0x5EED for seed in seeds]
    low, high = S[:, -1], S[:, 0]
    is_moderate = (low >= FLOAT32_RANGE * high) & (high > 1e-12) & (high < 1e12)
    found = torch.zeros_like(high)
    if weights.dtype != torch.float64 and bool(is_moderate.any()):
        found = _largest(working or ThinSide.copied(weights, torch.float32), left, right, seeds)
    for index in (~is_moderate | (found < FLOAT32_RANGE * high)).nonzero()[:, 0].tolist():
        one = slice(index, index + 1)
        found[one] = _largest(ThinSide(weights[one], torch.float64), left[one], right[one], seeds[one])
    return found


def _largest(base: ThinSide, left: Tensor, right: Tensor, seeds: Sequence[int]) -> Float[Tensor, " n"]:
    dtype, device = base.dtype, base.weights.device
    left, right = (right, left) if base.is_wide else (left, right)
    block = min(PROBE_BLOCK, base.columns)
    depth = min(PROBE_DEPTH, base.columns // block - 2)
    with full_float32(device):
        deflated = Deflated.of(base, left.to(dtype), right.to(dtype))
        if depth < 2:
            # The thin side is too short for an iteration to be cheaper than the whole norm.
            identity = torch.eye(base.columns, dtype=dtype, device=device).expand(len(seeds), -1, -1)
            return torch.linalg.matrix_norm(deflated.multiply(identity).double(), ord=2)
        found = leading_triples(
            deflated,
            base.columns,
            1,
            RandomBlocks(seeds, device, dtype),
            block=block,
            depth=depth,
            restarts=PROBE_RESTARTS,
            tolerance=PROBE_TOLERANCE,
        )
    return found.values[:, 0]

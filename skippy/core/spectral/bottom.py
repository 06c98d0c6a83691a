"""Certified bottom-k singular subspaces: the k smallest of the min(out, in) triples of a weight.

Nothing iterates cheaply towards the small end of a spectrum, so the whole of it is computed: eigenvectors of the
Gram matrix of the shorter side in float64, refined by the SVD of W on their span; the full SVD where that cannot be
certified. Where the shorter side is `q`, the longer side's null space of dimension |out − in| belongs to no triple
and is left out.

Source: Parlett 1998, "The Symmetric Eigenvalue Problem", §3.3 (counting eigenvalues by a factorisation). Departure:
a Cholesky factorisation of the deflated Gram matrix takes the place of the inertia.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from skippy.core.spectral.certificate import COMPLETENESS_SLACK, MAX_GAP, MAX_ORTHONORMALITY, NOTHING
from skippy.core.spectral.krylov import orthonormalise
from skippy.core.spectral.subspaces import SingularSubspace, check_rank, finite_peak
from skippy.errors import SubspaceError

OVERSAMPLING = 16
# Rounding of a float64 Gram matrix and of its factorisation, in units of q·σ_1².
GRAM_ROUNDING = 8 * torch.finfo(torch.float64).eps


def bottom_singular_subspaces(
    weights: Float[Tensor, "n out in"], k: int, *, tolerance: float = 1e-5, names: Sequence[str]
) -> list[SingularSubspace]:
    """The certified bottom-k singular subspaces of a stack of equal shapes, one weight after another.

    Args:
        weights: (n, out, in), as stored; never written to.
        tolerance: largest two-sided residual relative to σ_1.

    Returns:
        S ascends: the last triple borders on the rest, as it does at the top. `sigma_next` is the next larger value
        and `gap` = σ_{next} / σ_k of these, 1 where both are zero next to σ_1: the choice of k is then arbitrary, and
        so are the directions. `completeness` is a proven lower bound of every singular value outside the subspace.

    Raises:
        SubspaceError: k does not fit, an entry is not finite, or no method could be certified.
    """
    check_rank(weights, k, names)
    return [_solve(weight, k, tolerance, name) for weight, name in zip(weights, names, strict=True)]


@dataclass(frozen=True, eq=False)
class _Claim:
    """The smallest triples on the thin side (p ≥ q), ascending, one more than k where there is one; and σ_1."""

    left: Float[Tensor, "p m"]
    values: Float[Tensor, " m"]
    right: Float[Tensor, "q m"]
    largest: float


def _solve(weight: Tensor, k: int, tolerance: float, name: str) -> SingularSubspace:
    unit = 2.0 ** math.frexp(finite_peak(weight, name) or 1.0)[1]
    is_wide = weight.shape[0] < weight.shape[1]
    thin = weight.double() / unit  # a Gram matrix squares what may be near the ends of the range
    thin = thin.mT if is_wide else thin
    gram = thin.mT @ thin
    failed = []
    for method, claim in (("gram", _claim_by_gram), ("full", _claim_by_svd)):
        try:
            found = claim(thin, gram, k)
        except RuntimeError as error:  # LAPACK did not converge
            failed.append(f"{method}: {error}")
            continue
        subspace, failures = _certify(thin, gram, found, k, method, tolerance)
        if not failures:
            U, V = (subspace.V, subspace.U) if is_wide else (subspace.U, subspace.V)
            return _in_units(subspace, U, V, unit)
        failed.append(f"{method}: " + ", ".join(failures))
    raise SubspaceError(
        "The bottom singular subspace could not be certified by any method.",
        where=name,
        expected=f"residual ≤ {tolerance:g}, orthonormality ≤ {MAX_ORTHONORMALITY:g}, complete",
        found="; ".join(failed),
        next_step="pass a larger tolerance: U, S, V in float32 cannot go much below 1e-7",
    )


def _claim_by_gram(thin: Tensor, gram: Tensor, k: int) -> _Claim:
    squares, vectors = torch.linalg.eigh(gram)
    basis = vectors[:, : min(k + OVERSAMPLING, len(gram))]
    left, values, right = torch.linalg.svd(thin @ basis, full_matrices=False)
    return _ascending(left, values, basis @ right.mT, k, float(squares[-1].clamp(min=0).sqrt()))


def _claim_by_svd(thin: Tensor, gram: Tensor, k: int) -> _Claim:
    left, values, right = torch.linalg.svd(thin, full_matrices=False)
    return _ascending(left, values, right.mT, k, float(values[0]))


def _ascending(left: Tensor, values: Tensor, right: Tensor, k: int, largest: float) -> _Claim:
    left, values, right = left.flip(1), values.flip(0), right.flip(1)
    return _Claim(left[:, : k + 1], values[: k + 1], right[:, : k + 1], largest)


def _certify(
    thin: Tensor, gram: Tensor, claim: _Claim, k: int, method: str, tolerance: float
) -> tuple[SingularSubspace, list[str]]:
    """The subspace as it will be stored, in float32, with what was measured of it, and what fails."""
    signs = torch.where(claim.right.gather(0, claim.right.abs().argmax(0, keepdim=True)) < 0, -1.0, 1.0)
    signs = signs.to(claim.right.dtype)
    left, right = (side[:, :k].float() for side in (claim.left * signs, claim.right * signs))
    S = claim.values[:k].float()
    U, V, values = left.double(), right.double(), S.double()
    residuals = torch.cat([thin @ V - U * values, thin.mT @ U - V * values]).norm(dim=0)
    largest, smallest = claim.largest, float(values[-1])
    identity = torch.eye(k, dtype=V.dtype, device=V.device)
    orthonormality = max(float((side.mT @ side - identity).abs().max()) for side in (U, V))
    sigma_next = float(claim.values[k]) if len(claim.values) > k else 0.0
    is_whole = k == len(gram)
    bound, floor = (smallest, 0.0) if is_whole else _bound_outside(gram, V, sigma_next, largest)
    worst = float(residuals.max())
    residual = worst / largest if largest > 0 else (0.0 if worst == 0 else float("inf"))
    is_told_apart = is_whole or sigma_next > NOTHING * largest
    ratio = MAX_GAP if is_whole or not smallest else min(MAX_GAP, sigma_next / smallest)
    distance = sigma_next - smallest
    subspace = SingularSubspace(
        U=left,
        S=S,
        V=right,
        residual=residual,
        orthonormality=orthonormality,
        completeness=bound,
        gap=ratio if is_told_apart else 1.0,
        method=method,
        wedin_bound=0.0 if is_whole else (min(1.0, worst / distance) if distance > 0 else 1.0),
        sigma_next=sigma_next,
        frobenius_squared=float(thin.square().sum()),
    )
    least = smallest * (1 - COMPLETENESS_SLACK) - floor
    conditions = (
        ("residual", residual, tolerance),
        ("orthonormality", orthonormality, MAX_ORTHONORMALITY),
        ("missed", least - bound, 0.0),
    )
    return subspace, [
        f"{name} {value:.3g} > {most:.3g}" for name, value, most in conditions if not value <= most
    ]


def _bound_outside(gram: Tensor, V: Tensor, sigma_next: float, largest: float) -> tuple[float, float]:
    """A lower bound of ‖W x‖/‖x‖ for x ⊥ V, and the level below which float64 cannot tell any.

    WᵀW + σ_1² V Vᵀ − τ² I is positive definite exactly if no singular value outside V lies below τ; a Cholesky
    factorisation that succeeds says so, up to its rounding.
    """
    rounding = GRAM_ROUNDING * len(gram) * largest**2
    floor = (2 * rounding) ** 0.5
    basis = orthonormalise(V[None])[0][0]
    for share in (1 - COMPLETENESS_SLACK, 0.99, 0.9):
        squared = (share * sigma_next) ** 2 - 2 * rounding
        if squared <= 0:
            break
        shifted = gram + largest**2 * (basis @ basis.mT)
        shifted.diagonal().sub_(squared + rounding)
        if int(torch.linalg.cholesky_ex(shifted).info) == 0:
            return squared**0.5, floor
    return 0.0, floor


def _in_units(subspace: SingularSubspace, U: Tensor, V: Tensor, unit: float) -> SingularSubspace:
    """The same subspace of the weight itself, which was divided by `unit`."""
    return replace(
        subspace,
        U=U.contiguous(),
        S=(subspace.S.double() * unit).float(),
        V=V.contiguous(),
        completeness=subspace.completeness * unit,
        sigma_next=subspace.sigma_next * unit,
        frobenius_squared=subspace.frobenius_squared * unit**2,
    )

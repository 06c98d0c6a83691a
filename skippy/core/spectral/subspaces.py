"""Certified top-k singular subspaces.

A result leaves this module with a certificate that holds, or not at all. The ladder: block Krylov in float32;
deeper, with more restarts, from another start and in float64; the full SVD in float64. What cannot be
certified even then raises.

Source: MATH §3; block Krylov as in `krylov`, certificate as in `certificate`.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from skippy.core.spectral.certificate import MAX_ORTHONORMALITY, Certificate, certify_stack
from skippy.core.spectral.claims import Claim, claim_by_full_svd, claim_by_krylov, krylov_depth
from skippy.core.spectral.operators import ThinSide
from skippy.errors import SubspaceError

# Measured on 4096×4096: depth 8 takes 8 blocks on a head-heavy spectrum and 40 on a flat one; depth 6 takes 12
# and 48, depth 12 takes 12 and 36.
DEPTH = 8
RESTARTS = 6
DEEP_DEPTH = 12
DEEP_RESTARTS = 24
# Entries beyond 2^±20 are scaled before float32 squares them twice; float64 holds out to 2^±200.
SAFE_EXPONENT = 20
SAFE_EXPONENT_FLOAT64 = 200


@dataclass(frozen=True)
class SingularSubspace:
    """The k singular triples at one end of a weight's spectrum, with their certificate.

    What is said here holds at the top; `bottom` says how its own differ.
    """

    # left singular vectors, (out, k), float32; without columns where only inputs are meant
    U: Float[Tensor, "out _"]
    S: Float[Tensor, " k"]  # singular values, descending, float32
    V: Float[Tensor, "in k"]  # right singular vectors, (in, k), float32
    residual: float  # two-sided, relative to σ_1
    orthonormality: float  # largest entry of |UᵀU − I| and |VᵀV − I|
    completeness: float  # largest singular value found in W − U S Vᵀ; see `certificate.Certificate`
    gap: float  # σ_k / σ_{k+1}; near 1 the choice of k is arbitrary. Finite: see `certificate.Certificate`.
    method: str  # "krylov", "krylov-deep" or "full": the first rung of the ladder that was certified
    wedin_bound: float  # bound of the sine of the angle to the true subspaces, at most 1
    sigma_next: float  # best estimate of σ_{k+1}
    frobenius_squared: float  # ‖W‖_F², for the share of energy captured


def top_singular_subspace(
    weight: Float[Tensor, "out in"], k: int, *, tolerance: float = 1e-5, seed: int = 0, name: str = "weight"
) -> SingularSubspace:
    """The certified top-k singular subspaces of one weight.

    Args:
        weight: as stored, any float dtype and device; never written to.
        k: how many triples, 1 ≤ k ≤ min(out, in).
        tolerance: largest two-sided residual relative to σ_1.
        seed: of the random start; `seed_of(target)` makes every rank and every rerun agree bit for bit.
        name: what an error calls this weight.

    Raises:
        SubspaceError: k does not fit, an entry is not finite, or no method could be certified.

    Source: MATH §3.
    """
    if weight.ndim != 2:
        raise SubspaceError("A weight must be a matrix.", where=name, found=f"shape {tuple(weight.shape)}")
    return top_singular_subspaces(weight[None], k, tolerance=tolerance, seeds=[seed], names=[name])[0]


def top_singular_subspaces(
    weights: Float[Tensor, "n out in"],
    k: int,
    *,
    tolerance: float = 1e-5,
    seeds: Sequence[int],
    names: Sequence[str] | None = None,
) -> list[SingularSubspace]:
    """The certified top-k singular subspaces of a stack of equal shapes, in batched products.

    The float32 copy of the whole stack lives on its device beside it: the caller chooses how many weights
    fit. A member that fails its certificate is worked on alone. Batched kernels may round differently from
    single ones, so bit-identical reruns need the same stacks.

    Args:
        weights: (n, out, in), as stored.
        tolerance: largest two-sided residual relative to σ_1.
        seeds: one for each weight.

    Raises:
        SubspaceError: as `top_singular_subspace`, naming the weight.
    """
    n = weights.shape[0]
    names = list(names) if names is not None else [f"weight {index}" for index in range(n)]
    if len(seeds) != n or len(names) != n:
        raise SubspaceError(
            "A stack needs one seed and one name for each weight.",
            expected=str(n),
            found=f"{len(seeds)} seeds, {len(names)} names",
        )
    check_rank(weights, k, names)
    peaks = [finite_peak(weight, name) for weight, name in zip(weights, names, strict=True)]
    found: list[SingularSubspace | None] = [None] * n
    if krylov_depth(min(weights.shape[1:]), k, DEPTH):
        found = _iterate(weights, k, tolerance, seeds, peaks)
    return [
        result or _work_on(weights[index], k, tolerance, seeds[index], names[index], peaks[index])
        for index, result in enumerate(found)
    ]


def rank_for_energy(singular_values: Float[Tensor, " m"], frobenius_squared: float, share: float) -> int:
    """The smallest k whose leading triples hold `share` of ‖W‖_F²: Σ_{i≤k} σ_i² ≥ share·‖W‖_F².

    Args:
        singular_values: the leading ones, descending.
        frobenius_squared: ‖W‖_F² of the whole weight.
        share: in (0, 1].

    Returns:
        At least 1; all the values given, where even they hold less: compare before believing it.

    Raises:
        SubspaceError: the share is no share.
    """
    if not 0.0 < share <= 1.0:
        raise SubspaceError("The share of energy is no share.", expected="in (0, 1]", found=f"{share}")
    held = singular_values.double().square().cumsum(dim=0)
    enough = (held >= share * frobenius_squared * (1 - 1e-12)).nonzero()
    return int(enough[0, 0]) + 1 if len(enough) else len(singular_values)


def seed_of(name: str) -> int:
    """A seed from a target's name: the same on every rank, machine and rerun."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") >> 1


def check_rank(weights: Tensor, k: int, names: Sequence[str]) -> None:
    """Refuse a k that is no number of triples of these weights; raises SubspaceError."""
    most = min(weights.shape[1:])
    if not 1 <= k <= most:
        raise SubspaceError(
            "k does not fit the weight.",
            where=names[0] if names else "",
            expected=f"1 ≤ k ≤ {most}, the shorter side of {tuple(weights.shape[1:])}",
            found=f"k = {k}",
            next_step=f"pass -P k={most} or less",
        )


def finite_peak(weight: Float[Tensor, "out in"], name: str) -> float:
    """The largest magnitude among the entries; raises SubspaceError where one is not finite."""
    peak = max(abs(float(end)) for end in torch.aminmax(weight))
    if not math.isfinite(peak):
        bad = int((~torch.isfinite(weight)).sum())
        raise SubspaceError(
            "A weight has entries that are not finite.",
            where=name,
            expected="finite numbers only",
            found=f"{bad} of {weight.numel()} entries are nan or inf",
            next_step="check the checkpoint; a merge in a short type may have overflowed",
        )
    return peak


def _exponent(peak: float) -> int:
    return math.frexp(peak)[1] if peak > 0 else 0


def _iterate(
    weights: Tensor, k: int, tolerance: float, seeds: Sequence[int], peaks: Sequence[float]
) -> list[SingularSubspace | None]:
    """First rung, for the whole stack: block Krylov in float32. None where it is not certified."""
    exponents = [_exponent(peak) for peak in peaks]
    scales = [2.0**-e if abs(e) > SAFE_EXPONENT else 1.0 for e in exponents]
    is_scaled = any(scale != 1.0 for scale in scales)
    factors = torch.tensor(scales, dtype=torch.float64, device=weights.device)
    moderate = (weights.double() * factors[:, None, None]).float() if is_scaled else weights
    working = ThinSide.copied(moderate, torch.float32)
    claim = claim_by_krylov(working, k, tolerance=tolerance, seeds=seeds, depth=DEPTH, restarts=RESTARTS)
    if not any(claim.is_converged):
        return [None] * len(weights)
    claim = replace(claim, values=claim.values / factors[:, None])
    results, _ = _certified(weights, k, claim, tolerance, seeds, "krylov", None if is_scaled else working)
    return [result if good else None for result, good in zip(results, claim.is_converged, strict=True)]


def _work_on(weight: Tensor, k: int, tolerance: float, seed: int, name: str, peak: float) -> SingularSubspace:
    """The upper rungs, for one weight at a time."""
    weights, failed = weight[None], []
    can_iterate = (
        krylov_depth(min(weight.shape), k, DEEP_DEPTH) and abs(_exponent(peak)) <= SAFE_EXPONENT_FLOAT64
    )
    for method in ("krylov-deep", "full") if can_iterate else ("full",):
        claim = _claim_alone(weights, k, method, tolerance, seed, name)
        (result,), (certificate,) = _certified(weights, k, claim, tolerance, [seed], method, None)
        if result is not None:
            return result
        failed.append(f"{method}: " + ", ".join(certificate.failures(tolerance)))
    raise SubspaceError(
        "The top singular subspace could not be certified by any method.",
        where=name,
        expected=f"residual ≤ {tolerance:g}, orthonormality ≤ {MAX_ORTHONORMALITY:g}, complete",
        found="; ".join(failed),
        next_step="pass a larger tolerance: U, S, V in float32 cannot go much below 1e-7",
    )


def _claim_alone(weights: Tensor, k: int, method: str, tolerance: float, seed: int, name: str) -> Claim:
    if method == "krylov-deep":
        return claim_by_krylov(
            ThinSide(weights, torch.float64),
            k,
            tolerance=tolerance,
            seeds=[seed ^ 0xDEEB],
            depth=DEEP_DEPTH,
            restarts=DEEP_RESTARTS,
        )
    try:
        return claim_by_full_svd(weights, k)
    except RuntimeError as error:
        raise SubspaceError("The full SVD did not converge.", where=name, found=str(error)) from error


def _certified(
    weights: Tensor,
    k: int,
    claim: Claim,
    tolerance: float,
    seeds: Sequence[int],
    method: str,
    working: ThinSide | None,
) -> tuple[list[SingularSubspace | None], list[Certificate]]:
    """Round the claim to float32, as it will be stored, and certify that; None where it fails."""
    U, S, V = claim.rounded(k)
    certificates = certify_stack(
        weights, U, S, V, seeds=seeds, sigma_next_seen=claim.following(k), working=working
    )
    results: list[SingularSubspace | None] = []
    for index, found in enumerate(certificates):
        if found.failures(tolerance):
            results.append(None)
            continue
        results.append(
            SingularSubspace(
                U=U[index].contiguous(),
                S=S[index].contiguous(),
                V=V[index].contiguous(),
                residual=found.residual,
                orthonormality=found.orthonormality,
                completeness=found.completeness,
                gap=found.gap,
                method=method,
                wedin_bound=found.wedin_bound,
                sigma_next=found.sigma_next,
                frobenius_squared=found.frobenius_squared,
            )
        )
    return results, certificates

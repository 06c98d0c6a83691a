"""Bottom subspaces: numpy's SVD in float64 is the witness, and a claim that misses the smallest triple is refused."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from skippy.core.spectral import bottom
from skippy.core.spectral.bottom import bottom_singular_subspaces
from skippy.core.spectral.certificate import MAX_GAP
from skippy.errors import SubspaceError

K = 5


def with_spectrum(values: list[float], out: int, in_: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    left, right = (
        torch.linalg.qr(torch.randn(rows, len(values), generator=generator, dtype=torch.float64)).Q
        for rows in (out, in_)
    )
    return (left * torch.tensor(values, dtype=torch.float64)) @ right.T


def random_weight(out: int, in_: int) -> Tensor:
    return torch.randn(out, in_, generator=torch.Generator().manual_seed(1))


CASES = {
    "tall": random_weight(60, 40),
    "wide bf16": random_weight(40, 60).to(torch.bfloat16),
    "square": random_weight(48, 48),
    "steep": with_spectrum(np.geomspace(1, 1e-5, 48).tolist(), 60, 48).float(),
    "tiny entries": 1e-30 * random_weight(60, 40),
}


@pytest.mark.parametrize("weight", CASES.values(), ids=CASES)
def test_they_are_the_smallest_triples(weight: Tensor) -> None:
    (found,) = bottom_singular_subspaces(weight[None], K, names=["w"])
    W = weight.double()
    exact = np.linalg.svd(W.numpy(), compute_uv=False)[::-1].copy()
    U, S, V = found.U.double(), found.S.double(), found.V.double()
    assert S.numpy() == pytest.approx(exact[:K], rel=1e-4, abs=1e-7 * exact[-1])
    worst = torch.cat([W @ V - U * S, W.T @ U - V * S]).norm(dim=0).max() / exact[-1]
    assert found.residual == pytest.approx(float(worst), rel=1e-2, abs=1e-9)
    assert found.residual < 1e-6
    assert found.sigma_next == pytest.approx(exact[K], rel=1e-4)
    assert found.gap == pytest.approx(exact[K] / exact[K - 1], rel=1e-3)
    assert found.completeness <= exact[K] * (1 + 1e-9)
    assert found.completeness > 0.95 * exact[K]


def test_a_claim_that_misses_the_smallest_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Residual and orthonormality alone would take it: the triples are true ones."""

    def next_ones(thin: Tensor, gram: Tensor, k: int) -> bottom._Claim:
        left, values, right = torch.linalg.svd(thin, full_matrices=False)
        claim = bottom._ascending(left, values, right.mT, k + 1, float(values[0]))
        return replace(claim, left=claim.left[:, 1:], values=claim.values[1:], right=claim.right[:, 1:])

    monkeypatch.setattr(bottom, "_claim_by_gram", next_ones)
    (rescued,) = bottom_singular_subspaces(CASES["tall"][None], K, names=["w"])
    assert rescued.method == "full"
    monkeypatch.setattr(bottom, "_claim_by_svd", next_ones)
    with pytest.raises(SubspaceError, match=r"could not be certified[\s\S]*w[\s\S]*missed"):
        bottom_singular_subspaces(CASES["tall"][None], K, names=["w"])


def test_where_the_bottom_is_degenerate_it_says_so() -> None:
    """Six values of zero: which five are protected is arbitrary, and the gap does not hide it."""
    weight = with_spectrum([1.0] * 34 + [0.0] * 6, 60, 40)
    (found,) = bottom_singular_subspaces(weight[None], K, names=["w"])
    assert found.gap == 1.0
    assert found.wedin_bound == 1.0
    (told_apart,) = bottom_singular_subspaces(weight[None], 6, names=["w"])
    assert told_apart.gap == MAX_GAP
    assert told_apart.wedin_bound < 1e-6


def test_k_must_fit() -> None:
    with pytest.raises(SubspaceError, match="k does not fit"):
        bottom_singular_subspaces(CASES["tall"][None], 41, names=["w"])
    (whole,) = bottom_singular_subspaces(CASES["tall"][None], 40, names=["w"])
    assert whole.gap == MAX_GAP

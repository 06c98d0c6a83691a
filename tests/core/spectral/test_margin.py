"""The margin equals the dense one, and turns negative exactly when ΔW overtakes a protected triple."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from skippy.core.spectral.lora import LoraFactors
from skippy.core.spectral.margin import top_margin


def dense_margin(W: Tensor, U: Tensor, S: Tensor, V: Tensor, factors: LoraFactors) -> float:
    rest = W.double() - (U.double() * S.double()) @ V.double().T
    delta = factors.scale * factors.B.double() @ factors.A.double()
    return float(S[-1].double() - torch.linalg.matrix_norm(rest + delta, 2))


def outside(size: float, U: Tensor, V: Tensor, seed: int, r: int = 4) -> LoraFactors:
    """A ΔW without leakage, of spectral norm about `size`."""
    generator = torch.Generator().manual_seed(seed)
    A, B = torch.randn(r, len(V), generator=generator), torch.randn(len(U), r, generator=generator)
    A, B = A - A @ V @ V.T, B - U @ (U.T @ B)
    return LoraFactors(A / A.norm(), size * B / B.norm(), 2.0)


@pytest.mark.parametrize("shape", [(24, 40), (90, 130), (400, 150), (150, 400)])
@pytest.mark.parametrize("size", [0.0, 0.3, 30.0])
def test_margin_equals_the_dense_one(shape, size):
    W = torch.randn(*shape, generator=torch.Generator().manual_seed(1)) / 10
    U, S, Vh = torch.linalg.svd(W.double(), full_matrices=False)
    U, S, V = U[:, :8].float(), S[:8].float(), Vh[:8].T.float()
    factors = outside(size, U, V, 3)
    expected = dense_margin(W, U, S, V, factors)
    assert top_margin(W, U, S, V, factors) == pytest.approx(expected, abs=1e-4 * float(S[0] + size))
    assert (top_margin(W, U, S, V, factors) > 0) == (size < 30)


@pytest.mark.parametrize("stored", [torch.float32, torch.float64])
def test_a_steep_spectrum_is_measured_in_float64(stored):
    values = 10.0 ** -torch.arange(0, 10, 0.25, dtype=torch.float64)
    left = torch.linalg.qr(torch.randn(80, 40, generator=torch.Generator().manual_seed(0)).double()).Q
    right = torch.linalg.qr(torch.randn(60, 40, generator=torch.Generator().manual_seed(1)).double()).Q
    W = ((left * values) @ right.T).to(stored)
    U, S, Vh = torch.linalg.svd(W.double())
    factors = LoraFactors(torch.zeros(2, 60), torch.zeros(80, 2), 1.0)
    found = top_margin(W, U[:, :20], S[:20], Vh[:20].T, factors)
    assert found == pytest.approx(float(S[19] - S[20]), rel=1e-5)


def test_a_float64_weight_is_measured_in_its_own_range():
    W = 1e60 * torch.randn(90, 130, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    U, S, Vh = torch.linalg.svd(W, full_matrices=False)
    factors = LoraFactors(torch.zeros(2, 130), torch.zeros(90, 2), 1.0)
    found = top_margin(W, U[:, :8], S[:8], Vh[:8].T, factors)
    assert found == pytest.approx(float(S[7] - S[8]), rel=1e-3)

"""ΔW algebra: every Gram formula equals the dense one, over shapes, ranks, scales and stacks."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from skippy.core.spectral.lora import LoraFactors, delta_energies, split_energies
from tests.core.spectral.single_target import (
    delta_energy,
    dense_delta,
    left_energy,
    left_singular_values,
    right_energy,
    right_singular_values,
    spectral_norm,
)

SHAPES = st.tuples(st.integers(1, 24), st.integers(1, 24), st.integers(1, 8))


def draw_factors(out: int, in_: int, r: int, seed: int, scale: float = 2.0) -> LoraFactors:
    generator = torch.Generator().manual_seed(seed)
    return LoraFactors(
        torch.randn(r, in_, generator=generator), torch.randn(out, r, generator=generator), scale
    )


def draw_basis(dim: int, k: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.linalg.qr(torch.randn(dim, k, generator=generator, dtype=torch.float64)).Q.float()


def dense(factors: LoraFactors) -> torch.Tensor:
    return factors.scale * factors.B.double() @ factors.A.double()


@settings(max_examples=60, deadline=None)
@given(SHAPES, st.integers(0, 10_000), st.sampled_from([0.5, 1.0, 2.0]))
def test_gram_formulas_equal_the_dense_ones(shape, seed, scale):
    out, in_, r = shape
    factors = draw_factors(out, in_, r, seed, scale)
    delta = dense(factors)
    U, V = draw_basis(out, min(4, out), seed + 1), draw_basis(in_, min(3, in_), seed + 2)
    whole = float((delta**2).sum())
    tolerance = 1e-12 * float((factors.A.double() ** 2).sum() * (factors.B.double() ** 2).sum())
    assert delta_energy(factors) == pytest.approx(whole, rel=1e-10, abs=tolerance)
    assert left_energy(factors, U) == pytest.approx(
        float(((U.double().T @ delta) ** 2).sum()), rel=1e-10, abs=tolerance
    )
    assert right_energy(factors, V) == pytest.approx(
        float(((delta @ V.double()) ** 2).sum()), rel=1e-10, abs=tolerance
    )
    assert spectral_norm(factors) == pytest.approx(float(torch.linalg.matrix_norm(delta, 2)), rel=1e-10)


@settings(max_examples=40, deadline=None)
@given(SHAPES, st.integers(0, 10_000))
def test_singular_values_of_the_parts_equal_the_dense_ones(shape, seed):
    out, in_, r = shape
    factors = draw_factors(out, in_, r, seed)
    delta = dense(factors)
    U, V = draw_basis(out, min(4, out), seed + 1), draw_basis(in_, min(3, in_), seed + 2)
    for small, part in (
        (left_singular_values(factors, U), U.double().T @ delta),
        (right_singular_values(factors, V), delta @ V.double()),
    ):
        full = torch.linalg.svdvals(part)
        assert torch.allclose(small, full[: len(small)], rtol=1e-9, atol=1e-12 * float(full[0] + 1))
        assert float(full[len(small) :].sum()) <= 1e-9 * float(full[0] + 1)


def test_a_stack_gives_what_its_members_give():
    members = [draw_factors(20, 30, 4, seed) for seed in range(5)]
    bases = [(draw_basis(20, 3, seed), draw_basis(30, 2, seed)) for seed in range(5)]
    A, B = torch.stack([f.A for f in members]), torch.stack([f.B for f in members])
    U, V = torch.stack([u for u, _ in bases]), torch.stack([v for _, v in bases])
    torch.testing.assert_close(
        delta_energies(A, B, 2.0), torch.tensor([delta_energy(f) for f in members], dtype=torch.float64)
    )
    left = [left_energy(f, u) for f, (u, _) in zip(members, bases, strict=True)]
    right = [right_energy(f, v) for f, (_, v) in zip(members, bases, strict=True)]
    found = split_energies(A, B, 2.0, U, V)
    torch.testing.assert_close(found[:, 0], torch.tensor(left, dtype=torch.float64))
    torch.testing.assert_close(found[:, 1], torch.tensor(right, dtype=torch.float64))


def test_a_fresh_adapter_is_zero_everywhere():
    factors = LoraFactors(torch.randn(4, 9), torch.zeros(7, 4), 2.0)
    assert delta_energy(factors) == left_energy(factors, draw_basis(7, 2, 0)) == spectral_norm(factors) == 0.0


def test_energy_below_float32_resolution_is_still_measured():
    """A relative leakage of 1e-18 in energy is a float64 question: in float32 the same trace loses it."""
    U = torch.linalg.qr(torch.randn(64, 4, generator=torch.Generator().manual_seed(0)).double()).Q
    inside = U[:, :1] * 1e-9
    outside = torch.randn(64, 1, generator=torch.Generator().manual_seed(1)).double()
    outside -= U @ (U.T @ outside)
    outside /= outside.norm()
    factors = LoraFactors(torch.ones(1, 1, dtype=torch.float64), outside + inside, 1.0)
    assert left_energy(factors, U) == pytest.approx(1e-18, rel=1e-5)
    in_float32 = U.float().T @ (outside + inside).float()
    assert abs(float((in_float32**2).sum()) - 1e-18) > 1e-19


def test_dense_delta_is_the_merge_formula():
    factors = draw_factors(6, 5, 2, 0)
    assert dense_delta(factors).dtype == torch.float32
    torch.testing.assert_close(dense_delta(factors).double(), dense(factors), rtol=1e-5, atol=1e-5)

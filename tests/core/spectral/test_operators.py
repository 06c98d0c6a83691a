"""A walk over a weight in pieces gives the products of the whole, for every shape, storage and precision."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from skippy.core.spectral import operators
from skippy.core.spectral.operators import Deflated, ThinSide

SHAPES = [
    (1, 90, 40),
    (1, 40, 90),
    (1, 50, 50),
    (1, 1, 30),
    (1, 30, 1),
    (3, 90, 40),
    (3, 40, 90),
    (9, 40, 40),
]


def gaussian(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture(autouse=True)
def _small_pieces(monkeypatch):
    """Seven rows a piece, so that a last piece is a ragged one."""
    monkeypatch.setattr(operators, "CAST_ELEMENTS", 7 * 40 // torch.get_num_threads())
    monkeypatch.setattr(operators, "PLAIN_ELEMENTS", 7 * 40)


@pytest.mark.parametrize("make", [ThinSide, ThinSide.copied])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("stored", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_products_equal_those_of_the_whole(make, shape, stored, dtype):
    weights = gaussian(*shape).to(stored)
    base = make(weights, dtype)
    M = weights.double().mT if shape[1] < shape[2] else weights.double()
    short, long = gaussian(shape[0], M.shape[2], 5, seed=1), gaussian(shape[0], M.shape[1], 5, seed=2)
    near = {"rtol": 0.0, "atol": 1e-4 if dtype == torch.float32 else 1e-11}

    assert base.is_wide == (shape[1] < shape[2])
    assert base.columns == M.shape[2]
    torch.testing.assert_close(base.multiply(short.to(dtype)).double(), M @ short, **near)
    torch.testing.assert_close(base.multiply_transposed(long.to(dtype)).double(), M.mT @ long, **near)
    image, back = base.multiply_both(short.to(dtype))
    torch.testing.assert_close(image.double(), M @ short, **near)
    torch.testing.assert_close(back.double(), M.mT @ (M @ short), rtol=0.0, atol=50 * near["atol"])
    image, back, squares = base.multiply_each(short.to(dtype), long.to(dtype))
    torch.testing.assert_close(image.double(), M @ short, **near)
    torch.testing.assert_close(back.double(), M.mT @ long, **near)
    torch.testing.assert_close(squares.double(), M.square().sum(dim=(1, 2)), rtol=1e-5, atol=0.0)


@pytest.mark.parametrize("shape", SHAPES[:3])
def test_deflation_takes_both_sides_out(shape):
    weights = gaussian(*shape)
    base = ThinSide(weights, torch.float64)
    M = weights.mT if base.is_wide else weights
    left = torch.linalg.qr(gaussian(1, M.shape[1], 4, seed=1)).Q
    right = torch.linalg.qr(gaussian(1, M.shape[2], 4, seed=2)).Q
    outside = (M - left @ (left.mT @ M)) @ (torch.eye(M.shape[2]).double() - right @ right.mT)
    block = gaussian(1, M.shape[2], 5, seed=3)
    image, back = Deflated.of(base, left, right).multiply_both(block)
    torch.testing.assert_close(image, outside @ block)
    torch.testing.assert_close(back, outside.mT @ outside @ block)
    torch.testing.assert_close(Deflated.of(base, left, right).multiply(block), image)


def test_nothing_is_copied_that_lies_ready():
    tall = gaussian(1, 90, 40).float()
    assert not ThinSide.copied(tall, torch.float32).copies
    assert ThinSide.copied(tall.bfloat16(), torch.float32).copies
    assert ThinSide.copied(tall.mT.contiguous(), torch.float32).copies, "columns of a wide weight lie apart"


def test_a_walk_reads_the_copies_where_there_are_some():
    base = ThinSide.copied(gaussian(1, 90, 40).bfloat16(), torch.float32)
    doubled = replace(base, copies=tuple(2 * piece for piece in base.copies))
    block = gaussian(1, 40, 5, seed=1).float()
    torch.testing.assert_close(doubled.multiply(block), 2 * base.multiply(block))


@pytest.mark.parametrize("shape", [*SHAPES[:3], SHAPES[5]])
def test_copies_hold_the_weight_once(shape):
    weights = gaussian(*shape).bfloat16()
    base = ThinSide.copied(weights, torch.float32)
    M = weights.float().mT if base.is_wide else weights.float()
    assert torch.equal(torch.cat(base.copies, dim=1), M)
    assert len(base.copies) > 1
    assert max(piece.numel() for piece in base.copies) <= operators.PLAIN_ELEMENTS
    for piece in base.copies:
        assert piece.mT.is_contiguous() if base.is_wide else piece.is_contiguous()

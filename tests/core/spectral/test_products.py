"""Thin products equal those of float64 for every layout, in the full precision of float32 whatever a trainer set."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from skippy.core.spectral import products
from skippy.core.spectral.precision import full_float32
from skippy.core.spectral.products import thin_product


def gaussian(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def error_of(matrix: Tensor, block: Tensor) -> float:
    """Largest error relative to the sum of magnitudes that each entry adds up."""
    exact = matrix.double() @ block.double()
    return float(
        ((thin_product(matrix, block) - exact).abs() / (matrix.double().abs() @ block.double().abs())).max()
    )


LAYOUTS = {
    "by rows": lambda n, rows, q: gaussian(n, rows, q),
    "transposed": lambda n, rows, q: gaussian(n, q, rows).mT,
    "a slice of columns": lambda n, rows, q: gaussian(n, rows, q + 3)[..., 2 : q + 2],
    "a transposed slice": lambda n, rows, q: gaussian(n, q, rows + 3)[..., 2 : rows + 2].mT,
    "every other row": lambda n, rows, q: gaussian(n, 2 * rows, q)[:, ::2],
    "every other column": lambda n, rows, q: gaussian(n, rows, 2 * q)[..., ::2],
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", [(1, 300, 70), (1, 70, 300), (1, 1, 9), (1, 9, 1), (1, 1, 1), (3, 40, 30)])
@pytest.mark.parametrize("columns", [1, 16])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_layout_gives_the_product(layout, shape, columns, dtype):
    matrix = LAYOUTS[layout](*shape).to(dtype)
    block = gaussian(shape[0], shape[2], columns, seed=1).to(dtype)
    assert error_of(matrix, block) < torch.finfo(dtype).eps * shape[2]


def test_a_matrix_that_lies_ready_goes_to_onednn_and_others_do_not(monkeypatch):
    """The twin: with a broken kernel only the products that use it go wrong."""
    monkeypatch.setattr(products, "_linear", lambda inputs, weight: 2 * inputs @ weight.mT)
    block = gaussian(1, 70, 16, seed=1)
    is_used = torch.backends.mkldnn.is_available()
    for layout, is_ready in (("by rows", True), ("transposed", True), ("a slice of columns", False)):
        is_wrong = error_of(LAYOUTS[layout](1, 300, 70), block) > 0.01
        assert is_wrong == (is_ready and is_used), layout


@pytest.mark.parametrize(
    ("backend", "low"), [(torch.backends.mkldnn.matmul, "bf16"), (torch.backends.cuda.matmul, "tf32")]
)
def test_a_trainers_precision_is_lifted_and_put_back_after_an_error_too(backend, low):
    """The setting and not its effect, which few processors show."""
    saved, within = backend.fp32_precision, []

    def fail_within() -> None:
        with full_float32(torch.device("cpu")):
            within.append(backend.fp32_precision)
            raise KeyError

    try:
        backend.fp32_precision = low
        with pytest.raises(KeyError):
            fail_within()
        assert within == ["ieee"]
        assert backend.fp32_precision == low
    finally:
        backend.fp32_precision = saved

"""Products of a large matrix with a few columns, by the kernel that suits them.

On a CPU, torch hands float32 products to MKL, which is slow where one factor has only 16 to 64 columns. The
linear layer of oneDNN, which torch carries as well, takes 0.4 to 0.8 of the time:
`python -m benchmarks.bench_subspace` measures both.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def thin_product(
    matrix: Float[Tensor, "n rows q"], block: Float[Tensor, "n q b"]
) -> Float[Tensor, "n rows b"]:
    """M X for each member of a stack, where X has few columns: as M X where M lies by rows, else as (XᵀMᵀ)ᵀ."""
    lies_by_rows = matrix.stride(-1) == 1
    if not _suits_onednn(matrix):
        return matrix @ block if lies_by_rows else (block.mT @ matrix.mT).mT
    rows, few = matrix[0], block[0].mT.contiguous()
    return (_linear(rows, few) if lies_by_rows else _linear(few, rows).mT)[None]


def _suits_onednn(matrix: Tensor) -> bool:
    is_lone = matrix.device.type == "cpu" and matrix.dtype == torch.float32 and len(matrix) == 1
    lies_ready = matrix.is_contiguous() or matrix.mT.is_contiguous()
    return is_lone and lies_ready and torch.backends.mkldnn.is_available()


def _linear(inputs: Float[Tensor, "m q"], weight: Float[Tensor, "o q"]) -> Float[Tensor, "m o"]:
    # `functional.linear` would go to MKL. This is the operator that torch.compile calls, of the torch we pin.
    return torch.ops.mkldnn._linear_pointwise(inputs, weight, None, "none", [], "")

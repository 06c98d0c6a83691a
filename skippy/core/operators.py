"""A stack of weights as operators: products with a few vectors in a chosen precision, without a full copy.

What an iteration needs of M is the pair M X and Mᵀ(M X). On a CPU both come from one walk over the weight, a
cache-sized piece at a time: it is memory that such thin products wait for.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

# A piece of a weight that is cast on the way stays in the second caches of a CPU, one a thread (four times faster
# than 2^22); one that is used as it lies, in the third (1.3 to 1.5 times faster than two walks). A GPU wants large
# pieces.
CAST_ELEMENTS = 1 << 18
PLAIN_ELEMENTS = 1 << 20
DEVICE_CAST_ELEMENTS = 1 << 28


@dataclass(frozen=True, eq=False)
class WeightOperator:
    """Products with the stored weights in a precision of choice.

    Attributes:
        weights: (n, out, in), as stored.
        dtype: precision of the arithmetic; where it is the stored one, nothing is copied.
    """

    weights: Float[Tensor, "n out in"]
    dtype: torch.dtype

    def times(self, block: Float[Tensor, " n in b"]) -> Float[Tensor, "n out b"]:
        """W X, by rows of W."""
        return torch.cat([rows @ block for _, rows in self.pieces(1)], dim=1)

    def transposed_times(self, block: Float[Tensor, "n out b"]) -> Float[Tensor, " n in b"]:
        """WᵀX, as (XᵀW)ᵀ: for a tall W and few columns that is six times faster on a CPU."""
        n, _, in_ = self.weights.shape
        total = block.new_zeros(n, block.shape[2], in_)
        for span, rows in self.pieces(1):
            total.baddbmm_(block[:, span].mT, rows)
        return total.mT

    def times_both(
        self, block: Float[Tensor, " n in b"]
    ) -> tuple[Float[Tensor, "n out b"], Float[Tensor, " n in b"]]:
        """W X and WᵀW X, by rows of W."""
        images, back = [], block.new_zeros(block.mT.shape)
        for _, rows in self.pieces(1):
            images.append(rows @ block)
            back.baddbmm_(images[-1].mT, rows)
        return torch.cat(images, dim=1), back.mT

    def transposed_times_both(
        self, block: Float[Tensor, "n out b"]
    ) -> tuple[Float[Tensor, " n in b"], Float[Tensor, "n out b"]]:
        """WᵀX and W WᵀX, by columns of W."""
        images, back = [], torch.zeros_like(block)
        for _, columns in self.pieces(2):
            images.append(block.mT @ columns)
            back.baddbmm_(columns, images[-1].mT)
        return torch.cat(images, dim=2).mT, back

    def times_each(
        self, right: Float[Tensor, " n in b"], left: Float[Tensor, "n out b"]
    ) -> tuple[Float[Tensor, "n out b"], Float[Tensor, " n in b"], Float[Tensor, " n"]]:
        """W X, WᵀY and ‖W‖_F², by rows of W: it is the cast of a piece that costs, so once is enough."""
        n, _, in_ = self.weights.shape
        images, back, squares = [], left.new_zeros(n, left.shape[2], in_), left.new_zeros(n)
        for span, rows in self.pieces(1):
            images.append(rows @ right)
            back.baddbmm_(left[:, span].mT, rows)
            squares += torch.linalg.vector_norm(rows, dim=(1, 2)).square()
        return torch.cat(images, dim=1), back.mT, squares

    def pieces(self, dim: int) -> Iterator[tuple[slice, Tensor]]:
        """Spans along a dimension of the stack, and that part of it in `dtype`."""
        size = self.weights.shape[dim]
        step = max(1, self._piece_elements() * size // max(1, self.weights.numel()))
        for start in range(0, size, step):
            span = slice(start, min(start + step, size))
            yield span, self.weights.narrow(dim, start, span.stop - start).to(self.dtype)

    def _piece_elements(self) -> int:
        is_cast = self.weights.dtype != self.dtype
        if self.weights.device.type == "cpu":
            return CAST_ELEMENTS * torch.get_num_threads() if is_cast else PLAIN_ELEMENTS
        return DEVICE_CAST_ELEMENTS if is_cast else max(1, self.weights.numel())


@dataclass(frozen=True, eq=False)
class ThinSide:
    """M = W where W is tall and Wᵀ where it is wide, so that the iteration lives on the shorter side."""

    weight: WeightOperator

    @property
    def is_wide(self) -> bool:
        """Whether M is the transpose of the weight."""
        return self.weight.weights.shape[1] < self.weight.weights.shape[2]

    @property
    def columns(self) -> int:
        """The shorter side."""
        return min(self.weight.weights.shape[1:])

    def multiply(self, block: Float[Tensor, "n q b"]) -> Float[Tensor, "n p b"]:
        """M X."""
        return self.weight.transposed_times(block) if self.is_wide else self.weight.times(block)

    def multiply_transposed(self, block: Float[Tensor, "n p b"]) -> Float[Tensor, "n q b"]:
        """MᵀX."""
        return self.weight.times(block) if self.is_wide else self.weight.transposed_times(block)

    def multiply_both(
        self, block: Float[Tensor, "n q b"]
    ) -> tuple[Float[Tensor, "n p b"], Float[Tensor, "n q b"]]:
        """M X and MᵀM X."""
        return self.weight.transposed_times_both(block) if self.is_wide else self.weight.times_both(block)


@dataclass(frozen=True, eq=False)
class Deflated:
    """(I − L Lᵀ) M (I − R Rᵀ): what is left of M outside span(L) and span(R), both orthonormal.

    Attributes:
        base: M.
        left: L.
        right: R.
        pulled: MᵀL, which lets one walk over M serve both products.
    """

    base: ThinSide
    left: Float[Tensor, "n p k"]
    right: Float[Tensor, "n q k"]
    pulled: Float[Tensor, "n q k"]

    @classmethod
    def of(cls, base: ThinSide, left: Float[Tensor, "n p k"], right: Float[Tensor, "n q k"]) -> Deflated:
        """Deflate `base` by orthonormal columns on either side."""
        return cls(base, left, right, base.multiply_transposed(left))

    def multiply(self, block: Float[Tensor, "n q b"]) -> Float[Tensor, "n p b"]:
        """(I − L Lᵀ) M (I − R Rᵀ) X."""
        return _outside(self.left, self.base.multiply(_outside(self.right, block)))

    def multiply_both(
        self, block: Float[Tensor, "n q b"]
    ) -> tuple[Float[Tensor, "n p b"], Float[Tensor, "n q b"]]:
        """The product above, and that of the transpose with it: Mᵀ(I − L Lᵀ)Z = MᵀZ − (MᵀL)(LᵀZ)."""
        image, back = self.base.multiply_both(_outside(self.right, block))
        inside = self.left.mT @ image
        image = torch.baddbmm(image, self.left, inside, alpha=-1)
        return image, _outside(self.right, torch.baddbmm(back, self.pulled, inside, alpha=-1))


def _outside(basis: Float[Tensor, "n rows k"], block: Float[Tensor, "n rows b"]) -> Float[Tensor, "n rows b"]:
    return torch.baddbmm(block, basis, basis.mT @ block, alpha=-1)

"""A stack of weights as operators: products with a few vectors in a chosen precision.

What an iteration needs of M is the pair M X and Mᵀ(M X). Both come from one walk over the weight, a piece of
cache size at a time: it is memory that such thin products wait for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import reduce

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from skippy.core.spectral.products import thin_product

# On a CPU a piece that is cast on the way stays in the second caches, one a thread (four times faster than
# 2^22); one that is used as it lies, in the third. A GPU wants large pieces.
CAST_ELEMENTS = 1 << 18
PLAIN_ELEMENTS = 1 << 21
DEVICE_CAST_ELEMENTS = 1 << 28


@dataclass(frozen=True, eq=False)
class ThinSide:
    """M = W where W is tall and Wᵀ where it is wide, so that the iteration lives on the shorter side q."""

    weights: Float[Tensor, "n out in"]  # as stored
    # precision of the arithmetic; a piece that is stored otherwise is cast whenever it is needed
    dtype: torch.dtype
    # the pieces of M in `dtype`, where `copied` has made them
    copies: tuple[Float[Tensor, "n _ q"], ...] = ()

    @classmethod
    def copied(cls, weights: Float[Tensor, "n out in"], dtype: torch.dtype) -> ThinSide:
        """The whole stack in `dtype`, for many walks; nothing is copied that lies ready."""
        plain = cls(weights, dtype)
        if weights.device.type != "cpu":
            return cls(weights.to(dtype), dtype)
        if weights.dtype == dtype and not plain.is_wide:
            return plain
        return cls(weights, dtype, tuple(_copy(piece, dtype) for piece in plain._split(PLAIN_ELEMENTS)))

    @property
    def is_wide(self) -> bool:
        """Whether M is the transpose of the weight."""
        return self.weights.shape[1] < self.weights.shape[2]

    @property
    def columns(self) -> int:
        """The shorter side."""
        return min(self.weights.shape[1:])

    def multiply(self, block: Float[Tensor, "n q b"]) -> Float[Tensor, "n p b"]:
        """M X."""
        image = self._room_for(block)
        for span, piece in self._walk():
            image[:, span] = thin_product(piece, block)
        return image

    def multiply_transposed(self, block: Float[Tensor, "n p b"]) -> Float[Tensor, "n q b"]:
        """MᵀY."""
        return self._sum(lambda span, piece: thin_product(piece.mT, block[:, span]))

    def multiply_both(
        self, block: Float[Tensor, "n q b"]
    ) -> tuple[Float[Tensor, "n p b"], Float[Tensor, "n q b"]]:
        """M X and MᵀM X."""
        image = self._room_for(block)

        def back(span: slice, piece: Tensor) -> Tensor:
            image[:, span] = thin_product(piece, block)
            return thin_product(piece.mT, image[:, span])

        return image, self._sum(back)

    def multiply_each(
        self, right: Float[Tensor, "n q b"], left: Float[Tensor, "n p b"]
    ) -> tuple[Float[Tensor, "n p b"], Float[Tensor, "n q b"], Float[Tensor, " n"]]:
        """M X, MᵀY and ‖M‖_F²: it is the cast of a piece that costs, so once is enough."""
        image, squares = self._room_for(right), right.new_zeros(len(right))

        def back(span: slice, piece: Tensor) -> Tensor:
            image[:, span] = thin_product(piece, right)
            squares.add_(torch.linalg.vector_norm(piece, dim=(1, 2)).square())
            return thin_product(piece.mT, left[:, span])

        return image, self._sum(back), squares

    def _room_for(self, block: Float[Tensor, "n q b"]) -> Float[Tensor, "n p b"]:
        """Room for an image, taken at once: small results between freed pieces would fragment the memory."""
        return block.new_empty(len(block), max(self.weights.shape[1:]), block.shape[2])

    def _sum(self, term: Callable[[slice, Tensor], Tensor]) -> Tensor:
        """The sum of what `term` makes of each piece, laid out as the first."""
        return reduce(Tensor.add_, (term(span, piece) for span, piece in self._walk()))

    def _walk(self) -> Iterator[tuple[slice, Float[Tensor, "n rows q"]]]:
        """Spans of the long side, and those rows of M in `dtype`."""
        start = 0
        for piece in self.copies or self._split(self._piece_elements()):
            span = slice(start, start + piece.shape[1])
            yield span, piece.to(self.dtype)
            start = span.stop

    def _split(self, elements: int) -> tuple[Tensor, ...]:
        long = self.weights.mT if self.is_wide else self.weights
        return long.split(max(1, elements * long.shape[1] // max(1, long.numel())), dim=1)

    def _piece_elements(self) -> int:
        is_cast = self.weights.dtype != self.dtype
        if self.weights.device.type == "cpu":
            return CAST_ELEMENTS * torch.get_num_threads() if is_cast else PLAIN_ELEMENTS
        return DEVICE_CAST_ELEMENTS if is_cast else max(1, self.weights.numel())


@dataclass(frozen=True, eq=False)
class Deflated:
    """(I − L Lᵀ) M (I − R Rᵀ): what is left of M outside span(L) and span(R), both orthonormal."""

    base: ThinSide  # M
    left: Float[Tensor, "n p k"]  # L
    right: Float[Tensor, "n q k"]  # R
    pulled: Float[Tensor, "n q k"]  # MᵀL, which lets one walk over M serve both products

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


def _copy(piece: Float[Tensor, "n rows q"], dtype: torch.dtype) -> Float[Tensor, "n rows q"]:
    """The piece in `dtype`, contiguous the way round it lies, on the large memory pages that numpy asks for."""
    as_it_lies = piece if piece.stride(-1) == 1 else piece.mT
    room = torch.from_numpy(np.empty(as_it_lies.numel() * dtype.itemsize, np.uint8)).view(dtype)
    room = room.view(as_it_lies.shape).copy_(as_it_lies)
    return room if as_it_lies is piece else room.mT

"""The noun *basis*: the protected directions of one target."""

from __future__ import annotations

from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor


class Basis(NamedTuple):
    """Top-k singular triples of one target, float32 (MATH §1)."""

    U: Float[Tensor, "out k"]
    S: Float[Tensor, " k"]
    V: Float[Tensor, "in k"]

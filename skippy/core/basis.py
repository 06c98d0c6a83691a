"""The noun *basis*: the protected directions of one target."""

from __future__ import annotations

from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor


class Basis(NamedTuple):
    """Singular triples of one target, float32 (MATH §1); U has no columns where only inputs are protected."""

    U: Float[Tensor, "out _"]
    S: Float[Tensor, " k"]
    V: Float[Tensor, "in k"]

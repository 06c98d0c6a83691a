"""From float32 to the type that a weight is stored in: to the nearest value, or by chance to one of its neighbours.

Nearest rounding sends every value the same way each time: an update of less than half a step of the stored type moves
some weights by a whole step and most not at all. Stochastic rounding takes the upper neighbour with the probability
with which the value lies towards it, so that its error has mean zero for every weight: on average ΔW is kept, at the
price of noise that makes the error of any one merge larger.

Source: Gupta et al. 2015, arXiv 1502.02551, §3 (their eq. for stochastic rounding). Departure: floating point, so
that the step is that of the value's own binade.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def round_stochastically(
    values: Float[Tensor, "*shape"], dtype: torch.dtype, generator: torch.Generator
) -> Float[Tensor, "*shape"]:
    """Round float32 values to `dtype`, up with probability (value − lower) / (upper − lower)."""
    if dtype == torch.float32:
        return values
    nearest = values.to(dtype)
    miss = values - nearest.float()
    towards = torch.where(miss > 0, torch.inf, -torch.inf).to(dtype)
    neighbour = torch.nextafter(nearest, towards)
    step = (neighbour.float() - nearest.float()).abs_()
    drawn = torch.rand(values.shape, generator=generator, device=values.device, dtype=torch.float32)
    moves = drawn * step < miss.abs_()
    return torch.where(moves & (miss != 0) & neighbour.isfinite(), neighbour, nearest)

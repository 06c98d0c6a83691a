"""Which weights of a matrix go: masks from how strongly each input channel is driven under two prompts.

`plus` and `minus` are a_j = sqrt(mean_t x_tj²) over answer tokens under the character's prompt and plainly, (in,).
Every rule looks at one output row at a time, so that rows can be masked as they are read. In each row exactly
⌊ρ·in⌋ weights go; of equal scores the first goes, on every device.

- `wanda`: the smallest |W|·a⁺. For uncorrelated inputs it is the row-wise optimum of ‖(W − W')x‖².
- `c-relative`: with r_j = (a⁺_j − a⁻_j)/(a⁺_j + a⁻_j), of the lower half of |W|·min(a⁺, a⁻) those with the smallest r:
  weights that matter to neither, on channels that the character uses less than others do.
- `c-sparse`: the smallest difference of row-normalised scores, |W|a⁺/Σ|W|a⁺ − |W|a⁻/Σ|W|a⁻. An ablation: scores differ
  most where they are large, so it takes weights that matter most.

Source: Wanda, arXiv 2306.11695, eq. 1; personality subnetworks, arXiv 2602.07164, for the contrast of `c-sparse`.
Departure: `c-relative` is ours; it normalises the contrast by channel and spares what matters.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from skippy.errors import SubspaceError

LEAST_CONTRAST = 1e-5
"""Spread of r below which a⁺ is a multiple of a⁻ but for rounding."""


def cut_mask(
    rule: str,
    weight: Float[Tensor, "rows in"],
    plus: Float[Tensor, " in"],
    minus: Float[Tensor, " in"],
    rho: float,
) -> Bool[Tensor, "rows in"]:
    """Where weights go: ⌊ρ·in⌋ in every row.

    Args:
        rule: a key of `RULES`.
        weight: some rows of W, any float type; scores are taken in float32.
    """
    return RULES[rule](weight.float().abs(), plus, minus, int(rho * weight.shape[1]))


def require_contrast(rule: str, plus: Float[Tensor, " in"], minus: Float[Tensor, " in"], name: str) -> None:
    """Refuse statistics that are a multiple of each other, where the rule lives by their difference.

    Raises:
        SubspaceError: there is no contrast.
    """
    relative = relative_contrast(plus, minus)
    spread = float(relative.max() - relative.min())
    if rule != "wanda" and spread < LEAST_CONTRAST:
        raise SubspaceError(
            "There is no contrast between the character and plain answers.",
            where=name,
            expected="input channels that differ by more than one common factor",
            found=f"a⁺ is a multiple of a⁻: r spreads over {spread:.1e}",
            next_step="check the character's system prompt, or pass settings=mask.rule=wanda",
        )


def relative_contrast(plus: Float[Tensor, " in"], minus: Float[Tensor, " in"]) -> Float[Tensor, " in"]:
    """r_j = (a⁺_j − a⁻_j)/(a⁺_j + a⁻_j), in [−1, 1]; 0 for a channel that is silent in both."""
    return (plus - minus) / (plus + minus).clamp(min=torch.finfo(plus.dtype).tiny)


def smallest(scores: Float[Tensor, "rows in"], count: int) -> Bool[Tensor, "rows in"]:
    """Where the `count` smallest of each row are; of equal ones the first.

    By threshold and not by sorting, so that every device gives the same bits.
    """
    if count == 0:
        return torch.zeros_like(scores, dtype=torch.bool)
    threshold = _kth(scores, count)
    below, equal = scores < threshold, scores == threshold
    wanting = count - below.sum(dim=1, keepdim=True)
    if bool((equal.sum(dim=1, keepdim=True) > wanting).any()):
        equal &= equal.cumsum(dim=1) <= wanting
    return below | equal


def _kth(scores: Float[Tensor, "rows in"], count: int) -> Float[Tensor, "rows 1"]:
    """The `count`-th smallest of each row; numpy's selection is ten times torch's on a CPU."""
    if scores.device.type != "cpu":
        return scores.kthvalue(count, dim=1, keepdim=True).values
    return torch.from_numpy(np.partition(scores.numpy(), count - 1, axis=1)[:, count - 1 : count].copy())


def project_cut(
    delta: Float[Tensor, "rows in"],
    U: Float[Tensor, "rows k"],
    V: Float[Tensor, "in k"],
    written: Float[Tensor, "k in"],
) -> Float[Tensor, "rows in"]:
    """Rows of P_L ΔW P_R, with P_L = I − U Uᵀ, P_R = I − V Vᵀ and `written` = Uᵀ ΔW of the whole matrix.

    With it (W + t·P_L ΔW P_R) v_i = σ_i u_i and its transpose hold for the top k triples at every t.

    Source: OPLoRA, arXiv 2510.13003, Prop. 2. Departure: ΔW is a mask's, not LoRA's.
    """
    left = delta - U @ written
    return left - (left @ V) @ V.mT


def _wanda(magnitude: Tensor, plus: Tensor, minus: Tensor, count: int) -> Tensor:
    return smallest(magnitude * plus, count)


def _c_relative(magnitude: Tensor, plus: Tensor, minus: Tensor, count: int) -> Tensor:
    candidates = smallest(magnitude * torch.minimum(plus, minus), magnitude.shape[1] // 2)
    contrast = relative_contrast(plus, minus).expand_as(magnitude)
    return smallest(torch.where(candidates, contrast, torch.inf), count)


def _c_sparse(magnitude: Tensor, plus: Tensor, minus: Tensor, count: int) -> Tensor:
    shares = [
        scores / scores.sum(dim=1, keepdim=True, dtype=torch.float64)
        for scores in (magnitude * plus, magnitude * minus)
    ]
    return smallest(shares[0] - shares[1], count)


RULES: Mapping[str, Callable[[Tensor, Tensor, Tensor, int], Tensor]] = {
    "c-relative": _c_relative,
    "wanda": _wanda,
    "c-sparse": _c_sparse,
}
"""Name of a rule → |W|, a⁺, a⁻ and how many of each row go → where they are."""

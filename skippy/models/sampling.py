"""How a token is chosen: sampling that does not depend on who else is in the batch.

The Gumbel-max identity: if g_v are independent standard Gumbel variables, argmax_v (log p_v + g_v) is an
exact draw from p. The noise here is a pure function of (sample seed, position, token), so that the same
sample comes out whatever the batch, its order, and however often a run was interrupted.

Source: Maddison et al. 2014, arXiv 1411.0030, §3 (the identity); Salmon et al. 2011 (counter-based
generators); the mixing function is the finaliser of SplitMix64 (Steele et al. 2014), applied twice.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from skippy.core.sampling import Sampling

GOLDEN = 0x9E3779B97F4A7C15
MIX_1 = 0xBF58476D1CE4E5B9
MIX_2 = 0x94D049BB133111EB
MASK_64 = (1 << 64) - 1


def choose(
    logits: Tensor,
    sampling: Sampling,
    seeds: Sequence[int],
    positions: Sequence[int],
    seen: Tensor | None = None,
) -> Tensor:
    """Choose one token a row.

    Args:
        logits: (rows, vocabulary), any float type.
        sampling: presence penalty, then temperature, then top-k, then top-p, in this order.
        seeds: of each row's sample.
        positions: number of tokens each row has generated so far.
        seen: (rows, vocabulary) bool, tokens that the row has generated; needed for a presence penalty.

    Returns:
        (rows,) int64.
    """
    return choose_by_keys(logits, sampling, row_keys(seeds, positions).to(logits.device), seen)


def choose_by_keys(logits: Tensor, sampling: Sampling, keys: Tensor, seen: Tensor | None = None) -> Tensor:
    """`choose`, each row's random choice decided by its key, (rows,) int64 on the device of the logits.

    Nothing here depends on a value that only the host knows, so a CUDA graph can hold it.
    """
    scores = logits.float()
    if sampling.presence_penalty and seen is not None:
        scores = scores - sampling.presence_penalty * seen
    if sampling.temperature == 0:
        return scores.argmax(-1)
    scores, tokens = keep_candidates(scores / sampling.temperature, sampling.top_k, sampling.top_p)
    noisy = scores.double() + gumbel_noise(keys, tokens)
    best = noisy.argmax(-1, keepdim=True)
    return best[:, 0] if tokens.shape[0] == 1 < len(keys) else tokens.gather(-1, best)[:, 0]


def keep_candidates(scores: Tensor, top_k: int, top_p: float) -> tuple[Tensor, Tensor]:
    """Drop what top-k and top-p drop; what top-p drops has a score of −inf.

    Returns:
        Scores (rows, c) and the tokens they belong to, (rows, c), or (1, c) where all are kept.
    """
    vocabulary = scores.shape[-1]
    if top_k and top_k < vocabulary:
        scores, tokens = scores.topk(top_k, dim=-1)
    elif top_p < 1:
        scores, tokens = scores.sort(dim=-1, descending=True)
    else:
        return scores, torch.arange(vocabulary, device=scores.device)[None]
    if top_p < 1:
        probabilities = scores.softmax(-1)
        before = probabilities.cumsum(-1) - probabilities
        scores = scores.masked_fill(before >= top_p, -math.inf)
    return scores, tokens


def gumbel_noise(keys: Tensor, tokens: Tensor) -> Tensor:
    """Standard Gumbel noise, float64, a pure function of (key, token).

    Args:
        keys: (rows,) int64, of `row_keys` or `keys_at`.
        tokens: (rows, c) or (1, c) token numbers.

    Returns:
        (rows, c) on the device of `tokens`.
    """
    bits = _mix(_mix(keys[:, None] + tokens * _signed(GOLDEN)))
    uniform = ((bits >> 11) & ((1 << 53) - 1)).double().add_(0.5).mul_(2.0**-53)
    return uniform.log_().neg_().log_().neg_()


def row_keys(seeds: Sequence[int], positions: Sequence[int]) -> Tensor:
    """One 64-bit key a row, from its seed and position, as int64 on the CPU."""
    return keys_at(seed_keys(seeds), torch.tensor(positions, dtype=torch.long))


def seed_keys(seeds: Sequence[int]) -> Tensor:
    """(rows,) int64 on the CPU from any Python integers, of which the low 64 bits count."""
    return _mix(
        torch.tensor([_signed(value & MASK_64) for value in seeds], dtype=torch.long) + _signed(GOLDEN)
    )


def keys_at(keys: Tensor, positions: Tensor) -> Tensor:
    """The keys of rows with these `seed_keys` at these positions, on the device where both are."""
    return _mix(keys + positions * _signed(GOLDEN))


def _mix(bits: Tensor) -> Tensor:
    """SplitMix64's finaliser on int64 tensors; the masks make the arithmetic shifts logical."""
    bits = (bits ^ ((bits >> 30) & ((1 << 34) - 1))) * _signed(MIX_1)
    bits = (bits ^ ((bits >> 27) & ((1 << 37) - 1))) * _signed(MIX_2)
    return bits ^ ((bits >> 31) & ((1 << 33) - 1))


def _signed(value: int) -> int:
    return value - (1 << 64) if value >= 1 << 63 else value

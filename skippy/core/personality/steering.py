"""Bi-directional preference optimisation: one vector that, added, makes the character likelier, and subtracted, less.

L(v) = −E_{pair, d = ±1} log σ(dβ[(log π_{dv}(r_T) − log π_0(r_T)) − (log π_{dv}(r_O) − log π_0(r_O))]), with r_T the
answer in character and r_O the plain one. Both signs are in every step, so L(0) = log 2 and ∇L(0) is the same for
both; exchanging r_T and r_O turns L(v) into L(−v).

Source: BiPO, arXiv 2406.00045, eq. 3. Departures: the paper draws d at random, here both are taken; the vector is a
bias of the attention's output (MATH §11), not an addition to the output of a whole layer.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

ROWS = 4
"""The vector's rows in a batch: r_T and r_O under +v, then r_T and r_O under −v."""


def signed_rows(vector: Float[Tensor, " d"]) -> Float[Tensor, "4 d"]:
    """What is added in each of the four groups of a batch: +v, +v, −v, −v."""
    return torch.stack([vector, vector, -vector, -vector])


def fold_gradient(rows: Float[Tensor, "4 d"]) -> Float[Tensor, " d"]:
    """The gradient of v from the gradients of `signed_rows`.

    Summed so that exchanging r_T and r_O, which reverses the four groups, gives exactly the opposite: training on
    exchanged pairs ends at −v, bit for bit.
    """
    return (rows[0] + rows[1]) - (rows[2] + rows[3])


def bipo_losses(
    policy: Float[Tensor, "4 n"], reference: Float[Tensor, "2 n"], beta: float
) -> Float[Tensor, " 2"]:
    """The loss for d = +1 and for d = −1; L is their mean.

    Args:
        policy: log-probabilities of the answers of n pairs, in the groups of `signed_rows`.
        reference: those of r_T and r_O at v = 0.
        beta: how soon a pair counts as told apart.
    """
    losses = []
    for sign, (chosen, rejected) in ((1.0, policy[:2]), (-1.0, policy[2:])):
        margins = (chosen - reference[0]) - (rejected - reference[1])
        losses.append(-F.logsigmoid(sign * beta * margins).mean())
    return torch.stack(losses)

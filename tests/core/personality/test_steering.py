"""What the loss of bi-directional preference optimisation promises, whatever the model."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from skippy.core.personality.steering import bipo_losses, fold_gradient, signed_rows

PAIRS, WIDTH, BETA = 5, 7, 0.1


class Toy:
    """log π of an answer after a vector was added: any smooth function of it will do."""

    def __init__(self, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.weights = torch.randn(2, PAIRS, WIDTH, generator=generator)
        self.bent = torch.randn(2, PAIRS, WIDTH, generator=generator)

    def log_probabilities(self, rows: Tensor, *, swapped: bool = False) -> Tensor:
        """(g, pairs) for g rows, r_T and r_O in turn."""
        order = [1, 0] if swapped else [0, 1]
        which = torch.tensor(order * (len(rows) // 2))
        linear = torch.einsum("gpw,gw->gp", self.weights[which], rows)
        return F.logsigmoid(linear) - torch.einsum("gpw,gw->gp", self.bent[which], rows.square())

    def losses(self, vector: Tensor, *, swapped: bool = False) -> Tensor:
        reference = self.log_probabilities(torch.zeros(2, WIDTH), swapped=swapped)
        return bipo_losses(self.log_probabilities(signed_rows(vector), swapped=swapped), reference, BETA)

    def gradient(self, vector: Tensor, *, swapped: bool = False) -> Tensor:
        rows = signed_rows(vector).requires_grad_()
        reference = self.log_probabilities(torch.zeros(2, WIDTH), swapped=swapped)
        loss = bipo_losses(self.log_probabilities(rows, swapped=swapped), reference, BETA).mean()
        return fold_gradient(torch.autograd.grad(loss, rows)[0])


def test_at_zero_the_loss_is_log_two() -> None:
    assert torch.equal(Toy().losses(torch.zeros(WIDTH)), torch.full((2,), math.log(2)))
    assert not torch.allclose(Toy().losses(torch.ones(WIDTH)), torch.full((2,), math.log(2)))


def test_at_zero_both_signs_pull_the_same_way() -> None:
    for at, same in ((torch.zeros(WIDTH), True), (torch.ones(WIDTH), False)):
        gradients = []
        for sign in (0, 1):
            vector = at.clone().requires_grad_()
            gradients.append(torch.autograd.grad(Toy().losses(vector)[sign], vector)[0])
        assert bool(gradients[0].any())
        assert torch.allclose(*gradients, atol=1e-6) == same


def test_the_folded_gradient_is_that_of_the_mean_loss() -> None:
    vector = torch.randn(WIDTH, generator=torch.Generator().manual_seed(3)).requires_grad_()
    (wanted,) = torch.autograd.grad(Toy().losses(vector).mean(), vector)
    torch.testing.assert_close(Toy().gradient(vector.detach()), wanted)


def test_the_gradient_is_that_of_finite_differences() -> None:
    toy, vector, step = Toy(), torch.full((WIDTH,), 0.3, dtype=torch.float64), 1e-6
    toy.weights, toy.bent = toy.weights.double(), toy.bent.double()

    def loss(at: Tensor) -> float:
        reference = toy.log_probabilities(torch.zeros(2, WIDTH, dtype=torch.float64))
        return float(bipo_losses(toy.log_probabilities(signed_rows(at)), reference, BETA).mean())

    rows = signed_rows(vector).requires_grad_()
    reference = toy.log_probabilities(torch.zeros(2, WIDTH, dtype=torch.float64))
    found = fold_gradient(
        torch.autograd.grad(bipo_losses(toy.log_probabilities(rows), reference, BETA).mean(), rows)[0]
    )
    for place in range(WIDTH):
        moved = torch.zeros(WIDTH, dtype=torch.float64)
        moved[place] = step
        assert float(found[place]) == pytest.approx(
            (loss(vector + moved) - loss(vector - moved)) / (2 * step), rel=1e-5
        )


def test_exchanged_answers_give_exactly_the_opposite_vector() -> None:
    ends = []
    for swapped in (False, True):
        vector = torch.zeros(WIDTH)
        optimizer = torch.optim.AdamW([vector], lr=0.05)
        for _ in range(20):
            vector.grad = Toy().gradient(vector, swapped=swapped)
            optimizer.step()
        ends.append(vector)
    assert bool(ends[0].any())
    assert torch.equal(ends[0], -ends[1])


def test_exchanged_answers_mirror_the_loss() -> None:
    toy, vector = Toy(), torch.ones(WIDTH)
    plus, minus = toy.losses(vector)
    assert torch.equal(toy.losses(-vector, swapped=True), torch.stack([minus, plus]))
    assert not torch.allclose(plus, minus)

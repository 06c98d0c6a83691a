"""Masks as theorems: how many go, what changes them and what does not, and where they are optimal."""

from __future__ import annotations

from itertools import combinations

import pytest
import torch

from skippy.core.spectral.masks import (
    RULES,
    cut_mask,
    project_cut,
    relative_contrast,
    require_contrast,
    smallest,
)
from skippy.errors import SubspaceError

ROWS, IN = 24, 50


@pytest.fixture
def drawn() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    weight = torch.randn(ROWS, IN, generator=generator)
    return weight, *(torch.rand(2, IN, generator=generator) + 0.1).unbind()


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("rho", [0.01, 0.1, 0.333, 0.5])
def test_exactly_the_share_of_each_row_goes(drawn, rule, rho) -> None:
    assert (cut_mask(rule, *drawn, rho).sum(dim=1) == int(rho * IN)).all()


@pytest.mark.parametrize("rule", RULES)
def test_rows_are_masked_alone(drawn, rule) -> None:
    """So that a merge may read some at a time."""
    weight, plus, minus = drawn
    whole = cut_mask(rule, weight, plus, minus, 0.2)
    parts = [cut_mask(rule, part, plus, minus, 0.2) for part in weight.split(7)]
    assert torch.equal(torch.cat(parts), whole)


@pytest.mark.parametrize("rule", RULES)
def test_a_permutation_of_the_inputs_permutes_the_mask(drawn, rule) -> None:
    weight, plus, minus = drawn
    order = torch.randperm(IN, generator=torch.Generator().manual_seed(5))
    moved = cut_mask(rule, weight[:, order], plus[order], minus[order], 0.2)
    assert torch.equal(moved, cut_mask(rule, weight, plus, minus, 0.2)[:, order])
    assert not torch.equal(moved, cut_mask(rule, weight, plus, minus, 0.2)), "the check can fail"


def test_scaling_statistics_or_a_row_changes_no_wanda_mask(drawn) -> None:
    weight, plus, minus = drawn
    mask = cut_mask("wanda", weight, plus, minus, 0.2)
    assert torch.equal(cut_mask("wanda", weight, 8 * plus, minus, 0.2), mask)
    scales = 2.0 ** torch.arange(-12, ROWS - 12)[:, None]
    assert torch.equal(cut_mask("wanda", scales * weight, plus, minus, 0.2), mask)
    assert not torch.equal(cut_mask("wanda", weight, plus.flip(0), minus, 0.2), mask), (
        "another a⁺ is another mask"
    )


def test_swapped_personas_mirror_c_relative(drawn) -> None:
    """Candidates are the same; where one takes the smallest r, the other takes the largest."""
    weight, plus, minus = drawn
    swapped = cut_mask("c-relative", weight, minus, plus, 0.1)
    candidates = smallest(weight.abs() * torch.minimum(plus, minus), IN // 2)
    r = relative_contrast(plus, minus)
    assert torch.equal(relative_contrast(minus, plus), -r)
    for row in range(ROWS):
        allowed = candidates[row].nonzero().flatten()
        wanted = allowed[r[allowed].argsort(descending=True)[: int(0.1 * IN)]]
        assert set(swapped[row].nonzero().flatten().tolist()) == set(wanted.tolist())
    assert not (swapped & cut_mask("c-relative", weight, plus, minus, 0.1)).any()


def test_c_relative_spares_what_matters(drawn) -> None:
    weight, plus, minus = drawn
    scores = weight.abs() * torch.minimum(plus, minus)
    median = scores.median(dim=1, keepdim=True).values
    assert (
        scores[cut_mask("c-relative", *drawn, 0.3)]
        <= median.expand_as(scores)[cut_mask("c-relative", *drawn, 0.3)]
    ).all()
    sparse = cut_mask("c-sparse", *drawn, 0.3)
    assert (scores[sparse] > median.expand_as(scores)[sparse]).any(), "the ablation does not"


@pytest.mark.parametrize("rule", ["c-relative", "c-sparse"])
def test_proportional_statistics_are_no_contrast(drawn, rule) -> None:
    _, plus, minus = drawn
    with pytest.raises(SubspaceError, match="no contrast") as refused:
        require_contrast(rule, plus, 3.7 * plus, "layer")
    assert "a⁺ is a multiple of a⁻" in refused.value.found
    assert "mask.rule=wanda" in refused.value.next_step
    require_contrast(rule, plus, minus, "layer")
    require_contrast("wanda", plus, 3.7 * plus, "layer")


def test_wanda_is_the_row_wise_optimum_for_uncorrelated_inputs() -> None:
    """E‖(w − w′)x‖² = Σ_cut w_j² E[x_j²] for diagonal E[xxᵀ]: no other three of eight weights cost less."""
    generator = torch.Generator().manual_seed(0)
    weight, a = torch.randn(40, 8, generator=generator), torch.rand(8, generator=generator) + 0.1
    mask = cut_mask("wanda", weight, a, a, 0.375)
    costs = (weight * a).square()
    magnitude = smallest(weight.abs(), 3)
    better = 0
    for row in range(len(weight)):
        best = min(float(costs[row, list(chosen)].sum()) for chosen in combinations(range(8), 3))
        assert float(costs[row][mask[row]].sum()) == pytest.approx(best, rel=1e-6)
        better += float(costs[row][magnitude[row]].sum()) > best * (1 + 1e-6)
    assert better > 10, "pruning by magnitude alone is not"


def test_of_equal_scores_the_first_goes() -> None:
    scores = torch.tensor([[1.0, 0.0, 1.0, 1.0], [2.0, 2.0, 2.0, 2.0]])
    assert smallest(scores, 2).tolist() == [[True, True, False, False], [True, True, False, False]]
    assert not smallest(scores, 0).any()


def test_a_projected_cut_keeps_the_top_triples(drawn) -> None:
    weight, plus, minus = drawn
    U, S, Vt = torch.linalg.svd(weight.double(), full_matrices=False)
    U, S, V = U[:, :4], S[:4], Vt[:4].mT
    delta = -torch.where(cut_mask("c-relative", weight, plus, minus, 0.3), weight, 0.0).double()
    kept = weight.double() + 0.7 * project_cut(delta, U, V, U.mT @ delta)
    assert torch.allclose(kept @ V, U * S, atol=1e-12)
    assert torch.allclose(kept.mT @ U, V * S, atol=1e-12)
    plain = weight.double() + 0.7 * delta
    assert not torch.allclose(plain @ V, U * S, atol=1e-2), "the mask alone does not"

"""Accuracy over k samples: averages, any right, and the majority, by hand and over all subsets."""

from itertools import combinations

import pytest

from skippy.core.inference.accuracy import avg_at_k, maj_at_k, pass_at_k
from skippy.errors import ReportError


def test_accuracy_by_hand() -> None:
    assert avg_at_k([0, 1, 4], 4) == pytest.approx(5 / 12)
    assert pass_at_k([0, 1, 4], 4) == pytest.approx(2 / 3)
    assert pass_at_k([0, 1, 4], 4, 2) == pytest.approx((0 + 0.5 + 1) / 3)
    assert pass_at_k([4], 4, 4) == pass_at_k([1], 4, 4) == 1.0
    assert pass_at_k([0, 1, 4], 4, 1) == pytest.approx(avg_at_k([0, 1, 4], 4))
    assert maj_at_k([[1, 1, 2], [1, 2, None], [None, None, None]], [1, 2, 3]) == pytest.approx(
        (1 + 0.5 + 0) / 3
    )


def test_pass_at_k_is_an_average_over_subsets() -> None:
    """The naive 1 − (1 − p̂)^j is biased; the formula equals the mean over all choices of j samples."""
    outcomes = [1, 1, 0, 0, 0]
    subsets = list(combinations(outcomes, 3))
    truth = sum(any(subset) for subset in subsets) / len(subsets)
    assert pass_at_k([2], 5, 3) == pytest.approx(truth)
    naive = 1 - (1 - 2 / 5) ** 3
    assert naive != pytest.approx(truth)


@pytest.mark.parametrize(("correct", "k"), [([5], 4), ([-1], 4), ([], 4), ([0], 0)])
def test_counts_must_fit(correct: list[int], k: int) -> None:
    for accuracy in (avg_at_k, pass_at_k):
        with pytest.raises(ReportError, match="do not fit"):
            accuracy(correct, k)


@pytest.mark.parametrize("j", [5, 0, -1])
def test_j_lies_between_one_and_k(j: int) -> None:
    with pytest.raises(ReportError, match="between 1 and k"):
        pass_at_k([1], 4, j)


@pytest.mark.parametrize(("answers", "gold"), [([[1]], [1, 2]), ([], [])])
def test_votes_must_match(answers: list, gold: list) -> None:
    with pytest.raises(ReportError, match="must match"):
        maj_at_k(answers, gold)

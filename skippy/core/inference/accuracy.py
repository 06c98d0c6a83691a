"""Accuracy over k samples a problem: the mean, any-of-j and the majority vote.

`c_i` is the number of correct samples among the k of problem i.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

from skippy.errors import ReportError


def avg_at_k(correct: Sequence[int], k: int) -> float:
    """`mean(c_i / k)`: the probability of one sample being right.

    Source: MATH.md §7. Departure: none.
    """
    _check_counts(correct, k)
    return sum(correct) / (k * len(correct))


def pass_at_k(correct: Sequence[int], k: int, j: int | None = None) -> float:
    """`mean(1 − C(k − c_i, j) / C(k, j))`: the probability that one of j samples is right, without bias.

    Args:
        correct: c_i.
        k: samples drawn per problem.
        j: samples allowed, at most k; default k, "any of them".

    Source: Chen et al. 2021 (arXiv 2107.03374), eq. 1. Departure: none.
    """
    _check_counts(correct, k)
    drawn = k if j is None else j
    if not 1 <= drawn <= k:
        raise ReportError(
            "pass@j needs j between 1 and k.", where="j", expected=f"1 to {k}", found=str(drawn)
        )
    missed = [math.comb(k - count, drawn) / math.comb(k, drawn) for count in correct]
    return 1.0 - sum(missed) / len(missed)


def maj_at_k(answers: Sequence[Sequence[int | str | None]], gold: Sequence[int | str]) -> float:
    """Share of problems whose most frequent answer is right; ties are broken at random, in expectation.

    A tie of t answers that holds the right one counts 1/t. Samples without an answer do not vote.

    Source: Wang et al. 2022 (arXiv 2203.11171), §2. Departure: the exact expectation over ties.
    """
    if len(answers) != len(gold) or not gold:
        raise ReportError(
            "Votes and reference answers must match.",
            where="maj_at_k",
            expected=f"{len(gold)} lists of answers, at least one",
            found=str(len(answers)),
        )
    total = 0.0
    for votes, truth in zip(answers, gold, strict=True):
        counts = Counter(vote for vote in votes if vote is not None)
        best = max(counts.values(), default=0)
        winners = [value for value, count in counts.items() if count == best]
        total += 1.0 / len(winners) if truth in winners else 0.0
    return total / len(gold)


def _check_counts(correct: Sequence[int], k: int) -> None:
    if k < 1 or len(correct) == 0 or any(not 0 <= count <= k for count in correct):
        raise ReportError(
            "Counts of correct samples do not fit k.",
            where="correct",
            expected=f"at least one count, each between 0 and k = {k}",
            found=f"{len(correct)} counts from {min(correct, default=0)} to {max(correct, default=0)}",
        )

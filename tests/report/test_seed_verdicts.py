"""Several training seeds are paired by number, and one that disagrees is no chance of the problems."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from skippy.report.verdicts import average_accuracy, judge
from skippy.results import Arm, Evaluation
from tests.report.verdict_example import KEPT, LOST, comparison, evaluation, verdict


def seeds(losses: list[int], first_seed: int = 41) -> tuple[Evaluation, ...]:
    return tuple(evaluation(loss=loss, persona=2.0, seed=first_seed + i) for i, loss in enumerate(losses))


def test_seeds_that_agree_are_aggregated() -> None:
    found = judge(comparison(seeds([3, 3, 3]), seeds([0, 0, 0])))
    item = found.variant("v4")
    assert item is not None
    assert len(item.seed_means) == 3
    assert item.across_seed_error == pytest.approx(0.0)
    assert found.winner == "v4"


def test_seeds_that_disagree_make_it_inconclusive() -> None:
    """One good seed of three proves nothing about the next: problems alone would call it degraded."""
    item = judge(comparison(v3=seeds([6, 0, 0]))).variant("v3")
    assert item is not None
    assert item.verdict == "inconclusive"
    assert item.mean_difference == pytest.approx(-12.5)
    assert item.across_seed_error is not None
    assert item.within_seed_error is not None
    assert item.across_seed_error > 5 * item.within_seed_error
    assert item.is_bootstrap_agreeing, "with the t test over problems, which is what it checks"
    assert verdict(judge(comparison(v3=seeds([6])[:1])), "v3") == "degraded"


def test_one_training_seed_twice_is_not_two_seeds() -> None:
    """Paired by number, the second would silently replace the first."""
    found = judge(comparison(v4=(evaluation(**KEPT, seed=41), evaluation(**LOST, seed=41)))).variants[0]
    assert (found.verdict, found.reason) == (
        "not_comparable",
        "V4 has several evaluations of training seed 41",
    )
    apart = (evaluation(**KEPT, seed=41), evaluation(**KEPT, seed=42))
    assert verdict(judge(comparison(v4=apart)), "v4") == "preserved"


def test_traits_of_few_seeds_need_more_than_their_prompts() -> None:
    """A trait that rises in one seed and falls in another has not changed, however many prompts there are."""

    def trait(change: float, seed: int) -> Evaluation:
        item = evaluation(seed=seed, persona=2.0)
        assert item.banal is not None
        values = tuple(change + 0.1 * np.sin(np.arange(100)))
        return replace(item, banal=replace(item.banal, traits={"warmth": values, "still": (0.1,) * 100}))

    base = trait(0.0, 0)
    alike = judge(comparison(v4=(trait(0.5, 41), trait(0.52, 42), trait(0.48, 43)), base=base))
    apart = judge(comparison(v4=(trait(1.5, 41), trait(0.5, 42), trait(-0.5, 43)), base=base))
    assert alike.traits["v4"]["warmth"] < 0.01
    assert apart.traits["v4"]["warmth"] > 0.05


def test_pairs_need_a_common_seed() -> None:
    found = judge(comparison(seeds([3, 3]), seeds([0, 0], first_seed=90)))
    pair = found.pair("v4", "v3")
    assert pair is not None
    assert (pair.verdict, pair.reason) == ("not_comparable", "the two share no training seed")


def test_seeds_are_paired_by_number_not_by_position() -> None:
    straight = judge(comparison(seeds([3, 2, 1]), seeds([0, 0, 1]))).pair("v4", "v3")
    turned = judge(comparison(seeds([3, 2, 1])[::-1], seeds([0, 0, 1]))).pair("v4", "v3")
    assert straight is not None
    assert turned is not None
    assert straight.interval == pytest.approx(turned.interval)


def test_average_over_seeds() -> None:
    arm = Arm("v3", "", seeds([0, 8]))
    assert average_accuracy(arm) == pytest.approx(100 * (0.5 + 1 / 32) / 2)

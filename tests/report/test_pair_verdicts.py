"""V4 against V3 and the controls: a difference counts where personality is equal, and chance settles nothing."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from skippy.core.inference.paired import bootstrap_t, bounds_without_spread, non_inferiority, pooled_sd
from skippy.report.headline import headline
from skippy.report.personality import Likeness
from skippy.report.verdicts import judge
from skippy.report.wording import not_shown
from skippy.results import Arm, Comparison, Evaluation
from tests.report.verdict_example import KEPT, LOST, K, comparison, evaluation, in_points, verdict


def test_the_confidence_asked_for_is_the_one_used() -> None:
    """At 90 % a spread of four samples excludes five points, at 95 % it does not."""
    v3, v4, base = evaluation(spread=2), evaluation(spread=4, persona=2.0), evaluation(spread=0)
    d, pair_d = (
        np.array([s.share for s in v4.scores]) - [s.share for s in other.scores] for other in (base, v3)
    )
    for confidence, word in ((0.9, "preserved"), (0.95, "inconclusive")):
        found = judge(comparison(v3, v4, base, confidence=confidence, bootstrap_seed=3))
        item, pair = found.variant("v4"), found.pair("v4", "v3")
        assert item is not None
        assert pair is not None
        assert (item.verdict, item.is_bootstrap_agreeing) == (word, True)
        assert item.interval == pytest.approx(in_points(non_inferiority(d, 0.05, confidence).interval))
        check = bootstrap_t(d, 0.05, seed=3, confidence=confidence)
        assert item.bootstrap_interval == pytest.approx(in_points(check.interval))
        assert pair.interval == pytest.approx(in_points(non_inferiority(pair_d, 0.0, confidence).interval))
        assert pair.likeness is not None
        first, second = (np.array(item.banal.scores) for item in (v4, v3))  # type: ignore[union-attr]
        width = pair.likeness.interval_sd[1] - pair.likeness.interval_sd[0]
        interval = non_inferiority(first - second, 0.0, confidence).interval
        assert width == pytest.approx((interval[1] - interval[0]) / pooled_sd(first, second))
        assert width > 0.05


@pytest.mark.parametrize(("n", "expected"), [(2, "unresolved"), (30, "unresolved"), (60, "first_better")])
def test_equal_differences_of_a_pair_have_to_earn_their_verdict_too(n: int, expected: str) -> None:
    """V4 one sample of sixteen better on every problem: on two problems that shows nothing."""
    v3, v4 = evaluation(loss=1, spread=0, persona=2.0, n=n), evaluation(spread=0, persona=2.0, n=n)
    pair = judge(comparison(v3, v4, evaluation(spread=0, n=n))).pair("v4", "v3")
    assert pair is not None
    assert (pair.verdict, pair.mean_difference) == (expected, 6.25)
    assert pair.interval == pytest.approx(in_points(bounds_without_spread(1 / 16, n)))


@pytest.mark.parametrize(("v3_loss", "v4_loss"), [(1, 0), (0, 1)])
def test_a_difference_that_may_be_chance_settles_nothing(v3_loss: int, v4_loss: int) -> None:
    facts = comparison(
        evaluation(loss=v3_loss, spread=6, persona=2.0),
        evaluation(loss=v4_loss, persona=2.0),
        margin_points=30.0,
    )
    found = judge(facts)
    pair = found.pair("v4", "v3")
    assert pair is not None
    assert pair.mean_difference == pytest.approx(100 * (v3_loss - v4_loss) / K)
    assert (pair.verdict, found.winner) == ("unresolved", None)
    assert f"{pair.reason}." in not_shown(facts, found)
    assert "still scored higher" not in headline(facts, found)


@pytest.mark.parametrize("name", ["v4-random", "v4-hooks"])
def test_controls_are_compared_too(name: str) -> None:
    facts = comparison(evaluation(**LOST), evaluation(**KEPT))
    control = Arm(name, "control", (evaluation(**LOST),))
    found = judge(replace(facts, arms=(*facts.arms, control)))
    pair = found.pair("v4", name)
    assert pair is not None
    assert pair.verdict == "first_better"
    assert found.winner == "v4", "the control does not decide"


def likeness_of(
    v4: Evaluation | tuple[Evaluation, ...], v3: Evaluation | tuple[Evaluation, ...], **changes: object
) -> Likeness:
    pair = judge(comparison(v3, v4, **changes)).pair("v4", "v3")  # type: ignore[arg-type]
    assert pair is not None
    assert pair.likeness is not None
    return pair.likeness


def speaking(personas: dict[int, float], answer_sd: float | None = None) -> tuple[Evaluation, ...]:
    """One evaluation per training seed, with that persona."""
    items = [evaluation(persona=persona, seed=seed) for seed, persona in personas.items()]
    return tuple(replace(item, banal=replace(item.banal, answer_sd=answer_sd)) for item in items)  # type: ignore[type-var]


def test_likeness_is_first_minus_second_at_common_seeds_in_sds_of_single_answers() -> None:
    v4 = speaking({43: 2.5, 42: 2.7, 90: 9.0}, answer_sd=3.0)
    v3 = speaking({41: 7.0, 42: 2.0, 43: 2.2}, answer_sd=1.0)
    found, turned = likeness_of(v4, v3), likeness_of(v3, v4)
    assert found.mean_difference_sd == pytest.approx(0.5 / math.sqrt(5))
    assert sum(found.interval_sd) / 2 == pytest.approx(found.mean_difference_sd)
    assert turned.mean_difference_sd == pytest.approx(-found.mean_difference_sd)
    assert found.n == 100


@pytest.mark.parametrize("seeds", [(41,), (41, 42)])
@pytest.mark.parametrize(
    ("shift", "is_equal", "is_different"), [(0.0, True, False), (0.5, False, True), (-0.5, False, True)]
)
def test_equal_personality_has_two_sides(seeds, shift: float, is_equal: bool, is_different: bool) -> None:
    v4, v3 = (speaking(dict.fromkeys(seeds, persona)) for persona in (2.0 + shift, 2.0))
    found = likeness_of(v4, v3)
    assert (found.is_equal, found.is_different) == (is_equal, is_different)
    assert likeness_of(v4, v3, persona_margin_sd=2.0).is_equal


def test_the_unit_of_equal_personality_is_the_spread_of_single_answers():
    """Means over several answers spread less; measured in their own SD, more answers would never show equality."""

    def arms(sd: float | None) -> Comparison:
        v3, v4 = evaluation(persona=2.0), evaluation(persona=2.1)
        v3, v4 = (replace(item, banal=replace(item.banal, answer_sd=sd)) for item in (v3, v4))
        return comparison(v3=v3, v4=v4)

    narrow, wide = (judge(arms(sd)).pair("v4", "v3").likeness for sd in (0.2, 2.0))
    assert wide.is_equal
    assert not narrow.is_equal
    assert narrow.mean_difference_sd == pytest.approx(10 * wide.mean_difference_sd)


def test_prompts_are_paired_by_key() -> None:
    v4 = evaluation(**KEPT)
    banal = replace(v4.banal, keys=v4.banal.keys[::-1], scores=v4.banal.scores[::-1])  # type: ignore[type-var, union-attr]
    assert likeness_of(replace(v4, banal=banal), v4).interval_sd == (0.0, 0.0)
    twice = replace(v4.banal, keys=v4.banal.keys + v4.banal.keys[:1], scores=(*v4.banal.scores, 9.0))  # type: ignore[type-var, union-attr]
    pair = judge(comparison(v4, replace(v4, banal=twice))).pair("v4", "v3")
    assert pair is not None
    assert pair.likeness is None


def test_personalities_without_any_spread_have_a_unit() -> None:
    v4 = evaluation(**KEPT)
    flat = replace(v4, banal=replace(v4.banal, scores=(2.0,) * 100))  # type: ignore[type-var]
    assert likeness_of(flat, flat).is_equal


def test_unequal_personality_is_not_comparable() -> None:
    facts = comparison(evaluation(**LOST), evaluation(persona=3.0))
    found = judge(facts)
    pair = found.pair("v4", "v3")
    assert pair is not None
    assert (pair.verdict, found.winner) == ("not_comparable", None)
    assert "not equal within ±0.25 SD" in pair.reason
    assert "not comparable" in headline(facts, found)
    assert verdict(found, "v4") == "preserved", "against base it still stands"


def test_too_few_prompts_do_not_show_equality() -> None:
    v3, v4 = evaluation(**LOST, prompts=6), evaluation(**KEPT, prompts=6)
    assert v4.banal is not None
    moved = tuple(score + (0.8 if i % 2 else -0.8) for i, score in enumerate(v4.banal.scores))
    v4 = replace(v4, banal=replace(v4.banal, scores=moved))
    pair = judge(comparison(v3, v4, evaluation(spread=0, prompts=6))).pair("v4", "v3")
    assert pair is not None
    assert pair.verdict == "not_comparable"
    assert "is not shown" in pair.reason


@pytest.mark.parametrize("change", ["none", "other prompts"])
def test_missing_or_other_prompts_are_not_comparable(change: str) -> None:
    v4 = evaluation(**KEPT)
    banal = None if change == "none" else replace(v4.banal, keys=tuple(f"x{i}" for i in range(100)))  # type: ignore[type-var]
    found = judge(comparison(evaluation(**LOST), replace(v4, banal=banal)))
    pair = found.pair("v4", "v3")
    assert pair is not None
    assert (pair.verdict, found.winner) == ("not_comparable", None)
    assert not found.gate.steps[0].is_passed
    assert found.traits["v4"] == {}

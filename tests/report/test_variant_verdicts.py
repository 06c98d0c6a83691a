"""A variant against base: every verdict, with a case in which it must not be given."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from skippy.core.inference.paired import bounds_without_spread
from skippy.errors import ReportError
from skippy.report.headline import headline
from skippy.report.verdicts import judge
from skippy.report.wording import not_shown
from skippy.results import Arm, Evaluation, ProblemScore
from tests.report.verdict_example import KEPT, LOST, K, N, comparison, evaluation, in_points, verdict


def test_figures_are_in_points() -> None:
    item = judge(comparison(v4=evaluation(**LOST))).variant("v4")
    assert item is not None
    assert item.mean_difference == pytest.approx(-100 * 3 / 16)
    assert item.interval is not None
    assert item.interval[0] < item.mean_difference < item.interval[1] < -5
    assert (item.margin, item.n, item.k) == (5.0, N, K)
    assert item.standard_error == pytest.approx(100 / 16 / math.sqrt(N - 1))
    assert "a loss of more than 5 points is shown" in item.reason


def test_inconclusive() -> None:
    item = judge(comparison(v4=evaluation(spread=8))).variant("v4")
    assert item is not None
    assert item.verdict == "inconclusive"
    assert "neither" in item.reason


def test_preserved_measurably_lower_is_preserved_and_says_so() -> None:
    """A small loss, sharply measured."""
    slightly = replace(
        evaluation(spread=0, persona=2.0),
        scores=tuple(ProblemScore(f"p{i}", 8 - (i % 3 == 0), K) for i in range(N)),
    )
    item = judge(comparison(v4=slightly)).variant("v4")
    assert item is not None
    assert (item.verdict, item.is_measurably_lower) == ("preserved", True)


def test_degraded_within_reach_of_the_margin_claims_no_more() -> None:
    item = judge(comparison(v4=evaluation(loss=1, spread=4))).variant("v4")
    assert item is not None
    assert item.verdict == "degraded"
    assert "is not excluded" in item.reason


@pytest.mark.parametrize(("n", "expected"), [(2, "inconclusive"), (30, "inconclusive"), (60, "preserved")])
def test_equal_differences_have_to_earn_their_verdict(n: int, expected: str) -> None:
    """Two problems without any change have SE = 0 and show nothing; sixty exclude five points."""
    arm = evaluation(spread=0, n=n)
    item = judge(comparison(v4=arm, base=arm)).variant("v4")
    assert item is not None
    assert (item.by_interval, item.standard_error) == (expected, 0.0)
    assert f"all {n} differences" in item.reason
    strict = judge(comparison(v4=arm, base=arm, confidence=0.99)).variant("v4")
    assert strict is not None
    assert strict.by_interval == "inconclusive"


@pytest.mark.parametrize(("correct", "is_told"), [(K, False), (K - 1, True)])
def test_what_never_varies_tells_no_number_of_problems(correct: int, is_told: bool) -> None:
    """Six problems that are always solved said that two are enough."""
    scores = tuple(ProblemScore(f"p{i}", correct, K) for i in range(6))
    arm = replace(evaluation(spread=0, n=6), scores=scores)
    item = judge(comparison(v4=arm, base=arm)).variant("v4")
    assert item is not None
    assert (item.by_interval, item.needed is not None) == ("inconclusive", is_told)


def test_the_interval_shown_is_the_one_that_was_judged_by() -> None:
    """Sixteen equal differences of nought: a point at zero would look like proof."""
    item = judge(comparison(v4=evaluation(spread=0, n=16), base=evaluation(spread=0, n=16))).variant("v4")
    assert item is not None
    assert item.verdict == "inconclusive"
    assert item.interval == pytest.approx(in_points(bounds_without_spread(0.0, 16)))
    assert item.interval[0] < -5 < 0 < item.interval[1]


@pytest.mark.parametrize(
    ("margin", "expected"), [(5.0, "preserved"), (6.25, "inconclusive"), (10.0, "inconclusive")]
)
def test_a_base_at_the_floor_has_nothing_to_lose(margin: float, expected: str) -> None:
    """A base of 6.25 points cannot lose more: to call that preserved would say nothing."""
    base, kept = evaluation(loss=7, spread=0), evaluation(loss=7, spread=0, persona=2.0)
    found = judge(comparison(evaluation(loss=8, spread=0, persona=2.0), kept, base, margin_points=margin))
    item = found.variant("v4")
    assert item is not None
    assert (item.verdict, item.by_interval) == ("not_tested", expected), "nobody can show a loss here"
    if expected == "inconclusive":
        assert item.reason.startswith(
            f"the base solves 6.2\u00a0%, so a loss of {margin:g} points cannot happen: "
            "the problems are too hard for this base"
        )
    assert [step.is_passed for step in found.gate.steps] == [True, False]
    assert (found.winner, found.gate.reason) == (None, f"V4: {item.reason}")
    assert headline(comparison(), found).startswith("Not tested")


def test_a_variant_that_lost_everything_is_degraded() -> None:
    """The twin: the floor is the base's; a variant without any right answer has shown its loss."""
    assert verdict(judge(comparison(v4=evaluation(loss=8, spread=0))), "v4") == "degraded"


def test_the_margin_decides() -> None:
    arm = evaluation(spread=8, persona=2.0)
    assert verdict(judge(comparison(v4=arm)), "v4") == "inconclusive"
    assert verdict(judge(comparison(v4=arm, margin_points=20.0)), "v4") == "preserved"


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        (evaluation(n=59), "not the same problems (1 missing, 0 others)"),
        (evaluation(n=61), "not the same problems (0 missing, 1 others)"),
        (evaluation(k=8), "not the same number of samples a problem (8, 16)"),
        (evaluation(preset="greedy"), "sampled with preset 'greedy' and not 'lab'"),
        (evaluation(backend="openai"), "generated by backend 'openai' and not ''"),
        (evaluation(prompt_style="boxed"), "asked in prompt style 'boxed' and not ''"),
        (evaluation(sampling_seed=7), "sampled with seed 7 and not 0"),
        (
            replace(evaluation(), scores=evaluation().scores + evaluation().scores[:1]),
            "a problem is scored twice",
        ),
        (
            (evaluation(seed=41), evaluation(seed=42, preset="greedy")),
            "V4, seed 42: sampled with preset 'greedy' and not 'lab'",
        ),
    ],
)
def test_not_comparable(other: Evaluation | tuple[Evaluation, ...], reason: str) -> None:
    found = judge(comparison(evaluation(**LOST, seed=41), other))
    item = found.variant("v4")
    assert item is not None
    assert item.verdict == "not_comparable"
    assert reason in item.reason
    assert item.interval is None
    assert found.winner is None
    pair = found.pair("v4", "v3")
    assert pair is not None
    assert pair.verdict == "not_comparable"
    assert pair.interval is None


@pytest.mark.parametrize(
    ("base", "reason"),
    [
        (evaluation(n=1), "base has 1 scored problems; a paired test needs two"),
        (
            replace(evaluation(), scores=evaluation().scores + evaluation().scores[:1]),
            "base holds a problem twice",
        ),
    ],
)
def test_a_base_that_nothing_can_be_paired_with(base: Evaluation, reason: str) -> None:
    found = judge(comparison(v4=base, base=base))
    assert (verdict(found, "v4"), found.variants[0].reason) == ("not_comparable", reason)


@pytest.mark.parametrize(
    "told", [{"preset": "greedy"}, {"backend": "openai"}, {"prompt_style": "boxed"}, {"sampling_seed": 7}]
)
def test_arms_sampled_alike_are_comparable(told: dict[str, object]) -> None:
    """The twin: whatever all arms share is no obstacle."""
    arms = evaluation(**LOST, **told), evaluation(**KEPT, **told), evaluation(spread=0, **told)
    assert judge(comparison(*arms)).winner == "v4"


def test_order_of_problems_does_not_matter() -> None:
    straight = evaluation(**LOST)
    shuffled = replace(straight, scores=straight.scores[::-1])
    first, second = (judge(comparison(v4=arm)).variant("v4") for arm in (straight, shuffled))
    assert first == second


@pytest.mark.parametrize(
    "arms",
    [
        (),
        (Arm("base", "", (evaluation(),)),),
        (Arm("v4", "", (evaluation(),)),),
        (Arm("base", "", (evaluation(),)), Arm("v4", "", ())),
        (Arm("base", "", (evaluation(),)), Arm("v4", "", (replace(evaluation(), scores=()),))),
    ],
)
def test_refuses_without_base_variant_or_problems(arms: tuple[Arm, ...]) -> None:
    with pytest.raises(ReportError, match="base and at least one variant") as caught:
        judge(comparison(arms=arms))
    assert caught.value.next_step


def test_one_sample_a_problem_gets_mcnemar() -> None:
    found = judge(comparison(v4=evaluation(k=1, spread=0), base=evaluation(k=1, spread=0))).variant("v4")
    assert found is not None
    assert (found.mcnemar_p, found.k) == (1.0, 1)
    assert judge(comparison(v4=evaluation())).variants[0].mcnemar_p is None


def test_mcnemar_counts_what_was_lost_against_what_was_gained() -> None:
    """Seven lost and none gained: 2 · 2⁻⁷; of several seeds no table of four fields can be made."""

    def answered(right: list[int], seed: int = 0) -> Evaluation:
        scores = tuple(ProblemScore(f"p{i}", c, 1) for i, c in enumerate(right))
        return replace(evaluation(seed=seed), scores=scores)

    base, arm = answered([1] * 20 + [0] * 20), answered([0] * 7 + [1] * 13 + [0] * 20, seed=41)
    assert judge(comparison(v4=arm, base=base)).variants[0].mcnemar_p == pytest.approx(2 / 2**7)
    twice = comparison(v4=(arm, replace(arm, seed=42)), base=base)
    assert judge(twice).variants[0].mcnemar_p is None


def test_the_bootstrap_stands_beside() -> None:
    item = judge(comparison(v4=evaluation(**LOST))).variant("v4")
    assert item is not None
    assert item.is_bootstrap_agreeing
    assert item.bootstrap_interval == pytest.approx(item.interval, abs=1.0)
    uneven = replace(evaluation(), scores=tuple(ProblemScore(f"p{i}", 7 * i * i % 17, 16) for i in range(N)))
    first, again, other = (
        judge(comparison(v4=uneven, bootstrap_seed=seed)).variants[0].bootstrap_interval for seed in (0, 0, 1)
    )
    assert first == again
    assert first != other


def test_a_check_that_disagrees_is_said() -> None:
    """One problem of eight lost one sample of sixteen: t is sure, the bootstrap is not."""
    arm = evaluation(spread=0, n=8)
    once = replace(arm, scores=(replace(arm.scores[0], correct=7), *arm.scores[1:]))
    facts = comparison(v4=once, base=arm)
    found = judge(facts)
    assert found.variants[0].by_interval == "preserved"
    assert found.variants[0].is_bootstrap_agreeing is False
    assert any("does not confirm" in line for line in not_shown(facts, found))


def test_the_lenient_difference_is_paired_and_needs_every_problem() -> None:
    def leniently(item: Evaluation, more: int) -> Evaluation:
        scores = tuple(replace(score, lenient_correct=score.correct + more) for score in item.scores)
        return replace(item, scores=scores)

    arm, base = evaluation(k=8, loss=2, spread=0), evaluation(k=8, spread=0)
    found = judge(comparison(v4=leniently(arm, 2), base=leniently(base, 1))).variants[0]
    assert found.mean_difference == pytest.approx(-25.0)
    assert found.lenient_mean_difference == pytest.approx(-12.5)
    for arms in ((leniently(arm, 2), base), (arm, leniently(base, 1))):
        assert judge(comparison(v4=arms[0], base=arms[1])).variants[0].lenient_mean_difference is None


def test_traits_are_adjusted_together() -> None:
    found = judge(comparison(evaluation(**LOST), evaluation(**KEPT)))
    assert found.traits["v4"]["warmth"] < 0.001
    assert found.traits["v4"]["still"] == 1.0

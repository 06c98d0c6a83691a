"""Every rule of the judge, with a case that it must refuse."""

from __future__ import annotations

import math
import re
from dataclasses import replace

import numpy as np
import pytest

from skippy.core.power import achievable_margin
from skippy.core.statistics import bootstrap_t, bounds_without_spread, non_inferiority, pooled_sd
from skippy.errors import ReportError
from skippy.report.conclusions import Planning, Verdicts
from skippy.report.personality import Likeness
from skippy.report.verdicts import average_accuracy, judge
from skippy.report.wording import headline, limits, not_shown, shown
from skippy.results import (
    Arm,
    BanalScores,
    Comparison,
    Evaluation,
    LeakageFacts,
    Problem,
    ProblemScore,
    Provenance,
)

N, K = 60, 16
PROVENANCE = Provenance("skippy", "2026-11-23T09:00:00+00:00", "abc", False, "lab", "ab" * 32)


def evaluation(
    *,
    loss: int = 0,
    spread: int = 1,
    persona: float = 0.0,
    coherence: float = 0.9,
    helpfulness: float = 0.9,
    seed: int = 0,
    preset: str = "lab",
    n: int = N,
    k: int = K,
    prompts: int = 100,
    **changes: object,
) -> Evaluation:
    """`loss` of 8 expected correct samples a problem, alternating by ± `spread`; persona likewise."""
    scores = tuple(
        ProblemScore(f"p{i}", min(k, max(0, k // 2 - loss + (spread if i % 2 else -spread))), k)
        for i in range(n)
    )
    answers = (
        persona
        + np.sin(np.arange(prompts))
        + (0.0 if persona == 0 else 0.3) * np.cos(7.0 * np.arange(prompts))
    )
    banal = BanalScores(
        keys=tuple(f"b{i}" for i in range(prompts)),
        scores=tuple(answers.tolist()),
        coherence=(coherence,) * prompts,
        helpfulness=(helpfulness,) * prompts,
        traits={"warmth": tuple((answers / 2).tolist()), "still": (0.1,) * prompts},
    )
    plain = Evaluation(seed, "models:/skippy/1", "1", "ab" * 32, scores, banal=banal, preset=preset)
    return replace(plain, **changes)  # type: ignore[arg-type]


def comparison(
    v3: Evaluation | tuple[Evaluation, ...] | None = None,
    v4: Evaluation | tuple[Evaluation, ...] | None = None,
    base: Evaluation | None = None,
    **changes: object,
) -> Comparison:
    arms = [Arm("base", "the base", (base or evaluation(spread=0),))]
    for name, items in (("v3", v3), ("v4", v4)):
        if items is not None:
            arms.append(Arm(name, name, items if isinstance(items, tuple) else (items,)))
    plain = Comparison(
        suite_label="AIME-style (lab)",
        problems=tuple(Problem(f"p{i}", f"p{i}") for i in range(N)),
        arms=tuple(arms),
        provenance=PROVENANCE,
    )
    return replace(plain, **changes)  # type: ignore[arg-type]


LOST = {"loss": 3, "persona": 2.0}
KEPT = {"persona": 2.0}


def verdict(verdicts: Verdicts, name: str) -> str:
    found = verdicts.variant(name)
    assert found is not None
    return found.verdict


def test_the_hoped_for_outcome() -> None:
    found = judge(comparison(evaluation(**LOST), evaluation(**KEPT)))
    assert (verdict(found, "v3"), verdict(found, "v4")) == ("degraded", "preserved")
    assert found.winner == "v4"
    assert [step.is_passed for step in found.gate] == [True, True, True]
    assert (
        headline(comparison(), found)
        == "V4 kept its AIME-style (lab) score and V3 lost, at equal personality."
    )


def test_figures_are_in_points() -> None:
    item = judge(comparison(v4=evaluation(**LOST))).variant("v4")
    assert item is not None
    assert item.mean_difference == pytest.approx(-100 * 3 / 16)
    assert item.interval is not None
    assert item.interval[0] < item.mean_difference < item.interval[1] < -5
    assert (item.margin, item.n, item.k) == (5.0, N, K)
    assert item.standard_error == pytest.approx(100 / 16 / math.sqrt(N - 1))
    assert "a loss of more than 5 points is shown" in item.reason


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


def test_the_plan_is_that_of_the_design() -> None:
    facts = comparison(v4=evaluation(k=8), base=evaluation(k=8), confidence=0.9)
    margin = 100 * achievable_margin(N, 8, confidence=0.9)
    assert judge(facts).planning == Planning(N, 8, margin, margin, margin <= 5.0)
    assert (
        f"{N} problems × 8 samples: achievable δ {margin:.1f} points, minimum detectable effect {margin:.1f} points"
        in limits_of(facts)
    )


def in_points(interval: tuple[float, float]) -> tuple[float, float]:
    return 100 * interval[0], 100 * interval[1]


# Each verdict on one variant


def test_inconclusive() -> None:
    item = judge(comparison(v4=evaluation(spread=8))).variant("v4")
    assert item is not None
    assert item.verdict == "inconclusive"
    assert "neither" in item.reason


def test_preserved_measurably_lower_is_preserved_and_says_so() -> None:
    """A small loss, sharply measured."""
    slightly = replace(
        evaluation(spread=0), scores=tuple(ProblemScore(f"p{i}", 8 - (i % 3 == 0), K) for i in range(N))
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
    assert (item.verdict, item.standard_error) == (expected, 0.0)
    assert f"all {n} differences" in item.reason
    assert verdict(judge(comparison(v4=arm, base=arm, confidence=0.99)), "v4") == "inconclusive"


@pytest.mark.parametrize(
    ("margin", "expected"), [(5.0, "preserved"), (6.25, "inconclusive"), (10.0, "inconclusive")]
)
def test_a_base_at_the_floor_has_nothing_to_lose(margin: float, expected: str) -> None:
    """A base of 6.25 points cannot lose more: to call that preserved would say nothing."""
    base, kept = evaluation(loss=7, spread=0), evaluation(loss=7, spread=0, persona=2.0)
    found = judge(comparison(evaluation(loss=8, spread=0, persona=2.0), kept, base, margin_points=margin))
    item = found.variant("v4")
    assert item is not None
    assert item.verdict == expected
    if expected == "inconclusive":
        assert item.reason == (
            f"the base solves 6.2\u00a0%, so a loss of {margin:g} points cannot happen: "
            "the problems are too hard for this base"
        )
        assert [step.is_passed for step in found.gate] == [True, False]
        assert (found.winner, found.winner_reason) == (None, item.reason)
        assert "Cannot tell" in headline(comparison(), found)
    else:
        assert found.winner == "v4"


def test_a_variant_that_lost_everything_is_degraded() -> None:
    """The twin: the floor is the base's; a variant without any right answer has shown its loss."""
    assert verdict(judge(comparison(v4=evaluation(loss=8, spread=0))), "v4") == "degraded"


def test_the_margin_decides() -> None:
    arm = evaluation(spread=8)
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


def test_one_training_seed_twice_is_not_two_seeds() -> None:
    """Paired by number, the second would silently replace the first."""
    found = judge(comparison(v4=(evaluation(**KEPT, seed=41), evaluation(**LOST, seed=41)))).variants[0]
    assert (found.verdict, found.reason) == (
        "not_comparable",
        "V4 has several evaluations of training seed 41",
    )
    apart = (evaluation(**KEPT, seed=41), evaluation(**KEPT, seed=42))
    assert verdict(judge(comparison(v4=apart)), "v4") == "preserved"


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
    assert verdict(found, "v4") == "preserved"
    assert found.variants[0].is_bootstrap_agreeing is False
    assert any("does not confirm" in line for line in not_shown(facts, found))


# Personality


def test_a_variant_without_character_does_not_pass_the_gate() -> None:
    """Keeping the mathematics by learning nothing wins nothing."""
    facts = comparison(evaluation(**LOST), evaluation(persona=0.0))
    found = judge(facts)
    assert verdict(found, "v4") == "preserved"
    assert found.winner is None
    assert [(step.name, step.is_passed) for step in found.gate] == [("persona", False)]
    assert "did not show the character" in headline(facts, found)


@pytest.mark.parametrize("quality", ["coherence", "helpfulness"])
def test_a_character_that_says_nothing_useful_closes_the_gate(quality: str) -> None:
    facts = comparison(evaluation(**LOST), evaluation(**KEPT, **{quality: 0.2}))
    assert judge(facts).winner == "v4"
    found = judge(replace(facts, floors={quality: 0.5}))
    assert found.winner is None
    assert f"{quality} is 0.20, below its floor of 0.50" in found.winner_reason


def test_every_seed_has_to_keep_its_floor_and_what_was_not_measured_keeps_none() -> None:
    good, bad = evaluation(**KEPT, seed=41), evaluation(**KEPT, seed=42, coherence=0.2)
    found = judge(comparison(v4=(good, bad), floors={"coherence": 0.5}))
    assert "coherence is 0.20, below its floor of 0.50" in found.winner_reason
    silent = replace(good, banal=replace(good.banal, coherence=()))  # type: ignore[type-var]
    found = judge(comparison(v4=silent, floors={"coherence": 0.5}))
    assert "coherence is not measured, below its floor of 0.50" in found.winner_reason


@pytest.mark.parametrize(
    ("persona", "confidence", "is_passed"),
    [(0.1, 0.95, True), (0.03, 0.9, True), (0.03, 0.95, False), (0.01, 0.9, False), (-1.0, 0.95, False)],
)
def test_a_rise_that_may_be_chance_is_no_character(
    persona: float, confidence: float, is_passed: bool
) -> None:
    found = judge(comparison(v4=evaluation(persona=persona), confidence=confidence))
    assert found.characters[0].is_passed is is_passed
    assert ("no character was shown" in found.characters[0].reason) is not is_passed


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
    assert not found.gate[0].is_passed
    assert found.traits["v4"] == {}


def test_traits_are_adjusted_together() -> None:
    found = judge(comparison(evaluation(**LOST), evaluation(**KEPT)))
    assert found.traits["v4"]["warmth"] < 0.001
    assert found.traits["v4"]["still"] == 1.0


# The fixed order


def test_a_degraded_v4_stops_at_the_second_step() -> None:
    found = judge(comparison(evaluation(loss=5, persona=2.0), evaluation(**LOST)))
    pair = found.pair("v4", "v3")
    assert pair is not None
    assert pair.verdict == "first_better"
    assert [step.is_passed for step in found.gate] == [True, False]
    assert found.winner is None


def test_no_better_than_v3_stops_at_the_third_step() -> None:
    facts = comparison(evaluation(**KEPT), evaluation(**KEPT, spread=2))
    found = judge(facts)
    assert [step.is_passed for step in found.gate] == [True, True, False]
    assert found.winner is None
    assert (
        headline(facts, found)
        == "V4 and V3 both kept their AIME-style (lab) score within 5 points; there was no larger loss to prevent."
    )
    assert "sign is not settled" in found.winner_reason


def test_the_interval_shown_is_the_one_that_was_judged_by() -> None:
    """Sixteen equal differences of nought: a point at zero would look like proof."""
    item = judge(comparison(v4=evaluation(spread=0, n=16), base=evaluation(spread=0, n=16))).variant("v4")
    assert item is not None
    assert item.verdict == "inconclusive"
    assert item.interval == pytest.approx(in_points(bounds_without_spread(0.0, 16)))
    assert item.interval[0] < -5 < 0 < item.interval[1]


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


def test_a_better_v3_is_named_and_v4_not_promoted() -> None:
    facts = comparison(evaluation(**KEPT), evaluation(**LOST))
    found = judge(facts)
    pair = found.pair("v4", "v3")
    assert pair is not None
    assert (pair.verdict, found.winner) == ("second_better", None)
    assert headline(facts, found) == "V4 lost AIME-style (lab) score where V3 kept it."


def test_without_v3_there_is_no_winner() -> None:
    found = judge(comparison(v4=evaluation(**KEPT)))
    assert found.winner is None
    assert "no V3" in found.winner_reason


def test_without_v4_there_is_no_winner() -> None:
    facts = comparison(v3=evaluation(**KEPT))
    found = judge(facts)
    assert found.winner is None
    assert headline(facts, found) == "V3 kept its AIME-style (lab) score."


@pytest.mark.parametrize("name", ["v4-random", "v4-hooks"])
def test_controls_are_compared_too(name: str) -> None:
    facts = comparison(evaluation(**LOST), evaluation(**KEPT))
    control = Arm(name, "control", (evaluation(**LOST),))
    found = judge(replace(facts, arms=(*facts.arms, control)))
    pair = found.pair("v4", name)
    assert pair is not None
    assert pair.verdict == "first_better"
    assert found.winner == "v4", "the control does not decide"


# Several training seeds


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


# Words


def test_shown_and_not_shown_split_the_verdicts() -> None:
    facts = comparison(evaluation(spread=8, persona=2.0), evaluation(**KEPT))
    found = judge(facts)
    assert any(line.startswith("V4 preserved") for line in shown(facts, found))
    assert any(line.startswith("V3 inconclusive") for line in not_shown(facts, found))
    assert not any("V3 inconclusive" in line for line in shown(facts, found))


def lines_of(facts: Comparison) -> tuple[str, str]:
    found = judge(facts)
    return "\n".join(shown(facts, found)), "\n".join(not_shown(facts, found))


def test_every_conclusion_is_on_its_side() -> None:
    """What was established on one side, what was not on the other, and nothing on both."""
    yes, no = lines_of(comparison(evaluation(**LOST), evaluation(**KEPT)))
    for words in (
        "V3 degraded: ",
        "V4 preserved: ",
        "Character learned: persona of V3",
        "Personality of V4 − V3: ",
    ):
        assert words in yes
        assert words not in no
    assert "at equal personality." in yes
    yes, no = lines_of(comparison(evaluation(**KEPT), evaluation(**LOST)))
    assert "V4 − V3: −18.8 points" in yes, "a better V3 is shown as well"
    yes, no = lines_of(comparison(evaluation(**LOST), evaluation(persona=0.0)))
    assert "Persona of V4 against base 0.00" in no
    assert "Character learned: persona of V3 against base" in yes
    assert "V4 against base" not in yes
    assert "V4 against V3 not comparable: " in no
    assert "equal within" not in yes
    yes, no = lines_of(comparison(evaluation(**LOST), evaluation(**KEPT, preset="greedy")))
    assert "V4 not comparable: V4, seed 0: sampled with preset 'greedy'" in no


@pytest.mark.parametrize(("v3_loss", "v4_loss", "less"), [(6, 3, "V4"), (3, 6, "V3")])
def test_of_two_losses_the_smaller_is_named(v3_loss: int, v4_loss: int, less: str) -> None:
    facts = comparison(evaluation(loss=v3_loss, persona=2.0), evaluation(loss=v4_loss, persona=2.0))
    expected = f"V4 and V3 both lost AIME-style (lab) score; {less} lost less, at equal personality."
    assert headline(facts, judge(facts)) == expected


def test_cannot_tell_is_said_plainly() -> None:
    facts = comparison(evaluation(spread=8, persona=2.0), evaluation(spread=8, persona=2.0))
    assert headline(facts, judge(facts)).startswith("Cannot tell")


@pytest.mark.parametrize("v3_loss", [0, 3])
@pytest.mark.parametrize("v4_loss", [0, 3])
@pytest.mark.parametrize("v3_spread", [1, 8])
@pytest.mark.parametrize("v4_spread", [1, 8])
@pytest.mark.parametrize("persona", [0.0, 2.0, 3.0])
@pytest.mark.parametrize("margin", [5.0, 30.0])
def test_a_headline_never_claims_more_than_its_verdicts(
    v3_loss, v4_loss, v3_spread, v4_spread, persona, margin
) -> None:
    facts = comparison(
        evaluation(loss=v3_loss, spread=v3_spread, persona=2.0),
        evaluation(loss=v4_loss, spread=v4_spread, persona=persona),
        margin_points=margin,
    )
    found = judge(facts)
    sentence = re.sub(r"Whether [^.]*\.", "", headline(facts, found))
    pair = found.pair("v4", "v3")
    assert pair is not None
    if "at equal personality" in sentence:
        assert pair.verdict in ("first_better", "second_better")
    if "V4 kept" in sentence or "both kept" in sentence:
        assert verdict(found, "v4") == "preserved"
    if "V3 kept" in sentence or "both kept" in sentence:
        assert verdict(found, "v3") == "preserved"
    if "V4 lost" in sentence or "both lost" in sentence:
        assert verdict(found, "v4") == "degraded"
    lower = [item.name for item in found.variants if item.is_measurably_lower]
    assert ("measurably lower" in sentence) == bool(lower)
    if lower:
        assert "no larger loss to prevent" not in sentence
    if found.winner:
        assert verdict(found, "v4") == "preserved"


@pytest.mark.parametrize(
    ("v3", "v4", "words"),
    [
        (
            LOST,
            KEPT,
            "both kept their AIME-style (lab) score within the margin, V3 measurably lower than base.",
        ),
        (LOST, LOST, "score within the margin, V4 and V3 measurably lower than base."),
        (
            {"loss": 6, "persona": 2.0},
            LOST,
            "score, though measurably lower than base, and V3 lost, at equal",
        ),
        (LOST, {"loss": 6, "persona": 2.0}, "where V3 kept it, though measurably lower than base."),
    ],
)
def test_a_headline_names_the_arm_that_is_measurably_lower(v3, v4, words) -> None:
    facts = comparison(evaluation(**v3), evaluation(**v4), margin_points=25.0)
    assert words in headline(facts, judge(facts))


# Limits


def leaking(left: float, right: float | None = None) -> Evaluation:
    rho_right = left if right is None else right
    return replace(evaluation(**LOST), leakage=LeakageFacts(left, rho_right, 0.083, 0.081))


def limits_of(facts: Comparison) -> str:
    return "\n".join(limits(facts, judge(facts)))


def test_v3_at_chance_is_said() -> None:
    v4 = replace(evaluation(**KEPT), leakage=LeakageFacts(2e-9, 2e-9, 0.083, 0.081))
    words = "V3's leakage (left 0.090, right 0.085) already sits at chance (0.083, 0.081)"
    assert words in limits_of(comparison(leaking(0.09, 0.085), v4))
    for facts in (leaking(0.3), leaking(0.09, 0.3), leaking(0.3, 0.09)):
        assert "already sits at chance" not in limits_of(comparison(facts, v4))


def test_lab_results_are_not_called_aime() -> None:
    facts = comparison(evaluation(**LOST), evaluation(**KEPT))
    assert "says nothing about AIME itself" in limits_of(facts)
    assert "says nothing about AIME itself" not in limits_of(replace(facts, suite_label="AIME 2025"))


def test_truncation_is_a_rival_explanation() -> None:
    arm, base = evaluation(**LOST), evaluation(spread=0)
    cut, cut_base = (
        replace(item, scores=tuple(replace(score, truncated=2) for score in item.scores))
        for item in (arm, base)
    )
    more, fewer = "V3: 12.5\u00a0% of samples more than base", "V3: 12.5\u00a0% of samples fewer than base"
    assert more in limits_of(comparison(cut, evaluation(**KEPT), base))
    assert fewer in limits_of(comparison(arm, evaluation(**KEPT), cut_base))
    for arms in ((arm, evaluation(**KEPT), base), (cut, replace(cut, seed=1), cut_base)):
        assert "rival explanation" not in limits_of(comparison(*arms))


def test_form_is_told_from_mathematics() -> None:
    arm, base = evaluation(**LOST), evaluation(spread=0)
    lenient = tuple(replace(score, lenient_correct=score.correct + 3) for score in arm.scores)
    known = replace(
        base, scores=tuple(replace(score, lenient_correct=score.correct) for score in base.scores)
    )
    facts = comparison(replace(arm, scores=lenient), evaluation(**KEPT), known)
    assert "V3: the lenient scorer gives 0.0 instead of −18.8 points" in limits_of(facts)
    assert "form, not mathematics" not in limits_of(comparison(arm, evaluation(**KEPT), known))
    strict = replace(arm, scores=tuple(replace(score, lenient_correct=score.correct) for score in arm.scores))
    assert "form, not mathematics" not in limits_of(comparison(strict, evaluation(**KEPT), known))


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


def test_uncommitted_changes_duplicates_and_plan_are_said() -> None:
    facts = comparison(evaluation(**LOST), evaluation(**KEPT), duplicates_dropped=3)
    text = limits_of(replace(facts, provenance=replace(PROVENANCE, is_dirty=True)))
    for words in ("uncommitted changes", "3 duplicate problems", "achievable δ", "within reach"):
        assert words in text
    assert "out of reach" in limits_of(replace(facts, margin_points=2.0))
    assert "uncommitted changes" not in limits_of(facts)


def test_average_over_seeds() -> None:
    arm = Arm("v3", "", seeds([0, 8]))
    assert average_accuracy(arm) == pytest.approx(100 * (0.5 + 1 / 32) / 2)


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

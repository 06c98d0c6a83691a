"""Every rule of the judge, with a case that it must refuse."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest

from skippy.errors import ReportError
from skippy.report.conclusions import Verdicts
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
    assert "a loss of more than 5 points is shown" in item.reason


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


def test_the_margin_decides() -> None:
    arm = evaluation(spread=8)
    assert verdict(judge(comparison(v4=arm)), "v4") == "inconclusive"
    assert verdict(judge(comparison(v4=arm, margin_points=20.0)), "v4") == "preserved"


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        (evaluation(n=59), "not the same problems (1 missing, 0 others)"),
        (evaluation(k=8), "not the same number of samples a problem (8, 16)"),
        (evaluation(preset="greedy"), "sampled with preset 'greedy' and not 'lab'"),
        (evaluation(backend="openai"), "generated by backend 'openai' and not ''"),
        (evaluation(prompt_style="boxed"), "asked in prompt style 'boxed' and not ''"),
        (evaluation(sampling_seed=7), "sampled with seed 7 and not 0"),
        (
            replace(evaluation(), scores=evaluation().scores + evaluation().scores[:1]),
            "a problem is scored twice",
        ),
    ],
)
def test_not_comparable(other: Evaluation, reason: str) -> None:
    found = judge(comparison(evaluation(**LOST), other))
    item = found.variant("v4")
    assert item is not None
    assert item.verdict == "not_comparable"
    assert reason in item.reason
    assert item.interval is None
    assert found.winner is None


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
    assert found.mcnemar_p == 1.0
    assert judge(comparison(v4=evaluation())).variants[0].mcnemar_p is None


def test_the_bootstrap_stands_beside() -> None:
    item = judge(comparison(v4=evaluation(**LOST))).variant("v4")
    assert item is not None
    assert item.is_bootstrap_agreeing
    assert item.bootstrap_interval == pytest.approx(item.interval, abs=1.0)


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


def test_controls_are_compared_too() -> None:
    facts = comparison(evaluation(**LOST), evaluation(**KEPT))
    control = Arm("v4-random", "control", (evaluation(**LOST),))
    found = judge(replace(facts, arms=(*facts.arms, control)))
    pair = found.pair("v4", "v4-random")
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


def leaking(rho: float) -> Evaluation:
    return replace(evaluation(**LOST), leakage=LeakageFacts(rho, rho, 0.083, 0.083))


def limits_of(facts: Comparison) -> str:
    return "\n".join(limits(facts, judge(facts)))


def test_v3_at_chance_is_said() -> None:
    assert "already sits at chance" in limits_of(comparison(leaking(0.09), evaluation(**KEPT)))
    assert "already sits at chance" not in limits_of(comparison(leaking(0.3), evaluation(**KEPT)))


def test_lab_results_are_not_called_aime() -> None:
    facts = comparison(evaluation(**LOST), evaluation(**KEPT))
    assert "says nothing about AIME itself" in limits_of(facts)
    assert "says nothing about AIME itself" not in limits_of(replace(facts, suite_label="AIME 2025"))


def test_truncation_is_a_rival_explanation() -> None:
    arm = evaluation(**LOST)
    cut = replace(arm, scores=tuple(replace(score, truncated=2) for score in arm.scores))
    assert "rival explanation" in limits_of(comparison(cut, evaluation(**KEPT)))
    assert "rival explanation" not in limits_of(comparison(arm, evaluation(**KEPT)))


def test_form_is_told_from_mathematics() -> None:
    arm, base = evaluation(**LOST), evaluation(spread=0)
    lenient = tuple(replace(score, lenient_correct=score.correct + 3) for score in arm.scores)
    known = replace(
        base, scores=tuple(replace(score, lenient_correct=score.correct) for score in base.scores)
    )
    facts = comparison(replace(arm, scores=lenient), evaluation(**KEPT), known)
    assert "form, not mathematics" in limits_of(facts)
    assert "form, not mathematics" not in limits_of(comparison(arm, evaluation(**KEPT), known))


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

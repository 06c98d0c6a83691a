"""Each limit of a comparison is said where it applies, and only there."""

from __future__ import annotations

from dataclasses import replace

from skippy.core.inference.power import achievable_margin
from skippy.report.conclusions import Planning
from skippy.report.verdicts import judge
from skippy.report.wording import limits
from skippy.results import Comparison, Evaluation, LeakageFacts
from tests.report.verdict_example import KEPT, LOST, PROVENANCE, N, comparison, evaluation


def limits_of(facts: Comparison) -> str:
    return "\n".join(limits(facts, judge(facts)))


def leaking(left: float, right: float | None = None) -> Evaluation:
    rho_right = left if right is None else right
    return replace(evaluation(**LOST), leakage=LeakageFacts(left, rho_right, 0.083, 0.081))


def test_the_plan_is_that_of_the_design() -> None:
    facts = comparison(v4=evaluation(k=8), base=evaluation(k=8), confidence=0.9)
    margin = 100 * achievable_margin(N, 8, confidence=0.9)
    assert judge(facts).planning == Planning(N, 8, margin, margin, margin <= 5.0)
    assert (
        f"{N} problems × 8 samples: achievable δ {margin:.1f} points, minimum detectable effect {margin:.1f} points"
        in limits_of(facts)
    )


def test_v3_at_chance_is_said() -> None:
    v4 = replace(evaluation(**KEPT), leakage=LeakageFacts(2e-9, 2e-9, 0.083, 0.081))
    words = "V3's leakage (left 0.090, right 0.085) is not above chance (0.083, 0.081)"
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
    more, fewer = (
        "V3 12.5\u00a0% of samples more than base",
        "V3 12.5\u00a0% and V4 12.5\u00a0% of samples fewer than base",
    )
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


def test_uncommitted_changes_duplicates_and_plan_are_said() -> None:
    facts = comparison(evaluation(**LOST), evaluation(**KEPT), duplicates_dropped=3)
    text = limits_of(replace(facts, provenance=replace(PROVENANCE, is_dirty=True)))
    for words in ("uncommitted changes", "3 duplicate problems", "achievable δ", "within reach"):
        assert words in text
    assert "out of reach" in limits_of(replace(facts, margin_points=2.0))
    assert "uncommitted changes" not in limits_of(facts)


def test_language_that_went_is_a_limit_of_score_and_persona() -> None:
    arm, base = evaluation(**LOST), evaluation(spread=0)
    spoken, broken = (
        replace(item, banal=replace(item.banal, coherence=(value,) * len(item.banal.scores)))
        for item, value in ((base, 0.97), (arm, 0.29))
    )
    kept = replace(arm, banal=replace(arm.banal, coherence=(0.9,) * len(arm.banal.scores)))
    said = "The coherence of everyday answers fell from 0.97, V3's to 0.29: part of a lost score may be lost language"
    assert said in limits_of(comparison(broken, kept, spoken))
    assert "lost language" not in limits_of(comparison(kept, kept, spoken))

"""V4 wins by three steps in a fixed order, character, accuracy, better than V3; each of them can stop it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from skippy.report.headline import headline
from skippy.report.verdicts import judge
from skippy.results import Arm, Comparison, Evaluation
from tests.report.verdict_example import CONTROL_SAID, KEPT, LOST, comparison, evaluation, verdict


def test_the_hoped_for_outcome() -> None:
    found = judge(comparison(evaluation(**LOST), evaluation(**KEPT)))
    assert (verdict(found, "v3"), verdict(found, "v4")) == ("degraded", "preserved")
    assert found.winner == "v4"
    assert [step.is_passed for step in found.gate.steps] == [True, True, True]
    assert (
        headline(comparison(), found)
        == "V4 kept its AIME-style (lab) score and V3 lost, at equal personality." + CONTROL_SAID
    )


def test_a_variant_without_character_does_not_pass_the_gate() -> None:
    """Keeping the mathematics by learning nothing wins nothing."""
    facts = comparison(evaluation(**LOST), evaluation(persona=0.0))
    found = judge(facts)
    item = found.variant("v4")
    assert item is not None
    assert (item.verdict, item.by_interval) == ("not_tested", "preserved")
    assert found.winner is None
    assert [(step.name, step.is_passed) for step in found.gate.steps] == [("persona", False)]
    assert "V4 shows no character" in headline(facts, found)
    assert "kept" not in headline(facts, found)


@pytest.mark.parametrize("quality", ["coherence", "helpfulness"])
def test_a_character_that_says_nothing_useful_closes_the_gate(quality: str) -> None:
    facts = comparison(evaluation(**LOST), evaluation(**KEPT, **{quality: 0.2}))
    assert judge(facts).winner == "v4"
    found = judge(replace(facts, floors={quality: 0.5}))
    assert found.winner is None
    assert f"{quality} is 0.20, below its floor of 0.50" in found.gate.reason


def test_every_seed_has_to_keep_its_floor_and_what_was_not_measured_keeps_none() -> None:
    good, bad = evaluation(**KEPT, seed=41), evaluation(**KEPT, seed=42, coherence=0.2)
    found = judge(comparison(v4=(good, bad), floors={"coherence": 0.5}))
    assert "coherence is 0.20, below its floor of 0.50" in found.gate.reason
    silent = replace(good, banal=replace(good.banal, coherence=()))  # type: ignore[type-var]
    found = judge(comparison(v4=silent, floors={"coherence": 0.5}))
    assert "coherence is not measured, below its floor of 0.50" in found.gate.reason


@pytest.mark.parametrize(
    ("persona", "confidence", "is_passed"),
    [(0.35, 0.95, True), (0.28, 0.9, True), (0.28, 0.95, False), (0.2, 0.9, False), (-1.0, 0.95, False)],
)
def test_a_rise_that_does_not_count_or_may_be_chance_is_no_character(
    persona: float, confidence: float, is_passed: bool
) -> None:
    found = judge(comparison(v4=evaluation(persona=persona), confidence=confidence))
    assert found.characters[0].is_passed is is_passed
    assert found.characters[0].is_absent is not is_passed
    words = "no character appeared" if persona <= 0.25 else "too little to be sure of a character"
    assert (words in found.characters[0].reason) is not is_passed


def test_the_smallest_effect_is_the_characters_own() -> None:
    """.09 against .08 is certainly a rise, and no character; unless somebody says that it counts."""
    facts = comparison(evaluation(**LOST), evaluation(persona=0.1))
    assert judge(facts).characters[1].is_absent
    assert not judge(replace(facts, smallest_effect=0.05)).characters[1].is_absent


def test_a_degraded_v4_stops_at_the_second_step() -> None:
    found = judge(comparison(evaluation(loss=5, persona=2.0), evaluation(**LOST)))
    pair = found.pair("v4", "v3")
    assert pair is not None
    assert pair.verdict == "first_better"
    assert [step.is_passed for step in found.gate.steps] == [True, False]
    assert found.winner is None


def test_no_better_than_v3_stops_at_the_third_step() -> None:
    facts = comparison(evaluation(**KEPT), evaluation(**KEPT, spread=2))
    found = judge(facts)
    assert [step.is_passed for step in found.gate.steps] == [True, True, False]
    assert found.winner is None
    assert (
        headline(facts, found)
        == "V4 and V3 both kept their AIME-style (lab) score within 5 points; there was no larger loss to prevent."
        + CONTROL_SAID
    )
    assert "sign is not settled" in found.gate.reason


def test_a_better_v3_is_named_and_v4_not_promoted() -> None:
    facts = comparison(evaluation(**KEPT), evaluation(**LOST))
    found = judge(facts)
    pair = found.pair("v4", "v3")
    assert pair is not None
    assert (pair.verdict, found.winner) == ("second_better", None)
    assert headline(facts, found) == "V4 lost AIME-style (lab) score where V3 kept it." + CONTROL_SAID


def test_without_v3_there_is_no_winner() -> None:
    found = judge(comparison(v4=evaluation(**KEPT)))
    assert found.winner is None
    assert "no V3" in found.gate.reason


def test_without_v4_there_is_no_winner() -> None:
    facts = comparison(v3=evaluation(**KEPT))
    found = judge(facts)
    assert found.winner is None
    assert headline(facts, found) == "V3 kept its AIME-style (lab) score." + CONTROL_SAID


def with_prompt(prompt: Evaluation, v4: Evaluation) -> Comparison:
    facts = comparison(evaluation(**LOST, seed=v4.seed), v4)
    return replace(facts, arms=(*facts.arms, Arm("prompt", "a prompt", (prompt,))))


def test_a_prompt_that_is_as_good_wins_and_the_page_says_so() -> None:
    """It has no training seed, and stands against every seed of a treatment."""
    facts = with_prompt(evaluation(**KEPT), evaluation(**KEPT, seed=42))
    found = judge(facts)
    assert found.winner == "prompt"
    assert found.gate.order[-1] == "V4 better than V3 and Prompt"
    assert found.gate.reason.startswith("Prompt is enough, nothing needs training: V4 − Prompt: 0.0 points")
    assert "without training, and no treatment beats it" in headline(facts, found)


@pytest.mark.parametrize(
    ("prompt", "winner"),
    [
        ({"loss": 1, "persona": 2.0}, "v4"),
        ({"loss": 0, "persona": 0.0}, "v4"),
        ({"loss": -1, "persona": 2.0}, "prompt"),
    ],
    ids=["beaten", "without the character", "better"],
)
def test_a_treatment_has_to_beat_a_prompt_that_has_the_character(prompt: dict, winner: str) -> None:
    found = judge(with_prompt(evaluation(**prompt), evaluation(**KEPT)))
    assert found.winner == winner

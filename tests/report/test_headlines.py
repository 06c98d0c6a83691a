"""The headline and what is shown or not shown claim no more than the verdicts."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from skippy.report.headline import headline
from skippy.report.printing import grouped
from skippy.report.verdicts import judge
from skippy.report.wording import not_shown, shown
from skippy.results import Comparison
from tests.report.verdict_example import (
    CONTROL_SAID,
    KEPT,
    LOST,
    comparison,
    evaluation,
    stored_control,
    verdict,
)


def lines_of(facts: Comparison) -> tuple[str, str]:
    found = judge(facts)
    return "\n".join(shown(facts, found)), "\n".join(not_shown(facts, found))


def test_shown_and_not_shown_split_the_verdicts() -> None:
    facts = comparison(evaluation(spread=8, persona=2.0), evaluation(**KEPT))
    found = judge(facts)
    assert any(line.startswith("V4 preserved") for line in shown(facts, found))
    assert any(line.startswith("V3 inconclusive") for line in not_shown(facts, found))
    assert not any("V3 inconclusive" in line for line in shown(facts, found))


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
    assert headline(facts, judge(facts)) == expected + CONTROL_SAID


@pytest.mark.parametrize("arms", [(KEPT, KEPT), ({"spread": 8, "persona": 2.0}, KEPT), (KEPT, {"spread": 8})])
def test_without_a_positive_control_nothing_was_tested(arms) -> None:
    """Whatever the intervals say; and the page says how to make a control."""
    facts = comparison(*(evaluation(**arm) for arm in arms), controls=())
    found = judge(facts)
    assert {item.verdict for item in found.variants} == {"not_tested"}
    assert "preserved" in {item.by_interval for item in found.variants}
    assert headline(facts, found) == (
        "Not tested: no loss of 5 points of AIME-style (lab) score was shown for V4 or V3 or any control, "
        "so harm might not have been seen either."
    )
    yes, no = lines_of(facts)
    assert "preserved" not in yes
    assert "No arm and no control is shown to lose 5 points: the most damaging, V" in no
    assert found.winner is None
    assert "control=RUN" in found.sensitivity.next_step


def test_an_arm_that_lost_is_the_control_of_the_other() -> None:
    """The twin: V3's own loss of more than δ shows that the instrument sees one."""
    facts = comparison(evaluation(**LOST), evaluation(**KEPT), controls=())
    found = judge(facts)
    assert (verdict(found, "v4"), verdict(found, "v3")) == ("preserved", "degraded")
    assert (found.sensitivity.control, found.sensitivity.is_stored) == ("v3", False)
    assert headline(facts, found).endswith(
        "A loss is visible here: the control, V3, stands at −18.8 points (upper bound −17.3)."
    )


def test_a_loss_smaller_than_the_margin_is_no_control() -> None:
    """V3 is lower than base, and by less than δ would have to be: a loss of δ was not seen."""
    found = judge(comparison(evaluation(**LOST), evaluation(**KEPT), controls=(), margin_points=25.0))
    assert (verdict(found, "v3"), found.sensitivity.is_shown) == ("not_tested", False)
    assert found.variant("v3").by_interval == "preserved"


def test_a_control_of_other_problems_is_none() -> None:
    other = stored_control(evaluation(spread=0, n=59))
    found = judge(comparison(evaluation(**KEPT), evaluation(**KEPT), controls=(other,)))
    assert (found.sensitivity.is_shown, found.sensitivity.tried) == (False, 2)


def test_unequal_arms_and_a_margin_set_later_come_first() -> None:
    facts = comparison(
        evaluation(**LOST), evaluation(**KEPT), unequal=("steps: V3 60, V4 6",), planned_margin_points=3.0
    )
    found = judge(facts)
    assert headline(facts, found).startswith(
        "Unequal arms: steps: V3 60, V4 6. Post hoc margin of 5 points. V4 kept"
    )
    assert found.winner is None
    assert [(step.name, step.is_passed) for step in found.gate.steps] == [("equal settings", False)]
    later = comparison(evaluation(**LOST), evaluation(**KEPT), planned_margin_points=3.0)
    assert judge(later).gate.reason == (
        "the margin of 5 points is post hoc: the evaluations were planned with 3"
    )
    _, no = lines_of(later)
    assert "post hoc" in no
    assert judge(comparison(evaluation(**LOST), evaluation(**KEPT), planned_margin_points=5.0)).winner == "v4"


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


def test_sentences_that_end_alike_are_said_once_from_three_on() -> None:
    lost = [f"{name} degraded: −9.{n} points (−12 to −6): a loss is shown." for n, name in enumerate("ABC")]
    apart = ["A against B not comparable: personality of A − B: +0.1 SD (0 to 1), equality is not shown."] * 2
    assert grouped([*lost, *apart, "Nothing (at all)."]) == [
        "A loss is shown: A degraded −9.0 points (−12 to −6); B degraded −9.1 points (−12 to −6); "
        "C degraded −9.2 points (−12 to −6).",
        *apart,
        "Nothing (at all).",
    ]
    assert grouped(apart + apart[:1])[0].startswith(
        "Not comparable, equality is not shown: personality of A − B +0.1"
    )
    assert grouped(lost[:2]) == lost[:2]


def test_a_control_from_earlier_runs_says_which_and_when() -> None:
    facts = comparison(evaluation(**KEPT), evaluation(**KEPT))
    stored = facts.controls[0]
    item = replace(stored.evaluations[0], runs={"eval": "ab" * 16}, evaluated="2026-11-30T08:00:00+00:00")
    found = judge(replace(facts, controls=(replace(stored, evaluations=(item,)),)))
    assert found.sensitivity.reason.startswith(
        f"V3, no arm of this comparison but evaluated at 2026-11-30 08:00 UTC in run {'ab' * 16} on the same problems, "
        "lost 50.0 points"
    )
    own = judge(comparison(evaluation(**LOST), evaluation(**KEPT), controls=())).sensitivity
    assert (own.label, "no arm" in own.reason) == ("V3", False)


def test_a_rival_without_the_character_makes_the_headline_say_little() -> None:
    """A difference at equal marker scores is no difference at equal character where one of the two babbles."""
    broken = evaluation(**LOST)
    broken = replace(broken, banal=replace(broken.banal, coherence=(-0.2,) * len(broken.banal.scores)))
    floors = {"coherence": 0.0}
    facts = comparison(broken, evaluation(**KEPT), floors=floors)
    assert "V3 did not show the character, so this says little." in headline(facts, judge(facts))
    facts = comparison(evaluation(**LOST), evaluation(**KEPT), floors=floors)
    assert "says little" not in headline(facts, judge(facts))

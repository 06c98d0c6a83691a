"""The card of a registered version says what the report says, for itself alone, and digests come last."""

from __future__ import annotations

from dataclasses import replace

from skippy.report.model_card import render_cards
from skippy.report.verdicts import judge
from skippy.results import Comparison
from tests.report.verdict_example import KEPT, LOST, comparison, evaluation


def cards_of(facts: Comparison) -> dict[str, str]:
    return render_cards(facts, judge(facts))


def test_every_version_has_its_own(facts: Comparison) -> None:
    told = replace(facts, provenance=replace(facts.provenance, base_licence="apache-2.0"))
    cards = cards_of(told)
    assert set(cards) == {item.model_uri for arm in facts.variants for item in arm.evaluations}
    for arm in facts.variants:
        text = cards[arm.evaluations[0].model_uri]
        verdict = judge(told).variant(arm.name)
        assert verdict is not None
        assert text.startswith(f"# {arm.label}, skippy on lab")
        assert f"**{verdict.verdict.replace('_', ' ')}**. {verdict.reason}." in text
        assert "Licence of the base: apache-2.0" in text
        assert text.index("## Digests") > text.index("## Limits") > text.index("## Load and serve")
        assert text.split("## Digests")[0].count(arm.evaluations[0].model_digest) == 0


def test_an_unknown_licence_is_said() -> None:
    (text, *_) = cards_of(comparison(evaluation(**LOST), evaluation(**KEPT))).values()
    assert "not stated beside its weights" in text


def test_without_a_control_the_card_claims_nothing() -> None:
    cards = cards_of(comparison(v4=evaluation(**KEPT), controls=()))
    assert "**not tested**" in cards["models:/skippy/1"]
    assert "**preserved**" not in cards["models:/skippy/1"]


def test_models_that_are_not_registered_get_none() -> None:
    assert cards_of(comparison(v4=evaluation(**KEPT, model_uri="a directory"))) == {}


def test_a_card_of_a_bias_says_who_would_answer_as_the_base(facts: Comparison) -> None:
    """vLLM reads a bias of the values and silently none of the attention's output."""
    arms = {name: replace(facts.arms[1], name=name) for name in ("v3", "v6", "v6-v")}
    found = {
        name: next(iter(cards_of(replace(facts, arms=(facts.arms[0], arm))).values()))
        for name, arm in arms.items()
    }
    served = "`vllm serve DIR/weights` serves it"
    assert [served in found[name] for name in arms] == [True, False, False]
    assert "vllm would answer as the base does" in found["v6"]
    assert "a bias of v_proj is read by transformers" in found["v6-v"]
    assert "would answer as the base" not in found["v6-v"].partition("## Limits")[0]

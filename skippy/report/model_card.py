"""The card of a registered version: what it is, how well it kept its mathematics, how to use it; digests last."""

from __future__ import annotations

from skippy.core.biases import describe_engines
from skippy.core.variants import Variant, find_variant, place_words
from skippy.report.conclusions import Verdicts
from skippy.report.headline import headline
from skippy.report.personality import judge_character
from skippy.report.printing import template
from skippy.report.wording import limits, verdict_words
from skippy.results import Comparison

MODEL_URI = "models:/"
MADE_OF = {
    "lora": "a merged LoRA update",
    "mask": "a mask, which takes some of its weights away",
    "bias": "biases in some layers",
    "none": "nothing",
}
"""What is added to the base, by kind of update."""


def render_cards(comparison: Comparison, verdicts: Verdicts) -> dict[str, str]:
    """Model URI → Markdown, for every registered version of the comparison; pure and deterministic."""
    card = template("model_card.md.j2")
    cards = {}
    for arm in comparison.variants:
        verdict = verdicts.variant(arm.name)
        assert verdict is not None
        for item in arm.evaluations:
            if not item.model_uri.startswith(MODEL_URI):
                continue
            cards[item.model_uri] = card.render(
                comparison=comparison,
                facts=comparison.provenance,
                arm=arm,
                item=item,
                verdict=verdict,
                words=verdict_words(verdict),
                character=judge_character(comparison.arms[0], arm, comparison),
                pairs=[
                    pair.reason[:1].upper() + pair.reason[1:]
                    for pair in verdicts.pairs
                    if arm.name in (pair.first, pair.second)
                ],
                control=verdicts.sensitivity.reason,
                headline=headline(comparison, verdicts),
                limits=limits(comparison, verdicts),
                question=find_variant(arm.name).question,
                rule=find_variant(arm.name),
                place="" if item.step is None else place_words(arm.name, item.step),
                made_of=MADE_OF[find_variant(arm.name).update],
                served=_served(find_variant(arm.name)),
            )
    return cards


def _served(rule: Variant) -> str:
    """Who serves its weights, in a sentence; an engine that does not read a bias would serve the base in silence."""
    if rule.update != "bias":
        return "`vllm serve DIR/weights` serves it"
    return describe_engines([str(rule.implies.get("site", "o_proj"))])

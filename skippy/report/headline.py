"""The one sentence that a person reads first; never stronger than the verdicts."""

from __future__ import annotations

from skippy.core.variants import label_of, of_role
from skippy.report.conclusions import PairVerdict, Sensitivity, VariantVerdict, Verdicts
from skippy.report.numerals import bounds, listed, plain, signed
from skippy.report.verdicts import average_accuracy
from skippy.results import Comparison


def headline(comparison: Comparison, verdicts: Verdicts) -> str:
    """What a person reads first, with what the positive control showed; never stronger than the verdicts."""
    suite, primary = comparison.suite_label, verdicts.primary
    if primary is None:
        named = list(verdicts.variants)
    else:
        named = [v for v in map(verdicts.variant, (primary.first, primary.second)) if v is not None]
    sentence = "".join(f"Unequal arms: {line}. " for line in comparison.unequal)
    if not comparison.is_margin_planned:
        sentence += f"Post hoc margin of {comparison.margin_points:g} points. "
    if not verdicts.sensitivity.is_shown and any(v.by_interval for v in named):
        return sentence + _untested(comparison, [label_of(v.name) for v in named])
    if primary is None:
        sentence += " ".join(_alone(verdict, suite) for verdict in named)
    else:
        treatment, rival = named
        sentence += _both(rival, treatment, primary, suite) + _beside_controls(primary, verdicts)
        shown = {step.name for step in verdicts.characters if step.is_passed}
        without = [label_of(v.name) for v in named if v.name not in shown and v.verdict != "not_tested"]
        if without:
            sentence += f" {listed(without)} did not show the character, so this says little."
    if verdicts.gate.untrained:
        sentence += (
            f" {label_of(verdicts.gate.untrained)} has the character and keeps the score without training, and no "
            "treatment beats it."
        )
    return sentence + _control_words(verdicts.sensitivity)


def _untested(comparison: Comparison, labels: list[str]) -> str:
    return (
        f"Not tested: no loss of {comparison.margin_points:g} points of {comparison.suite_label} score was shown for "
        f"{' or '.join(labels)} or any control, so harm might not have been seen either."
    )


def _control_words(sensitivity: Sensitivity) -> str:
    """What the control showed; nothing where no arm could be compared at all."""
    if not sensitivity.is_shown or sensitivity.mean_difference is None:
        return ""
    return (
        f" A loss is visible here: the control, {sensitivity.label}, stands at "
        f"{signed(sensitivity.mean_difference)} points (upper bound {signed(sensitivity.upper_bound)})."
    )


def _beside_controls(primary: PairVerdict, verdicts: Verdicts) -> str:
    """Whether a treatment that beat its rival also beats the controls: without it the cause is open."""
    if primary.verdict != "first_better":
        return ""
    controls = of_role("control", [pair.second for pair in verdicts.pairs if pair.first == primary.first])
    sentences = []
    for name in controls:
        pair = verdicts.pair(primary.first, name)
        assert pair is not None
        first, second = label_of(primary.first), label_of(name)
        sentences.append(
            {
                "first_better": f" {first} also scored higher than its control {second}.",
                "second_better": f" Its control {second} scored higher still.",
                "unresolved": f" Whether {first} scores higher than its control {second} is not settled.",
                "not_comparable": f" Its control {second} cannot be compared.",
            }[pair.verdict]
        )
    return "".join(sentences)


def _alone(verdict: VariantVerdict, suite: str) -> str:
    name = label_of(verdict.name)
    lower = ", though measurably lower than base" if verdict.is_measurably_lower else ""
    return {
        "preserved": f"{name} kept its {suite} score{lower}.",
        "degraded": f"{name} lost {suite} score.",
        "inconclusive": f"Whether {name} kept its {suite} score cannot be told.",
        "not_comparable": f"{name} cannot be compared with base on {suite}.",
        "not_tested": f"{name} shows no character, so whether one costs {suite} score was not tested.",
    }[verdict.verdict]


def _both(rival: VariantVerdict, treatment: VariantVerdict, pair: PairVerdict, suite: str) -> str:
    words, outcome = (treatment.verdict, rival.verdict), pair.verdict
    first, second = label_of(treatment.name), label_of(rival.name)
    if {"not_comparable", "not_tested"} & set(words):
        return " ".join((_alone(treatment, suite), _alone(rival, suite)))
    if words == ("preserved", "preserved"):
        lower = " and ".join(label_of(v.name) for v in (treatment, rival) if v.is_measurably_lower)
        sentence = f"{first} and {second} both kept their {suite} score" + (
            f" within the margin, {lower} measurably lower than base."
            if lower
            else f" within {treatment.margin:g} points; there was no larger loss to prevent."
        )
        return sentence + (f" {first} still scored higher." if outcome == "first_better" else "")
    if words == ("preserved", "degraded"):
        return (
            _alone(treatment, suite).removesuffix(".")
            + (f", and {second} lost, " if treatment.is_measurably_lower else f" and {second} lost, ")
            + {
                "first_better": "at equal personality.",
                "unresolved": "but which of the two scores higher is not settled.",
                "second_better": f"and yet {second} scored higher: look at the figures.",
                "not_comparable": "but their personalities are not shown equal: not comparable.",
            }[outcome]
        )
    if words == ("degraded", "degraded"):
        return f"{first} and {second} both lost {suite} score" + {
            "first_better": f"; {first} lost less, at equal personality.",
            "second_better": f"; {second} lost less, at equal personality.",
        }.get(outcome, ".")
    if words == ("degraded", "preserved"):
        lower = ", though measurably lower than base" if rival.is_measurably_lower else ""
        return f"{first} lost {suite} score where {second} kept it{lower}."
    if words == ("inconclusive", "inconclusive"):
        return (
            f"Cannot tell: neither for {first} nor for {second} is a loss of {suite} score shown or excluded."
        )
    return " ".join((_alone(treatment, suite), _alone(rival, suite)))


def lede(comparison: Comparison, verdicts: Verdicts) -> str:
    """The figures under the headline: every arm's score, the primary difference, or that nothing was compared."""
    scores = ", ".join(f"{arm.label} {plain(average_accuracy(arm))}" for arm in comparison.arms)
    text = f"Scores out of 100: {scores}."
    pair = verdicts.primary
    if pair is not None and pair.mean_difference is not None and pair.interval is not None:
        names = f"{label_of(pair.first)} − {label_of(pair.second)}"
        text += f" {names}: {signed(pair.mean_difference)} points ({bounds(pair.interval)})"
        text += ", not at equal personality." if pair.verdict == "not_comparable" else "."
    return text

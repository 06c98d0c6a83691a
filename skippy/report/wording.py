"""The words of the report: headline, what was shown, what was not, and the limits."""

from __future__ import annotations

from skippy.report.conclusions import PairVerdict, VariantVerdict, Verdicts
from skippy.report.numerals import moment, percent, plain, signed, small
from skippy.results import Arm, Comparison, LeakageFacts

MEASURABLE_TRUNCATION_CHANGE = 0.02
AT_CHANCE_FACTOR = 1.25
"""Leakage of V3 below this multiple of chance counts as "at chance": V4 then has little to remove."""


def label_of(name: str) -> str:
    """`v4-hooks` as `V4-hooks`."""
    return name if name == "base" else "V" + name[1:] if name.startswith("v") else name


def verdict_words(verdict: VariantVerdict) -> str:
    """The verdict as the page prints it."""
    if verdict.is_measurably_lower:
        return "preserved, measurably lower"
    return verdict.verdict.replace("_", " ")


def headline(comparison: Comparison, verdicts: Verdicts) -> str:
    """One sentence that a person reads first; never stronger than the verdicts."""
    suite = comparison.suite_label
    v3, v4 = verdicts.variant("v3"), verdicts.variant("v4")
    if v4 is None or v3 is None:
        return " ".join(_alone(verdict, suite) for verdict in verdicts.variants)
    character = next((step for step in verdicts.characters if step.name == "v4"), None)
    sentence = _both(v3, v4, verdicts.pair("v4", "v3"), suite)
    if character is not None and not character.is_passed:
        sentence += " V4 did not show the character, so this says little."
    return sentence


def _alone(verdict: VariantVerdict, suite: str) -> str:
    name = label_of(verdict.name)
    lower = ", though measurably lower than base" if verdict.is_measurably_lower else ""
    return {
        "preserved": f"{name} kept its {suite} score{lower}.",
        "degraded": f"{name} lost {suite} score.",
        "inconclusive": f"Whether {name} kept its {suite} score cannot be told.",
        "not_comparable": f"{name} cannot be compared with base on {suite}.",
    }[verdict.verdict]


def _both(v3: VariantVerdict, v4: VariantVerdict, pair: PairVerdict | None, suite: str) -> str:
    words = (v4.verdict, v3.verdict)
    outcome = pair.verdict if pair else "not_comparable"
    if "not_comparable" in words:
        return " ".join((_alone(v4, suite), _alone(v3, suite)))
    if words == ("preserved", "preserved"):
        lower = " and ".join(label_of(v.name) for v in (v4, v3) if v.is_measurably_lower)
        sentence = f"V4 and V3 both kept their {suite} score" + (
            f" within the margin, {lower} measurably lower than base."
            if lower
            else f" within {v4.margin:g} points; there was no larger loss to prevent."
        )
        return sentence + (" V4 still scored higher." if outcome == "first_better" else "")
    if words == ("preserved", "degraded"):
        return (
            _alone(v4, suite).removesuffix(".")
            + (", and V3 lost, " if v4.is_measurably_lower else " and V3 lost, ")
            + {
                "first_better": "at equal personality.",
                "unresolved": "but which of the two scores higher is not settled.",
                "second_better": "and yet V3 scored higher: look at the figures.",
                "not_comparable": "but their personalities are not shown equal: not comparable.",
            }[outcome]
        )
    if words == ("degraded", "degraded"):
        return f"V4 and V3 both lost {suite} score" + {
            "first_better": "; V4 lost less, at equal personality.",
            "second_better": "; V3 lost less, at equal personality.",
        }.get(outcome, ".")
    if words == ("degraded", "preserved"):
        lower = ", though measurably lower than base" if v3.is_measurably_lower else ""
        return f"V4 lost {suite} score where V3 kept it{lower}."
    if words == ("inconclusive", "inconclusive"):
        return f"Cannot tell: neither for V4 nor for V3 is a loss of {suite} score shown or excluded."
    return " ".join((_alone(v4, suite), _alone(v3, suite)))


def shown(comparison: Comparison, verdicts: Verdicts) -> list[str]:
    """What the data establish, one sentence each."""
    lines = [
        f"{label_of(v.name)} {verdict_words(v)}: {v.reason}."
        for v in verdicts.variants
        if v.verdict in ("preserved", "degraded")
    ]
    learned = [step.reason.removeprefix("persona of ") for step in verdicts.characters if step.is_passed]
    if learned:
        lines.append(f"Character learned: persona of {', '.join(learned)}.")
    lines += [
        f"{_upper(pair.likeness.reason)}."
        for pair in verdicts.pairs
        if pair.likeness and pair.likeness.is_equal
    ]
    lines += [
        f"{pair.reason}." for pair in verdicts.pairs if pair.verdict in ("first_better", "second_better")
    ]
    return lines


def not_shown(comparison: Comparison, verdicts: Verdicts) -> list[str]:
    """What the data leave open, one sentence each."""
    lines = [
        f"{label_of(v.name)} {verdict_words(v)}: {v.reason}."
        for v in verdicts.variants
        if v.verdict in ("inconclusive", "not_comparable")
    ]
    lines += [f"{_upper(step.reason)}." for step in verdicts.characters if not step.is_passed]
    for pair in verdicts.pairs:
        names = f"{label_of(pair.first)} against {label_of(pair.second)}"
        if pair.verdict == "not_comparable":
            lines.append(f"{names} not comparable: {pair.reason}.")
        elif pair.verdict == "unresolved":
            lines.append(f"{pair.reason}.")
    for verdict in verdicts.variants:
        if verdict.is_bootstrap_agreeing is False:
            lines.append(f"{label_of(verdict.name)}: the bootstrap-t check does not confirm the t test.")
    if _single_seeds(comparison):
        lines.append(seeds_sentence(comparison))
    return lines


def seeds_sentence(comparison: Comparison) -> str:
    """What the intervals say about other training seeds, in a sentence or two."""
    single = _single_seeds(comparison)
    several = [arm.label for arm in comparison.variants if arm.label not in single]
    sentences = []
    if several:
        sentences.append(
            f"Problems and training seeds are both samples for {' and '.join(several)}: the interval holds for "
            "other problems and other seeds."
        )
    if single:
        names = " and ".join(f"{name} (seed {seed})" for name, seed in single.items())
        sentences.append(
            f"One training seed each of {names}: how much the result varies from seed to seed is unknown, "
            "and no interval here covers it."
            if len(single) > 1
            else f"One training seed of {names}: how much the result varies from seed to seed is unknown, "
            "and its interval does not cover it."
        )
    return " ".join(sentences)


def _single_seeds(comparison: Comparison) -> dict[str, int]:
    """Label → training seed of the variants that have only one."""
    return {arm.label: arm.evaluations[0].seed for arm in comparison.variants if len(arm.evaluations) == 1}


def champion_sentence(comparison: Comparison) -> str:
    """Who is champion, who made it so, when and why, as the registry said before this report."""
    state, name = comparison.promotion, comparison.registered_model
    if not state.champion:
        return f"{name} has no champion."
    who = f", promoted by {state.who}" if state.who else ""
    when = f" at {moment(state.when)}" if state.when else ""
    why = f" because {state.why}" if state.why else ""
    before = f" Before it: version {state.previous}." if state.previous else ""
    return f"The champion of {name} is version {state.champion}{who}{when}{why}.{before}"


def limits(comparison: Comparison, verdicts: Verdicts) -> list[str]:
    """What a careful reader should hold against the result."""
    return [
        *_limits_of_suite(comparison, verdicts),
        *_limits_of_models(comparison, verdicts),
        "The persona score is a set of transparent marker rules, not a judgement of character; the AUC is "
        "the held-out ranking accuracy of a simple classifier, a proxy for being distinguishable.",
    ]


def _limits_of_suite(comparison: Comparison, verdicts: Verdicts) -> list[str]:
    lines = []
    if "lab" in comparison.suite_label.lower():
        lines.append(
            "The suite is generated by the lab for a very small model. It has the form of AIME (integers "
            "0–999) and says nothing about AIME itself."
        )
    plan = verdicts.planning
    if plan:
        effect = plain(plan.minimum_detectable_effect)
        reach = "within reach" if plan.is_margin_reachable else "out of reach of this design"
        lines.append(
            f"Planned for {plan.n} problems × {plan.k} samples: achievable δ {plain(plan.achievable_margin)} "
            f"points, minimum detectable effect {effect} points, each at power "
            f"0.8. δ = {comparison.margin_points:g} is {reach}."
        )
    if comparison.duplicates_dropped:
        lines.append(f"{comparison.duplicates_dropped} duplicate problems were dropped by hash.")
    for verdict in verdicts.variants:
        strict, lenient = verdict.mean_difference, verdict.lenient_mean_difference
        if strict is not None and lenient is not None and abs(strict - lenient) >= 1.0:
            lines.append(
                f"{label_of(verdict.name)}: the lenient scorer gives {signed(lenient)} instead of "
                f"{signed(strict)} points, so part of the difference is form, not mathematics."
            )
    return lines


def _limits_of_models(comparison: Comparison, verdicts: Verdicts) -> list[str]:
    lines = []
    base = comparison.arm("base")
    for arm in comparison.variants:
        change = truncated_share(arm) - (truncated_share(base) if base else 0.0)
        if abs(change) >= MEASURABLE_TRUNCATION_CHANGE:
            side = "more" if change > 0 else "fewer"
            lines.append(
                f"{arm.label}: {percent(abs(change))} of samples {side} than base "
                "were cut at the token limit; length is a rival explanation to interference."
            )
    plain_arm = comparison.arm("v3")
    leakage = plain_arm.evaluations[0].leakage if plain_arm else None
    if leakage and _is_at_chance(leakage):
        found = f"left {small(leakage.rho_left)}, right {small(leakage.rho_right)}"
        chance = f"{small(leakage.chance_left)}, {small(leakage.chance_right)}"
        lines.append(f"V3's leakage ({found}) already sits at chance ({chance}): V4 had little to remove.")
    if comparison.provenance.is_dirty:
        lines.append("The code had uncommitted changes: the commit named above does not fully describe it.")
    return lines


def truncated_share(arm: Arm) -> float:
    """Share of samples cut at the token limit, over seeds."""
    scores = [score for evaluation in arm.evaluations for score in evaluation.scores]
    return sum(score.truncated for score in scores) / max(1, sum(score.k for score in scores))


def _is_at_chance(leakage: LeakageFacts) -> bool:
    return (
        leakage.rho_left <= AT_CHANCE_FACTOR * leakage.chance_left
        and leakage.rho_right <= AT_CHANCE_FACTOR * leakage.chance_right
    )


def _upper(sentence: str) -> str:
    return sentence[:1].upper() + sentence[1:]

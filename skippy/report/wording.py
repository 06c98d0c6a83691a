"""The words of the report: headline, what was shown, what was not, and the limits."""

from __future__ import annotations

from skippy.core.variants import label_of, of_role
from skippy.report.conclusions import NeededDesign, PairVerdict, VariantVerdict, Verdicts
from skippy.report.numerals import moment, percent, plain, signed, small
from skippy.report.planning import MOST_SAMPLES
from skippy.results import Arm, Comparison, LeakageFacts

MEASURABLE_TRUNCATION_CHANGE = 0.02
AT_CHANCE_FACTOR = 1.25
"""Leakage of a rival below this multiple of chance counts as "at chance": there is little to remove."""


def verdict_words(verdict: VariantVerdict) -> str:
    """The verdict as the page prints it."""
    if verdict.is_measurably_lower:
        return "preserved, measurably lower"
    return verdict.verdict.replace("_", " ")


def headline(comparison: Comparison, verdicts: Verdicts) -> str:
    """One sentence that a person reads first; never stronger than the verdicts."""
    suite = comparison.suite_label
    primary = verdicts.primary
    if primary is None:
        return " ".join(_alone(verdict, suite) for verdict in verdicts.variants)
    rival, treatment = verdicts.variant(primary.second), verdicts.variant(primary.first)
    assert rival is not None
    assert treatment is not None
    sentence = _both(rival, treatment, primary, suite) + _beside_controls(primary, verdicts)
    character = next(step for step in verdicts.characters if step.name == treatment.name)
    if not character.is_passed:
        sentence += f" {label_of(treatment.name)} did not show the character, so this says little."
    return sentence


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
    }[verdict.verdict]


def _both(rival: VariantVerdict, treatment: VariantVerdict, pair: PairVerdict, suite: str) -> str:
    words, outcome = (treatment.verdict, rival.verdict), pair.verdict
    first, second = label_of(treatment.name), label_of(rival.name)
    if "not_comparable" in words:
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


def what_it_takes(comparison: Comparison, verdicts: Verdicts) -> list[str]:
    """What would settle every inconclusive verdict, one sentence each."""
    return [
        f"{label_of(verdict.name)}: {_takes(verdict, verdict.needed)}."
        for verdict in verdicts.variants
        if verdict.needed
    ]


def _takes(verdict: VariantVerdict, needed: NeededDesign) -> str:
    n, k, power = verdict.n, verdict.k, percent(needed.power, 0)
    if (verdict.across_seed_error or 0.0) > (verdict.within_seed_error or 0.0):
        return "training seeds differ more than problems do, so more seeds narrow the interval most"
    if needed.problems <= n:
        return (
            f"{n} problems × {k} samples already let a variant that lost nothing pass with {power} power; "
            "it may have lost less than this design can tell from nothing"
        )
    more = f"{n} problems × {needed.samples} samples" if needed.samples else ""
    alone = f"; with {n} problems, no number of samples up to {MOST_SAMPLES} is enough" if not more else ""
    return (
        f"δ = {verdict.margin:g} points at {power} power takes {needed.problems} problems × {k} samples"
        f"{', or ' + more if more else ''}, for a variant that lost nothing{alone}"
    )


def commands_it_takes(comparison: Comparison, verdicts: Verdicts) -> list[str]:
    """The commands that evaluate again with the samples that would do for every verdict; none where none do."""
    counts = [v.needed.samples for v in verdicts.variants if v.needed and v.needed.problems > v.n]
    if not counts or None in counts:
        return []
    samples = str(max(count for count in counts if count))
    return [line.replace("{samples}", samples) for line in comparison.provenance.rerun]


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


def protected_words(k: str) -> str:
    """How many directions a target are protected: `16`, or as many as hold a share of ‖W‖² (`energy:0.5`)."""
    kind, _, share = k.partition(":")
    if kind == "energy" and share:
        return f"k by target, the fewest that hold {percent(float(share), 0)} of ‖W‖² ({k})"
    return f"k = {k}" if k else "k not recorded"


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
    treatment = label_of(verdicts.gate.treatment) if verdicts.gate.treatment else "a constraint"
    for rival in filter(None, map(comparison.arm, verdicts.gate.rivals)):
        leakage = rival.evaluations[0].leakage
        if leakage and _is_at_chance(leakage):
            found = f"left {small(leakage.rho_left)}, right {small(leakage.rho_right)}"
            chance = f"{small(leakage.chance_left)}, {small(leakage.chance_right)}"
            lines.append(
                f"{rival.label}'s leakage ({found}) already sits at chance ({chance}): "
                f"{treatment} had little to remove."
            )
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

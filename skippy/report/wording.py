"""The words of the report: headline, what was shown, what was not, and the limits."""

from __future__ import annotations

from skippy.core.inference.wilson import FEWEST_PROBLEMS
from skippy.core.variants import has_seed, label_of
from skippy.report.conclusions import NeededDesign, VariantVerdict, Verdicts
from skippy.report.means import everyday, mean_over_seeds
from skippy.report.numerals import listed, moment, percent, plain, signed, small
from skippy.report.planning import MOST_SAMPLES
from skippy.results import Arm, Comparison, LeakageFacts
from skippy.words import counted

MEASURABLE_TRUNCATION_CHANGE = 0.02
MEASURABLE_COHERENCE_LOSS = 0.2
AT_CHANCE_FACTOR = 1.25
"""Leakage of a rival below this multiple of chance counts as "at chance": there is little to remove."""


def verdict_words(verdict: VariantVerdict) -> str:
    """The verdict as the page prints it."""
    if verdict.is_measurably_lower:
        return "preserved, measurably lower"
    return verdict.verdict.replace("_", " ")


def shown(comparison: Comparison, verdicts: Verdicts) -> list[str]:
    """What the data establish, one sentence each."""
    lines = [
        f"{label_of(v.name)} {verdict_words(v)}: {v.reason}."
        for v in verdicts.variants
        if v.verdict in ("preserved", "degraded")
    ]
    if verdicts.sensitivity.is_shown:
        lines.append(f"Positive control: {verdicts.sensitivity.reason}.")
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
        if v.verdict in ("inconclusive", "not_comparable", "not_tested")
    ]
    if not verdicts.sensitivity.is_shown:
        lines.insert(0, f"{_upper(verdicts.sensitivity.reason)}.")
    lines += [f"The arms differ in more than the variant: {line}." for line in comparison.unequal]
    if not comparison.is_margin_planned:
        lines.append(
            f"The margin of {comparison.margin_points:g} points is post hoc: the evaluations were planned with "
            f"{comparison.planned_margin_points:g}."
        )
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
    """What would test something at all, and settle every inconclusive verdict, a sentence each."""
    control = verdicts.sensitivity.next_step
    return [f"A positive control: {control}."] * bool(control) + [
        f"{label_of(verdict.name)}: {_takes(verdict, verdict.needed)}."
        for verdict in verdicts.variants
        if verdict.needed
    ]


def _design(n: int, k: int) -> str:
    return f"{counted(n, 'problem')} × {counted(k, 'sample')}"


def _takes(verdict: VariantVerdict, needed: NeededDesign) -> str:
    n, k, power = verdict.n, verdict.k, percent(needed.power, 0)
    if (verdict.across_seed_error or 0.0) > (verdict.within_seed_error or 0.0):
        return "training seeds differ more than problems do, so more seeds narrow the interval most"
    if needed.problems <= n:
        return (
            f"{_design(n, k)} already let a variant that lost nothing pass with {power} power; "
            "it may have lost less than this design can tell from nothing"
        )
    more = _design(n, needed.samples) if needed.samples else ""
    alone = (
        f"; with {counted(n, 'problem')}, no number of samples up to {MOST_SAMPLES} is enough"
        if not more
        else ""
    )
    return (
        f"δ = {verdict.margin:g} points at {power} power takes {_design(needed.problems, k)}"
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
    several = [arm.label for arm in comparison.variants if has_seed(arm.name) and arm.label not in single]
    sentences = []
    if several:
        sentences.append(
            f"Problems and training seeds are both samples for {listed(several)}: the interval holds for "
            "other problems and other seeds."
        )
    if single:
        names = listed([f"{name} (seed {seed})" for name, seed in single.items()])
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
    return {
        arm.label: arm.evaluations[0].seed
        for arm in comparison.variants
        if len(arm.evaluations) == 1 and has_seed(arm.name)
    }


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
        return f"The registered model {name} has no champion."
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
            f"Planned for {_design(plan.n, plan.k)}: achievable δ {plain(plan.achievable_margin)} "
            f"points, minimum detectable effect {effect} points, each at power "
            f"0.8. δ = {comparison.margin_points:g} is {reach}."
        )
    elif comparison.problems:
        lines.append(
            f"{counted(len(comparison.problems), 'problem')}, fewer than {FEWEST_PROBLEMS}: too few to say what a "
            "score is worth."
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
    cut = [
        (arm.label, truncated_share(arm) - (truncated_share(base) if base else 0.0))
        for arm in comparison.variants
    ]
    for side, sign in (("more", 1), ("fewer", -1)):
        named = [
            f"{name} {percent(abs(by))}" for name, by in cut if sign * by >= MEASURABLE_TRUNCATION_CHANGE
        ]
        if named:
            lines.append(
                f"{listed(named)} of samples {side} than base were cut at the token limit; length is a rival "
                "explanation to interference."
            )
    written = mean_over_seeds(base, everyday("coherence")) if base else None
    fell = [
        f"{arm.label}'s to {plain(left, 2)}"
        for arm in comparison.variants
        if written
        and (left := mean_over_seeds(arm, everyday("coherence"))) is not None
        and written - left >= MEASURABLE_COHERENCE_LOSS
    ]
    if fell:
        lines.append(
            f"The coherence of everyday answers fell from {plain(written, 2)}, {listed(fell)}: part of a lost score "
            "may be lost language, and part of a persona score may be its words alone."
        )
    treatment = label_of(verdicts.gate.treatment) if verdicts.gate.treatment else "a constraint"
    for rival in filter(None, map(comparison.arm, verdicts.gate.rivals)):
        leakage = rival.evaluations[0].leakage
        if leakage and _is_at_chance(leakage):
            found = f"left {small(leakage.rho_left)}, right {small(leakage.rho_right)}"
            chance = f"{small(leakage.chance_left)}, {small(leakage.chance_right)}"
            lines.append(
                f"{rival.label}'s leakage ({found}) is not above chance ({chance}): "
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

"""From facts to verdicts: pure rules, each of which a test makes fail.

Order of the questions: are two arms comparable at all; is a variant's mathematics preserved against the base;
did it learn the character; are two variants equal in personality; only then, is one better than the other.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Literal

import numpy as np

from skippy.core.inference.accuracy import avg_at_k
from skippy.core.inference.paired import (
    Verdict,
    bootstrap_t,
    bounds_without_spread,
    exact_mcnemar,
    holm,
    non_inferiority,
    verdict_of,
)
from skippy.core.inference.seeds import (
    SeededNonInferiority,
    non_inferiority_over_seeds,
    paired_t_p_over_seeds,
)
from skippy.core.inference.sensitivity import NOT_TESTED, controlled_verdict
from skippy.core.variants import VARIANTS, comparisons, label_of
from skippy.errors import ReportError
from skippy.report.conclusions import CharacterStep, PairVerdict, Sensitivity, VariantVerdict, Verdicts, Word
from skippy.report.gate import barriers_of, walk_gate
from skippy.report.means import POINTS
from skippy.report.numerals import bounds, percent, signed
from skippy.report.pairing import common_seeds, difference_table, find_mismatch
from skippy.report.personality import judge_character, judge_likeness
from skippy.report.planning import design_needed, plan_of
from skippy.report.reach import Reach, find_reach
from skippy.report.sensitivity import judge_sensitivity
from skippy.results import Arm, Comparison


def judge(comparison: Comparison) -> Verdicts:
    """Every verdict of the report, from its facts alone.

    Raises:
        ReportError: there is no base, no variant, or an arm without scored problems.

    Source: MATH.md §7. Departure: several training seeds enter as crossed random effects.
    """
    base = _require_base(comparison)
    sensitivity = judge_sensitivity(comparison, base)
    characters = tuple(judge_character(base, arm, comparison) for arm in comparison.variants)
    variants = tuple(
        controlled(_judge_variant(comparison, base, arm), character, sensitivity)
        for arm, character in zip(comparison.variants, characters, strict=True)
    )
    reaches = find_reach(comparison)
    pairs = tuple(
        _within_reach(_judge_pair(comparison, first, second), reaches)
        for names in comparisons(arm.name for arm in comparison.variants)
        if (first := comparison.arm(names[0])) and (second := comparison.arm(names[1]))
    )
    traits = {arm.name: _judge_traits(base, arm) for arm in comparison.variants}
    gate = walk_gate(variants, characters, pairs, barriers_of(comparison))
    return Verdicts(variants, characters, traits, pairs, gate, plan_of(comparison, base), sensitivity)


def controlled(verdict: VariantVerdict, character: CharacterStep, sensitivity: Sensitivity) -> VariantVerdict:
    """The verdict, where a loss of δ would have been seen and there was a character to pay for; else `not_tested`.

    Source: MATH.md §9. Departure: a variant that shows no character has nothing to have kept its mathematics
    against; a loss that it shows stands.
    """
    if verdict.by_interval is None:
        return verdict
    if controlled_verdict(verdict.by_interval, sensitivity.is_shown) == NOT_TESTED:
        # Not what the interval would mean: beside a missing control that would be read as a finding.
        figures = f"{signed(verdict.mean_difference)} points ({bounds(verdict.interval)})"
        told = figures if verdict.reason.startswith(figures) else verdict.reason
        reason = f"{told}, and no positive control stands behind it"
        return replace(verdict, verdict=NOT_TESTED, reason=reason, is_measurably_lower=False)
    if character.is_absent and verdict.verdict == "preserved":
        reason = f"{verdict.reason}, but there was nothing to pay for: {character.reason}"
        return replace(verdict, verdict=NOT_TESTED, reason=reason, is_measurably_lower=False)
    return verdict


def _require_base(comparison: Comparison) -> Arm:
    base = comparison.arm("base")
    empty = [a.name for a in comparison.arms if not a.evaluations or not all(e.scores for e in a.evaluations)]
    if base is None or not comparison.variants or empty:
        raise ReportError(
            "A comparison needs the base and at least one variant, all evaluated.",
            where="arms",
            expected="base and, for example, "
            + " and ".join(list(VARIANTS)[:2])
            + ", each with scored problems",
            found=(", ".join(arm.name for arm in comparison.arms) or "no arms")
            + (f"; without scored problems: {', '.join(empty)}" if empty else ""),
            next_step="run eval with suite=all on the base and on each merged variant, then compare again",
        )
    return base


def _judge_variant(comparison: Comparison, base: Arm, arm: Arm) -> VariantVerdict:
    """Non-inferiority of one variant against the base, with its checks."""
    mismatch = find_mismatch(base, arm)
    if mismatch:
        return VariantVerdict(arm.name, "not_comparable", mismatch, margin=comparison.margin_points)
    table = difference_table(arm, base)
    test = non_inferiority_over_seeds(table, comparison.margin_points / POINTS, comparison.confidence)
    check = bootstrap_t(
        table.mean(axis=0),
        comparison.margin_points / POINTS,
        seed=comparison.bootstrap_seed,
        confidence=comparison.confidence,
    )
    plain = non_inferiority(table.mean(axis=0), comparison.margin_points / POINTS, comparison.confidence)
    lenient = difference_table(arm, base, is_lenient=True)
    k = base.evaluations[0].scores[0].k
    words, reason = _conclude(test, comparison.margin_points)
    floor = _explain_floor(average_accuracy(base), comparison.margin_points)
    if floor:
        words, reason = "inconclusive", floor
    is_lower = words == "preserved, measurably lower"
    word: Word = "preserved" if words == "preserved, measurably lower" else words
    is_one_shot = k == 1 and table.shape[0] == 1
    return VariantVerdict(
        arm.name,
        word,
        reason,
        is_measurably_lower=is_lower,
        mean_difference=test.mean * POINTS,
        interval=_in_points(_earned_interval(test)),
        standard_error=test.standard_error * POINTS,
        bootstrap_interval=_in_points(check.interval),
        is_bootstrap_agreeing=check.verdict == plain.verdict,
        margin=comparison.margin_points,
        n=test.n,
        k=k,
        seed_means=tuple(mean * POINTS for mean in test.seed_means),
        within_seed_error=test.problem_standard_error * POINTS,
        across_seed_error=test.seed_standard_error * POINTS if len(test.seed_means) > 1 else None,
        lenient_mean_difference=float(lenient.mean()) * POINTS if lenient.size else None,
        mcnemar_p=exact_mcnemar(int((table < 0).sum()), int((table > 0).sum())) if is_one_shot else None,
        needed=design_needed(comparison, base, arm) if word == "inconclusive" and not floor else None,
        by_interval=word,
    )


def _conclude(test: SeededNonInferiority, margin_points: float) -> tuple[Verdict, str]:
    """The words of the test with their sentence; differences without any spread have to earn theirs."""
    if test.standard_error > 0:
        return test.verdict, _explain(test, margin_points)
    earned = _earned_interval(test)
    reason = (
        f"all {test.n} differences are {signed(test.mean * POINTS)} points, which bounds the mean only to "
        f"{bounds(_in_points(earned))}"
    )
    return verdict_of(*earned, margin_points / POINTS), reason


def _earned_interval(test: SeededNonInferiority) -> tuple[float, float]:
    """The interval of the test, and a wider one where all differences are equal."""
    if test.standard_error > 0:
        return test.interval
    return bounds_without_spread(test.mean, test.n, test.confidence)


def _explain_floor(base_points: float, margin_points: float) -> str:
    """Why "preserved" would be vacuous for this base, in a sentence; empty where it would not."""
    if base_points > margin_points:
        return ""
    return (
        f"the base solves {percent(base_points / POINTS)}, so a loss of {margin_points:g} points cannot happen: "
        "the problems are too hard for this base"
    )


def _explain(test: SeededNonInferiority, margin_points: float) -> str:
    interval = _in_points(test.interval)
    margin = f"{margin_points:g} points"
    words = {
        "preserved": f"a loss of {margin} or more is excluded",
        "preserved, measurably lower": f"lower than base, but by less than {margin}",
        "degraded": f"lower than base, and a loss of {margin} is not excluded",
        "inconclusive": f"neither a loss of {margin} nor no loss at all can be excluded",
    }
    meaning = words[test.verdict]
    if test.verdict == "degraded" and interval[1] < -margin_points:
        meaning = f"a loss of more than {margin} is shown"
    return f"{signed(test.mean * POINTS)} points ({bounds(interval)}): {meaning}"


def _judge_pair(comparison: Comparison, first: Arm, second: Arm) -> PairVerdict:
    """First against second, only where their personalities are shown equal."""
    names = (first.name, second.name)
    mismatch = find_mismatch(first, second)
    if mismatch:
        return PairVerdict(*names, "not_comparable", mismatch)
    seeds = common_seeds(first, second)
    if not seeds:
        return PairVerdict(*names, "not_comparable", "the two share no training seed")
    likeness = judge_likeness(first, second, seeds, comparison.persona_margin_sd, comparison.confidence)
    table = difference_table(first, second, seeds=seeds)
    test = non_inferiority_over_seeds(table, 0.0, comparison.confidence)
    lower, upper = interval = _in_points(_earned_interval(test))
    figures = f"{first.label} − {second.label}: {signed(test.mean * POINTS)} points ({bounds(interval)})"
    word: Literal["first_better", "second_better", "unresolved", "not_comparable"]
    if likeness is None:
        word, reason = "not_comparable", "no shared held-out everyday prompts were scored"
    elif not likeness.is_equal:
        word, reason = "not_comparable", likeness.reason
    elif lower > 0:
        word, reason = "first_better", f"{figures}, at equal personality"
    elif upper < 0:
        word, reason = "second_better", f"{figures}, at equal personality"
    else:
        word, reason = "unresolved", f"{figures}: the sign is not settled"
    return PairVerdict(*names, word, reason, likeness, test.mean * POINTS, interval)


def _within_reach(pair: PairVerdict, reaches: Mapping[str, Reach]) -> PairVerdict:
    """The pair, or that one of the two never comes to the persona asked for and is not compared."""
    words = [
        f"{label_of(name)} is {reaches[name].words}"
        for name in (pair.first, pair.second)
        if reaches[name].is_out
    ]
    if not words:
        return pair
    return replace(
        pair, verdict="not_comparable", reason="; ".join(words), mean_difference=None, interval=None
    )


def _judge_traits(base: Arm, arm: Arm) -> dict[str, float]:
    """Holm-adjusted two-sided p of each trait's change against base, over prompts and seeds."""
    reference = base.evaluations[0].banal
    scored = [item.banal for item in arm.evaluations if item.banal is not None]
    if reference is None or not scored or any(item.keys != reference.keys for item in scored):
        return {}
    names = [name for name in reference.traits if all(name in item.traits for item in scored)]
    p_values = []
    for name in names:
        change = np.asarray([item.traits[name] for item in scored]) - np.asarray(reference.traits[name])
        p_values.append(paired_t_p_over_seeds(change))
    return dict(zip(names, holm(p_values), strict=True))


def _in_points(interval: tuple[float, float]) -> tuple[float, float]:
    return interval[0] * POINTS, interval[1] * POINTS


def average_accuracy(arm: Arm) -> float:
    """avg_at_k over all training seeds of an arm, in points."""
    means = [avg_at_k([s.correct for s in item.scores], item.scores[0].k) for item in arm.evaluations]
    return POINTS * sum(means) / len(means)

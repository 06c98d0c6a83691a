"""Tables as rows of text, shared by the page, the Markdown and the LaTeX."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from skippy.core.inference.accuracy import pass_at_k
from skippy.core.inference.wilson import FEWEST_PROBLEMS, wilson_interval
from skippy.core.variants import find_variant, label_of, place_words
from skippy.report.audit import MEANING, count_statuses
from skippy.report.conclusions import PairVerdict, VariantVerdict, Verdicts
from skippy.report.means import POINTS, Reader, everyday, mean_over_seeds
from skippy.report.numerals import MISSING, bounds, percent, plain, signed, small
from skippy.report.traits import mean_tokens, trait_means
from skippy.report.verdicts import average_accuracy
from skippy.report.wording import truncated_share, verdict_words
from skippy.results import Arm, Comparison, Evaluation

AGAINST_BASE = "Is the mathematics preserved?"


@dataclass(frozen=True)
class Row:
    """One line of a table."""

    label: str  # what is measured, in the words of the method
    cells: tuple[str, ...]  # one per column
    note: str = ""  # unit or meaning, in small print
    is_key: bool = False  # printed bold


@dataclass(frozen=True)
class Table:
    """A titled table; `columns` are arm names where `is_by_arm`."""

    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    arms: tuple[str, ...] = ()


def by_arm(comparison: Comparison, rows: Sequence[Row]) -> Table:
    """A table with a column an arm."""
    arms = comparison.arms
    return Table(tuple(arm.label for arm in arms), tuple(rows), tuple(arm.name for arm in arms))


def main_table(comparison: Comparison, verdicts: Verdicts) -> Table:
    """Base beside its variants: mathematics, personality, leakage."""
    arms = comparison.arms
    k = arms[0].evaluations[0].scores[0].k if arms[0].evaluations[0].scores else 0
    by_name = {verdict.name: verdict for verdict in verdicts.variants}

    def row(label: str, value: Callable[[Arm], str], note: str = "", is_key: bool = False) -> Row:
        return Row(label, tuple(value(arm) for arm in arms), note, is_key)

    def of_verdict(read: Callable) -> Callable[[Arm], str]:
        return lambda arm: read(by_name[arm.name]) if arm.name in by_name else MISSING

    rows = [
        row(
            "avg_at_k",
            lambda arm: plain(average_accuracy(arm)),
            f"{comparison.suite_label}, k = {k}, points",
            True,
        ),
        row("interval of one arm", _alone, "95 %, Wilson, over problems; not the interval of a difference"),
        row("difference to base", of_verdict(lambda v: signed(v.mean_difference)), "paired, points"),
        row(
            "bounds",
            of_verdict(lambda v: bounds(v.interval)),
            f"one-sided {100 * comparison.confidence:g} % each",
        ),
        row("verdict", of_verdict(verdict_words), f"margin δ = {comparison.margin_points:g} points", True),
        row("checkpoint", _checkpoint, "of its training, chosen by persona alone"),
        row("pass_at_k", lambda arm: _optional(arm, _pass, POINTS, 1), "any of k right, points"),
        row("maj_at_k", lambda arm: _optional(arm, lambda e: e.maj_at_k, POINTS, 1), "majority vote, points"),
        row(
            "persona score",
            lambda arm: _optional(arm, everyday("scores"), 1, 2),
            "held-out everyday prompts",
            True,
        ),
        row("coherence", lambda arm: _optional(arm, everyday("coherence"), 1, 2), "same answers"),
        row("helpfulness", lambda arm: _optional(arm, everyday("helpfulness"), 1, 2), "same answers"),
        row(
            "persona on the problems",
            lambda arm: _optional(arm, everyday("problem_score"), 1, 2),
            "answers to the suite",
        ),
        row(
            "AUC against base",
            lambda arm: _optional(arm, everyday("base_auc"), 1, 2),
            "held-out classifier, a proxy",
        ),
        row("rho_left", lambda arm: _leak(arm, "rho_left"), _leak_note(comparison, "‖UᵀΔW‖²", "left")),
        row("rho_right", lambda arm: _leak(arm, "rho_right"), _leak_note(comparison, "‖ΔWV‖²", "right")),
        row("rho_left, stored", lambda arm: _leak(arm, "stored_left"), "of W′ − W"),
        row("rho_right, stored", lambda arm: _leak(arm, "stored_right"), "of W′ − W"),
    ]
    return by_arm(comparison, [item for item in rows if any(cell != MISSING for cell in item.cells)])


def _alone(arm: Arm) -> str:
    """The interval of an arm's own score; for several training seeds, of their mean over the same problems."""
    n = len(arm.evaluations[0].scores)
    if n < FEWEST_PROBLEMS:
        return "too few to say"
    low, high = wilson_interval(min(1.0, average_accuracy(arm) / POINTS), n)
    return f"{plain(POINTS * low)} to {plain(POINTS * high)}"


def _checkpoint(arm: Arm) -> str:
    """Where on its path each training seed stands."""
    places = {
        item.seed: place_words(arm.name, item.step) for item in arm.evaluations if item.step is not None
    }
    return ", ".join(dict.fromkeys(places.values())) or MISSING


def question_table(verdicts: Verdicts) -> Table:
    """Which comparison answers which question, and what the answer is."""
    rows = [
        Row(f"{label_of(item.name)} beside base", (AGAINST_BASE, verdict_words(item), _points(item)))
        for item in verdicts.variants
    ]
    for pair in verdicts.pairs:
        label = f"{label_of(pair.first)} beside {label_of(pair.second)}"
        better = {"first_better": pair.first, "second_better": pair.second}.get(pair.verdict)
        words = f"{label_of(better)} scores higher" if better else pair.verdict.replace("_", " ")
        rows.append(Row(label, (find_variant(pair.second).question, words, _points(pair))))
    return Table(("question", "answer", "difference (bounds)"), tuple(rows))


def _points(item: VariantVerdict | PairVerdict) -> str:
    return f"{signed(item.mean_difference)} ({bounds(item.interval)})" if item.interval else MISSING


def others_table(comparison: Comparison) -> Table | None:
    """Figures that are not ours, beside ours; None where nobody was asked."""
    if not comparison.extra_metrics:
        return None
    arms = comparison.arms
    rows = [
        Row(name, tuple(_figure(values.get(arm.name)) for arm in arms))
        for name, values in comparison.extra_metrics.items()
    ]
    return by_arm(comparison, rows)


def length_table(comparison: Comparison) -> Table:
    """Lengths, truncation and personality by mode."""
    arms = comparison.arms
    rows = [
        Row("mean tokens", tuple(plain(mean_tokens(arm), 0) for arm in arms), "a sample of the suite"),
        Row("truncated", tuple(percent(truncated_share(arm)) for arm in arms), "samples cut at the limit"),
        Row(
            "no answer",
            tuple(percent(_no_answer_share(arm)) for arm in arms),
            "samples without an integer",
        ),
        Row(
            "mean tokens, everyday",
            tuple(_optional(arm, everyday("mean_tokens"), 1, 0) for arm in arms),
            "an answer",
        ),
    ]
    modes = dict.fromkeys(m for arm in arms for e in arm.evaluations if e.banal for m in e.banal.modes)
    for mode in modes:
        rows.append(Row(f"persona, {mode}", tuple(_optional(arm, _mode(mode), 1, 2) for arm in arms)))
    return by_arm(comparison, rows)


def trait_table(comparison: Comparison, verdicts: Verdicts) -> Table:
    """Mean trait scores with Holm-adjusted p against base."""
    profiles = {arm.name: trait_means(arm) for arm in comparison.arms}
    names = dict.fromkeys(trait for profile in profiles.values() for trait in profile)
    rows = []
    for trait in names:
        cells = []
        for arm in comparison.arms:
            p = verdicts.traits.get(arm.name, {}).get(trait)
            tail = "" if p is None else " (p\u00a0<\u00a00.001)" if p < 0.001 else f" (p\u00a0=\u00a0{p:.3f})"
            cells.append(signed(profiles[arm.name].get(trait), 2) + tail)
        rows.append(Row(trait, tuple(cells)))
    return by_arm(comparison, rows)


def audit_table(comparison: Comparison) -> Table:
    """Samples by extraction status, with what each status means."""
    counts = {arm.name: count_statuses(arm) for arm in comparison.arms}
    statuses = dict.fromkeys(status for found in counts.values() for status in found)
    rows = [
        Row(
            status,
            tuple(str(counts[arm.name].get(status, 0)) for arm in comparison.arms),
            MEANING.get(status, ""),
        )
        for status in statuses
    ]
    lenient = {arm.name: _lenient_average(arm) for arm in comparison.arms}
    if any(value is not None for value in lenient.values()):
        cells = tuple(plain(lenient[arm.name]) for arm in comparison.arms)
        rows.append(Row("avg_at_k, lenient", cells, "sensitivity: the most generous reading, points"))
    return by_arm(comparison, rows)


def seed_table(verdicts: Verdicts) -> Table | None:
    """Within- and across-seed uncertainty; None with one seed per variant."""
    several = [verdict for verdict in verdicts.variants if len(verdict.seed_means) > 1]
    if not several:
        return None
    rows = [
        Row(
            label_of(verdict.name),
            (
                ", ".join(signed(mean) for mean in verdict.seed_means),
                plain(verdict.within_seed_error, 2),
                plain(verdict.across_seed_error, 2),
                plain(verdict.standard_error, 2),
            ),
        )
        for verdict in several
    ]
    return Table(("mean of each seed", "SE over problems", "SE over seeds", "SE used"), tuple(rows))


def _optional(arm: Arm, read: Reader, factor: float, digits: int) -> str:
    value = mean_over_seeds(arm, read)
    return MISSING if value is None else plain(factor * value, digits)


def _figure(value: float | None) -> str:
    """A count without decimals, anything else with three."""
    return plain(value, 0 if value is not None and value.is_integer() else 3)


def _pass(item: Evaluation) -> float:
    return pass_at_k([score.correct for score in item.scores], item.scores[0].k)


def _mode(mode: str) -> Reader:
    return lambda item: item.banal.modes.get(mode) if item.banal else None


def _leak(arm: Arm, name: str) -> str:
    values = [getattr(item.leakage, name) for item in arm.evaluations if item.leakage]
    known = [value for value in values if value is not None]
    return small(sum(known) / len(known)) if known else MISSING


def _leak_note(comparison: Comparison, energy: str, side: str) -> str:
    """The ratio in symbols, with its chance level."""
    facts = next((e.leakage for arm in comparison.variants for e in arm.evaluations if e.leakage), None)
    chance = small(getattr(facts, f"chance_{side}")) if facts else MISSING
    return f"{energy}/‖ΔW‖², chance {chance}"


def _no_answer_share(arm: Arm) -> float:
    scores = [score for evaluation in arm.evaluations for score in evaluation.scores]
    return sum(score.no_answer for score in scores) / max(1, sum(score.k for score in scores))


def _lenient_average(arm: Arm) -> float | None:
    scores = [score for evaluation in arm.evaluations for score in evaluation.scores]
    if not scores or any(score.lenient_correct is None for score in scores):
        return None
    return POINTS * sum((score.lenient_correct or 0) / score.k for score in scores) / len(scores)

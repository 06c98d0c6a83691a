"""What a study's page says in sentences; none is stronger than the intervals behind it."""

from __future__ import annotations

from collections.abc import Sequence

from skippy.core.inference.frontier import Difference
from skippy.core.inference.loss_dose import DoseEstimate, LossDose
from skippy.core.inference.simultaneous import Bound
from skippy.core.inference.study import Analysis
from skippy.core.variants import label_of
from skippy.report.numerals import bounds, plain, signed


def study_headline(analysis: Analysis) -> str:
    """One sentence that a person reads first."""
    control = analysis.control
    if not control.is_shown:
        points = plain(100 * float(control.margin), 0)
        return f"Nothing was tested: no arm at any dose was seen to lose {points} points"
    answer = _best_known(analysis.matched, "v4", "v3")
    parts = [_keeps("V4", "V3", answer)]
    for arm, words in (("v4-random", "random directions"), ("prompt", "the prompt")):
        parts.append(_keeps("V4", words, _best_known(analysis.matched, "v4", arm)))
    sentence = "; ".join(part for part in parts if part) or "A loss was seen; no two arms were compared"
    return sentence[0].upper() + sentence[1:]


def _best_known(differences: Sequence[Difference], first: str, second: str) -> Difference | None:
    """The comparison that covers most: the mean over training doses at the highest persona in reach."""
    found = [d for d in differences if (d.first, d.second) == (first, second) and d.bound is not None]
    trainings = {d.training for d in found}
    whole = [d for d in found if d.training is None or len(trainings) == 1]
    return max(whole, key=lambda d: float(d.persona or 0.0), default=None)


def _keeps(first: str, second: str, difference: Difference | None) -> str:
    if difference is None or difference.bound is None:
        return ""
    bound, place = difference.bound, f"at persona {difference.persona:g}"
    figures = f"{signed(100 * bound.mean)} points ({bounds((100 * bound.lower, 100 * bound.upper))})"
    if bound.lower > 0:
        return f"{place}, {first} keeps more than {second}: {figures}"
    if bound.upper < 0:
        return f"{place}, {first} keeps less than {second}: {figures}"
    return f"{place}, {first} was not told from {second}: {figures}"


def control_sentence(analysis: Analysis) -> str:
    """What the positive control showed."""
    control, points = analysis.control, plain(100 * float(analysis.margin), 0)
    if control.bound is None:
        return "There is no positive control: no cell finished."
    figures = f"{signed(100 * control.bound.mean)} points, upper bound {signed(100 * control.bound.upper)}"
    if control.is_shown:
        return (
            f"The instrument saw a loss of {points} points: {control.name} lost it "
            f"({figures}; {control.tried} doses looked at)."
        )
    return (
        f"The instrument was not seen to detect a loss of {points} points: the most damaging of {control.tried} doses, "
        f"{control.name}, showed {figures}. Raise the training dose to make a control."
    )


def lost_sentence(lost: LossDose) -> str:
    """At which dose an arm has lost δ."""
    name = f"{label_of(lost.arm)}, {lost.training.label}"
    points = plain(100 * float(lost.margin), 0)
    if lost.is_censored:
        tail = f"not lost up to α = {lost.largest_alpha:g} (persona {plain(lost.largest_persona, 2)})"
        return f"{name}: {points} points {tail}."
    shown = (
        "shown nowhere on the grid" if lost.shown_alpha is None else f"shown from α = {lost.shown_alpha:g} on"
    )
    return (
        f"{name}: {points} points are lost at α = {plain(lost.alpha.value, 2)} {interval(lost.alpha)}, "
        f"persona {plain(lost.persona.value, 2)} {interval(lost.persona)}; {shown}."
    )


def interval(estimate: DoseEstimate) -> str:
    """`(0.31 to 0.58)`, with words where an end is beyond the largest tried."""
    ends = [
        plain(end, 2) if end is not None else "more than tried" for end in (estimate.lower, estimate.upper)
    ]
    return f"({ends[0]} to {ends[1]})"


def points_of(bound: Bound | None) -> str:
    """`−12.3 (−18.0 to −6.1)`."""
    if bound is None:
        return "out of reach"
    return f"{signed(100 * bound.mean)} ({bounds((100 * bound.lower, 100 * bound.upper))})"


def study_limits(analysis: Analysis, problems: int, samples: int, seeds: int) -> list[str]:
    """What a reader must know before quoting."""
    lines = [
        f"{problems} problems × {samples} samples, {seeds} training seeds; problems and seeds are both samples, and "
        "bounds of one grid hold together at 95 %, one-sided.",
        "Persona is measured by transparent marker rules on held-out prompts, with sampling seeds of the study's own.",
        "An adapter played back at α < 1 is not one trained more briefly: both are doses, of two kinds.",
        "Separations compare runs of one arm and dose; they say what went before a collapse, not what caused it.",
    ]
    if analysis.failed:
        what = sorted({f"{c.arm}, {c.training.label}, seed {c.seed}: {c.error}" for c in analysis.failed})
        lines.append(f"{len(what)} trainings failed and are left out: " + "; ".join(what) + ".")
    return lines

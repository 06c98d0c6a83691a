"""The sentences of a paper: each is chosen by the numbers of the study's JSON, and quotes them as macros.

An interval that covers zero is "was not told from". Where no loss of δ was seen nothing is said of any arm, since
nothing was tested.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from skippy.core.variants import comparisons
from skippy.report.paper_figures import dose_label
from skippy.report.paper_numbers import Study

MIN_COLLAPSED = 5
"""Collapsed runs below which nothing is said of what tells them apart."""
Order = Literal["later", "earlier", "not told", "neither"]


def control_claim(study: Study) -> str:
    """Whether the instrument saw a loss of δ, without which nothing was tested."""
    margin = study.cite("whole_points", "margin")
    if study.get("sensitivity", "bound") is None:
        return f"Nothing was tested: no cell finished, so that no loss of {margin} points could be seen."
    name = study.cite("text", "sensitivity", "name")
    loss = study.cite("signed_points", "sensitivity", "bound", "mean")
    upper = study.cite("signed_points", "sensitivity", "bound", "upper")
    tried = study.cite("number", "sensitivity", "tried")
    if is_tested(study):
        return (
            f"The instrument saw a loss of {margin} points: the most damaging of {tried} doses ({name}) "
            f"changed the score by {loss} points, with an upper bound of {upper}."
        )
    return (
        f"Nothing was tested: no dose was seen to lose {margin} points. The most damaging of {tried} doses "
        f"({name}) changed the score by {loss} points, with an upper bound of {upper}."
    )


def is_tested(study: Study) -> bool:
    """Whether a positive control was shown."""
    return bool(study.get("sensitivity", "is_shown"))


def pair_claims(study: Study) -> list[str]:
    """Treatment against each other arm at the highest persona in reach, over all training doses."""
    if not is_tested(study):
        margin = study.cite("whole_points", "margin")
        return [f"No arm is said to keep more than another, since no loss of {margin} points was seen."]
    found = []
    for pair in comparisons(study.get("study", "arms")):
        index = broadest(study, pair)
        if index is not None:
            found.append(difference_claim(study, index))
    return found or ["No two arms were compared at equal persona."]


def broadest(study: Study, pair: tuple[str, str]) -> int | None:
    """Place in `matched` of the mean over the training doses at the highest persona in reach."""
    there = [
        (index, one)
        for index, one in enumerate(study.get("matched"))
        if (one["first"], one["second"]) == pair and one["bound"] is not None
    ]
    doses = {str(one["training"]) for _, one in there}
    whole = [(one["persona"], index) for index, one in there if one["training"] is None or len(doses) == 1]
    return max(whole)[1] if whole else None


def direction(bound: Mapping[str, Any]) -> Literal["more", "less", "not told"]:
    """What an interval says of a difference: only one that leaves zero outside says anything."""
    return _side(bound, 0.0)


def _side(bound: Mapping[str, Any], of: float | int) -> Literal["more", "less", "not told"]:
    """On which side of a value an interval lies; one without an end lies on none."""
    lower, upper = bound["lower"], bound["upper"]
    if lower is None or upper is None:
        return "not told"
    return "more" if lower > of else "less" if upper < of else "not told"


def difference_claim(study: Study, index: int) -> str:
    """One comparison at equal persona, in words that its bounds carry."""
    one = study.get("matched", index)
    first, second = study.numbers.arm(one["first"]), study.numbers.arm(one["second"])
    where = ("matched", index)
    words = {
        "more": f"{first} keeps more of the score than {second}",
        "less": f"{first} keeps less of the score than {second}",
        "not told": f"{first} was not told from {second}",
    }[direction(one["bound"])]
    mean = study.cite("signed_points", *where, "bound", "mean")
    ends = study.interval("signed_points", *where, "bound")
    sentence = f"At persona {study.cite('number', *where, 'persona')}, {words}: {mean} points ({ends})"
    margin = study.get("margin")
    if -margin < one["bound"]["lower"] and one["bound"]["upper"] < margin:
        sentence += f", a difference within {study.cite('whole_points', 'margin')} points on either side"
    return sentence + "."


def order_of_loss(first: Mapping[str, Any], second: Mapping[str, Any]) -> Order:
    """Whether the first arm loses δ at a higher persona than the second.

    An end that lies beyond what was tried is worth no more than the largest persona tried: an arm that was never
    brought that far has not been seen to last longer.
    """
    if first["persona"]["value"] is None and second["persona"]["value"] is None:
        return "neither"
    if _last_seen(first) > _latest(second):
        return "later"
    if _last_seen(second) > _latest(first):
        return "earlier"
    return "not told"


def _last_seen(lost: Mapping[str, Any]) -> float:
    """The persona up to which an arm has not lost δ."""
    lower = lost["persona"]["lower"]
    return float(lost["largest_persona"] if lower is None else lower)


def _latest(lost: Mapping[str, Any]) -> float:
    upper = lost["persona"]["upper"]
    return math.inf if upper is None else float(upper)


def loss_order_claim(study: Study, first: str, second: str) -> str:
    """At how many training doses the first arm loses δ later; empty where they do not share a dose."""
    by_place = {(one["arm"], dose_label(one["training"])): one for one in study.get("lost")}
    doses = [dose for arm, dose in by_place if arm == first and (second, dose) in by_place]
    if not doses or not is_tested(study):
        return ""
    orders = [order_of_loss(by_place[first, dose], by_place[second, dose]) for dose in doses]
    margin = study.cite("whole_points", "margin")
    arms = study.numbers.arm(first), study.numbers.arm(second)

    def counted(order: Order) -> str:
        name = f"{first} {second} {order}"
        return study.count(name, orders.count(order), f"lost: training doses at which {name}")

    total = study.count(f"{first} {second} doses", len(doses), "lost: training doses of both arms")
    parts = [
        f"{words} at {counted(order)}"
        for order, words in (
            ("later", f"{arms[0]} loses them at a higher persona"),
            ("earlier", f"{arms[0]} loses them at a lower persona"),
            ("not told", "not told apart"),
            ("neither", "lost by neither"),
        )
        if order in orders
    ]
    return (
        f"{arms[0]} and {arms[1]} were compared by the persona at which {margin} points are lost. Training doses: "
        f"{total}; {', '.join(parts)}."
    )


def predictor_claims(study: Study) -> list[str]:
    """What goes with the loss over all cells, and whether leakage tells more than divergence."""
    found = []
    correlations: Mapping[str, Any] = study.get("correlations")
    name = "kl_base_arm_everyday"
    if name in correlations:
        where = ("correlations", name)
        words = {"more": "rises with", "less": "falls with", "not told": "was not seen to go with"}[
            direction(correlations[name])
        ]
        found.append(
            f"The divergence from the base on everyday prompts {words} the score lost: rank correlation "
            f"{study.cite('signed', *where, 'value')} ({study.interval('signed', *where)})."
        )
    gain = study.get("leakage_gain")
    if gain is not None:
        words = {
            "more": "Leakage predicts the loss beyond divergence",
            "less": "With leakage added to divergence, the loss is predicted worse on seeds left out",
            "not told": "Leakage was not seen to predict the loss beyond divergence",
        }[direction(gain)]
        found.append(
            f"{words}: it adds {study.cite('fine', 'leakage_gain', 'value')} "
            f"({study.interval('fine', 'leakage_gain')}) to the \\rsquared{{}} on seeds left out."
        )
    return found or ["No divergence was measured."]


def collapse_claim(study: Study) -> str:
    """How many runs collapsed, and what may be said of what tells them apart."""
    counts: Sequence[Mapping[str, Any]] = study.get("collapses")
    collapsed, runs = (sum(one[key] for one in counts) for key in ("collapsed", "runs"))
    total = study.count("runs", runs, "collapses: runs")
    if not collapsed:
        return f"None of {total} runs collapsed."
    shown = study.count("collapsed", collapsed, "collapses: collapsed")
    sentence = f"{shown} of {total} runs collapsed"
    if collapsed < MIN_COLLAPSED:
        return f"{sentence}, too few to say what tells them from the others."
    return sentence + "."


def telling(study: Study) -> list[str]:
    """Statistics whose interval leaves one half outside, the most telling first; none where few runs collapsed."""
    if sum(one["collapsed"] for one in study.get("collapses")) < MIN_COLLAPSED:
        return []
    found = [
        (-abs(one["value"] - 0.5), name)
        for name, one in study.get("separations").items()
        if _side(one, 0.5) != "not told"
    ]
    return [name for _, name in sorted(found)]


def fates_claim(study: Study) -> str:
    """How many predictions held, were refuted, or stay undecided."""
    fates = [one["fate"] for one in study.get("predictions")]
    if not fates:
        return "The plan stated no predictions."
    parts = [
        f"{study.count(f'fate {fate}', fates.count(fate), f'predictions: {fate}')} {words}"
        for fate, words in (("held", "held"), ("refuted", "refuted"), ("undecided", "left undecided"))
        if fate in fates
    ]
    total = study.count("predictions", len(fates), "predictions")
    return f"Of {total} predictions stated before the run: {', '.join(parts)}."


def agreement_claim(studies: Sequence[Study]) -> list[str]:
    """Whether several studies give the same answer to the same comparison."""
    found = []
    arms = dict.fromkeys(arm for study in studies for arm in study.get("study", "arms"))
    for pair in comparisons(arms):
        answers = []
        for study in studies:
            index = broadest(study, pair)
            if index is not None and is_tested(study):
                answers.append(direction(study.get("matched", index, "bound")))
        if len(answers) < 2:
            continue
        first, second = (studies[0].numbers.arm(name) for name in pair)
        words = {"more": "keeps more than", "less": "keeps less than", "not told": "was not told from"}
        if len(set(answers)) == 1:
            found.append(
                f"Every study that tested it gives the same answer: {first} {words[answers[0]]} {second}."
            )
        else:
            found.append(f"The studies do not agree on {first} and {second}.")
    return found

"""The promotion order, stated in roles: persona, then a treatment against the base, then against its rivals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from skippy.core.variants import VARIANTS, is_untrained, label_of, of_role
from skippy.report.conclusions import Gate, GateStep, PairVerdict, VariantVerdict
from skippy.report.numerals import listed
from skippy.results import Comparison


def barriers_of(comparison: Comparison) -> tuple[GateStep, ...]:
    """What keeps the gate shut whatever the figures say: unequal arms, or a margin set after the results."""
    barriers = []
    if comparison.unequal:
        reason = f"the arms differ in more than the variant: {'; '.join(comparison.unequal)}"
        barriers.append(GateStep("equal settings", False, reason, is_refuted=True))
    if not comparison.is_margin_planned:
        reason = (
            f"the margin of {comparison.margin_points:g} points is post hoc: the evaluations were planned with "
            f"{comparison.planned_margin_points:g}"
        )
        barriers.append(GateStep("planned margin", False, reason, is_refuted=True))
    return tuple(barriers)


def walk_gate(
    variants: Sequence[VariantVerdict],
    characters: Sequence[GateStep],
    pairs: Sequence[PairVerdict],
    barriers: Sequence[GateStep] = (),
) -> Gate:
    """Walk the steps in their fixed order; the first that fails is the last that is read.

    One treatment can win, the first of the comparison: with several tries a winner by chance would be likelier
    than the confidence says. It has to beat every rival, which needs no such care, and every arm that needs no
    training: where it does not, such an arm that has the character and keeps the mathematics wins in its place.

    Source: MATH.md §7, fixed-sequence testing (Maurer, Hothorn, Lehmacher 1995); Berger 1982 for "every rival".
    Departure: none.
    """
    names = [verdict.name for verdict in variants]
    treatment = next(iter(of_role("treatment", names)), None)
    shown = {step.name for step in characters if step.is_passed}
    free = [name for name in names if is_untrained(name) and name in shown]
    rivals = (*of_role("rival", names), *free)
    enough = "" if barriers else next((n for n in free if _is_enough(n, variants, pairs)), "")
    if treatment is None:
        reason = f"there is no {_any_of('treatment')} in this comparison"
        return Gate(None, rivals, ("persona",), (GateStep("persona", False, reason),), enough)
    label = label_of(treatment)
    order = (
        *(barrier.name for barrier in barriers[:1]),
        "persona",
        f"{label} non-inferior to base",
        f"{label} better than {listed([label_of(rival) for rival in rivals]) or _any_of('rival')}",
    )
    if barriers:
        return Gate(treatment, rivals, order, tuple(barriers[:1]))
    character = next(step for step in characters if step.name == treatment)
    verdict = next(item for item in variants if item.name == treatment)
    steps = [GateStep(order[0], character.is_passed, character.reason)]
    if steps[-1].is_passed:
        steps.append(
            GateStep(
                order[1],
                verdict.verdict == "preserved",
                f"{label}: {verdict.reason}",
                is_refuted=verdict.verdict == "degraded",
            )
        )
    if steps[-1].is_passed and len(steps) == 2:
        steps.append(_beats(order[2], treatment, rivals, pairs))
    gate = Gate(treatment, rivals, order, tuple(steps))
    return gate if gate.is_open else replace(gate, untrained=enough)


def _is_enough(name: str, variants: Sequence[VariantVerdict], pairs: Sequence[PairVerdict]) -> bool:
    """Whether an arm that has the character without training keeps the mathematics and is beaten by no treatment."""
    is_preserved = any(verdict.name == name and verdict.verdict == "preserved" for verdict in variants)
    is_beaten = any(
        name in (pair.first, pair.second)
        and pair.verdict == ("first_better" if pair.second == name else "second_better")
        for pair in pairs
    )
    return is_preserved and not is_beaten


def _beats(name: str, treatment: str, rivals: Sequence[str], pairs: Sequence[PairVerdict]) -> GateStep:
    """Whether a treatment is better than every rival; the reason is that of the first it does not beat."""
    if not rivals:
        return GateStep(name, False, f"there is no {_any_of('rival')} to compare with")
    against = [pair for pair in pairs if pair.first == treatment and pair.second in rivals]
    failed = [pair for pair in against if pair.verdict != "first_better"]
    reason = "; ".join(pair.reason for pair in failed[:1] or against)
    is_worse = any(pair.verdict == "second_better" for pair in failed)
    return GateStep(name, not failed, reason, is_refuted=is_worse)


def _any_of(role: str) -> str:
    return " or ".join(variant.label for variant in VARIANTS.values() if variant.role == role)

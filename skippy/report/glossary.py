"""The words and symbols of the page, explained once at its foot and linked where they appear."""

from __future__ import annotations

from dataclasses import dataclass

from skippy.core.variants import find_variant
from skippy.results import Comparison


@dataclass(frozen=True)
class Term:
    """One entry."""

    anchor: str  # where the page holds it
    word: str  # as the page writes it
    meaning: str  # in a sentence or two
    labels: tuple[str, ...] = ()  # row labels of tables that lead to it


def glossary(comparison: Comparison) -> list[Term]:
    """The arms of this comparison first, then the quantities and the verdicts."""
    arms = [
        Term(
            f"term-{arm.name}",
            arm.label,
            f"{arm.sentence}. Its role here: {find_variant(arm.name).role}.",
            (arm.label,),
        )
        for arm in comparison.variants
    ]
    delta, smallest = f"{comparison.margin_points:g}", f"{comparison.smallest_effect:g}"
    return [
        *arms,
        Term("term-base", "base", "The model before training. Every difference is measured against it."),
        Term(
            "term-delta",
            "δ, the margin",
            f"The largest loss that would not matter: {delta} points, "
            + (
                "planned before anything was asked."
                if comparison.is_margin_planned
                else "chosen afterwards: post hoc."
            ),
        ),
        Term(
            "term-avg",
            "avg_at_k",
            "Mean share of correct samples over all problems, k samples a problem, in points of 100.",
            ("avg_at_k", "difference to base"),
        ),
        Term(
            "term-verdict",
            "preserved, degraded, inconclusive, not tested",
            f"Preserved: a loss of {delta} points is excluded. Degraded: some loss is shown. Inconclusive: neither. "
            "Not tested: no arm and no control lost enough to show that a loss would have been seen, or no "
            "character appeared that could have cost anything.",
            ("verdict",),
        ),
        Term(
            "term-control",
            "positive control",
            f"An arm or an earlier evaluation, on the same base, problems and sampling, that lost more than {delta} "
            "points. It shows that this comparison can see harm.",
        ),
        Term(
            "term-persona",
            "persona score",
            "How much of the character is in an answer to an everyday prompt, from 0 to 1, by transparent marker "
            f"rules. A rise of more than {smallest} over the base counts as a character.",
            ("persona score",),
        ),
        Term(
            "term-coherence",
            "coherence, helpfulness",
            "By rules, over everyday answers. Coherence: whole sentences that take up the prompt are 1; loops, broken "
            "or cut-off text are less, down to −5. Helpfulness: whether there is an answer, and to the prompt, 0 to 1.",
            ("coherence", "helpfulness"),
        ),
        Term(
            "term-kl",
            "KL, everyday",
            "How far the arm's own everyday answers are from what the base would say, in nats a token; 0: not at all.",
        ),
        Term(
            "term-rho",
            "rho_left, rho_right",
            "Leakage: the share of the update's energy ‖ΔW‖² that lies in the top-k singular directions of the "
            "base's weights, on their output side and their input side. Chance is k/out and k/in.",
            ("rho_left", "rho_right", "rho_left, stored", "rho_right, stored"),
        ),
        Term(
            "term-auc",
            "AUC against base",
            "How well a simple classifier tells held-out answers from those of the base: 0.5 is not at all, 1 always.",
            ("AUC against base",),
        ),
        Term(
            "term-post-hoc",
            "post hoc",
            "A margin chosen after the evaluations were planned. Results under it promote nobody.",
        ),
    ]

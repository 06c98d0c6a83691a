"""What the models said, side by side: a fixed handful on the page, all of them as tables."""

from __future__ import annotations

from dataclasses import dataclass

from skippy.core.variants import has_seed, label_of
from skippy.report.flips import find_flips, sides_of
from skippy.results import Answer, Arm, Comparison

HANDFUL = 6
RULE = (
    f"{HANDFUL} held-out prompts, evenly spaced over the character's file, the first answer of each model, of the "
    "first training seed; chosen by this rule before anything was answered"
)


@dataclass(frozen=True)
class Exchange:
    """One everyday prompt with the answer of every arm, the base first."""

    prompt: str
    answers: tuple[tuple[Arm, Answer], ...]


def exchanges(comparison: Comparison, count: int = HANDFUL) -> list[Exchange]:
    """`count` prompts that every arm answered, evenly spaced; all where there are fewer.

    The rule looks at no answer: a page that shows chosen sentences shows the taste of who chose.
    """
    spoken = [(arm, arm.evaluations[0].answers) for arm in comparison.arms]
    if not spoken or not all(answers for _, answers in spoken):
        return []
    by_arm = [(arm, {answer.key: answer for answer in answers}) for arm, answers in spoken]
    common = [answer for answer in spoken[0][1] if all(answer.key in found for _, found in by_arm)]
    count = min(count, len(common))
    chosen = [common[index * len(common) // count] for index in range(count)]
    return [
        Exchange(answer.prompt, tuple((arm, found[answer.key]) for arm, found in by_arm)) for answer in chosen
    ]


def answer_rows(comparison: Comparison) -> list[dict[str, str | float | int]]:
    """Every first answer as a row: prompt, arm, training seed, answer, persona, tokens, traits."""
    return [
        {
            "prompt": answer.prompt,
            "arm": arm.label,
            "seed": str(item.seed) if has_seed(arm.name) else "",
            "answer": answer.text,
            "persona": round(answer.persona, 4),
            "tokens": answer.tokens,
            **{f"trait {name}": round(value, 4) for name, value in answer.traits.items()},
        }
        for arm in comparison.arms
        for item in arm.evaluations
        for answer in item.answers
    ]


def flip_rows(comparison: Comparison) -> list[dict[str, str | float | int]]:
    """Every problem that flipped as a row, with the sample of either side that shows it."""
    rows: list[dict[str, str | float | int]] = []
    for flip in find_flips(comparison):
        base, variant = sides_of(comparison, flip)
        rows.append(
            {
                "problem": flip.problem.question,
                "gold": flip.problem.gold,
                "arm": label_of(flip.variant),
                "flip": "lost" if flip.is_lost else "gained",
                "base share": flip.base_share,
                "arm share": flip.variant_share,
                "base answer": base.excerpt.text if base.excerpt else "",
                "arm answer": variant.excerpt.text if variant.excerpt else "",
                "base run": base.run_id,
                "arm run": variant.run_id,
            }
        )
    return rows

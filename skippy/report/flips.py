"""Problems that flipped between base and a variant, and the two samples that show it."""

from __future__ import annotations

from dataclasses import dataclass

from skippy.core.problem import Problem
from skippy.core.variants import has_seed
from skippy.results import Arm, Comparison, Excerpt, ProblemScore

FLIP_CHANGE = 0.25


@dataclass(frozen=True)
class Flip:
    """A problem whose majority changed: its share crosses one half and moves by a quarter or more."""

    problem: Problem
    variant: str
    base_share: float
    variant_share: float

    @property
    def is_lost(self) -> bool:
        """Solved by base, not by the variant."""
        return self.variant_share < self.base_share

    @property
    def anchor(self) -> str:
        """Where the page shows its samples."""
        return f"flip-{self.variant}-{self.problem.hash}"


@dataclass(frozen=True)
class FlipSide:
    """What one arm did on a flipped problem."""

    name: str  # the arm
    seed: int | None  # training seed of the model shown; None for the base
    score: ProblemScore  # its counts
    # a right sample of the arm that solved it, a wrong one of the other; None where none was kept
    excerpt: Excerpt | None
    run_id: str  # evaluation that holds the sample
    samples: str  # artifact of that run

    @property
    def path_from_report(self) -> str:
        """Where the samples lie relative to the page in a local artifact store; empty where unknown."""
        return f"../../../{self.run_id}/artifacts/{self.samples}" if self.run_id and self.samples else ""


def mean_shares(arm: Arm) -> dict[str, float]:
    """Problem key → p̂_i, averaged over training seeds."""
    shares: dict[str, list[float]] = {}
    for evaluation in arm.evaluations:
        for score in evaluation.scores:
            shares.setdefault(score.key, []).append(score.share)
    return {key: sum(values) / len(values) for key, values in shares.items()}


def find_flips(comparison: Comparison) -> list[Flip]:
    """All flips: the largest change of each arm first, then the second largest of each, and so on."""
    base = comparison.arm("base")
    if base is None:
        return []
    reference = mean_shares(base)
    ranked: list[tuple[int, Flip]] = []
    for arm in comparison.variants:
        flips = []
        shares = mean_shares(arm)
        for problem in comparison.problems:
            if problem.hash not in reference or problem.hash not in shares:
                continue
            before, after = reference[problem.hash], shares[problem.hash]
            if (before >= 0.5) != (after >= 0.5) and abs(after - before) >= FLIP_CHANGE:
                flips.append(Flip(problem, arm.name, before, after))
        flips.sort(key=lambda flip: -abs(flip.variant_share - flip.base_share))
        ranked += enumerate(flips)
    return [flip for _, flip in sorted(ranked, key=lambda pair: pair[0])]


def sides_of(comparison: Comparison, flip: Flip) -> tuple[FlipSide, ...]:
    """Base and variant, one of them right and the other wrong."""
    wanted = {"base": flip.is_lost, flip.variant: not flip.is_lost}
    arms = ((comparison.arm(name), is_right) for name, is_right in wanted.items())
    return tuple(_side(arm, flip.problem.hash, is_right) for arm, is_right in arms if arm)


def _side(arm: Arm, key: str, is_right: bool) -> FlipSide:
    """The training seed that shows it best, the first of equals; a mean over seeds has no samples of its own."""
    sign = 1 if is_right else -1
    scored = [(item, score) for item in arm.evaluations for score in item.scores if score.key == key]
    item, score = max(scored, key=lambda pair: sign * pair[1].share)
    kept = [excerpt for excerpt in score.excerpts if excerpt.is_correct == is_right]
    return FlipSide(
        name=arm.name,
        seed=item.seed if has_seed(arm.name) else None,
        score=score,
        excerpt=min(kept, key=lambda excerpt: excerpt.index, default=None),
        run_id=item.runs.get("eval", ""),
        samples=item.samples,
    )

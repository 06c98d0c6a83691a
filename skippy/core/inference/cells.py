"""One cell of a study: what one trained adapter answered at one scale of its update."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from skippy.errors import ReportError

BASE = "base"
NO_SEED = -1
"""Of the base, and of an arm that is one thing and no training among many."""


@dataclass(frozen=True, order=True)
class TrainingDose:
    """What makes an update: learning rate, weight β of the KL term, optimizer steps."""

    learning_rate: float | int
    beta: float | int
    steps: int

    @property
    def label(self) -> str:
        """As a reader calls it."""
        if self == NO_TRAINING:
            return "own recipe"
        return f"lr {self.learning_rate:g}, β {self.beta:g}, {self.steps} steps"


NO_TRAINING = TrainingDose(0.0, 0.0, 0)
"""Of the base, and of arms whose method has no learning rate or one of its own."""


@dataclass(frozen=True)
class Cell:
    """One arm × training dose × seed × α, with everything that the analysis reads."""

    arm: str  # variant, or `base`
    training: TrainingDose  # `NO_TRAINING` for the base and for methods that are no GRPO on LoRA
    alpha: float | int  # scale of the update, 0 for the base
    seed: int  # training seed; `NO_SEED` for the base and for an arm that has none
    samples: int = 0  # k, answers a problem
    correct: Mapping[str, int] = field(default_factory=dict)  # problem hash → correct answers of k
    # everyday prompt's hash → persona score
    personas: Mapping[str, float | int] = field(default_factory=dict)
    # name → value; what was not measured is absent
    predictors: Mapping[str, float | int] = field(default_factory=dict)
    error: str = ""  # why the cell has no answers; empty where it has

    @property
    def is_failed(self) -> bool:
        """Whether it must be left out."""
        return bool(self.error)

    @property
    def score(self) -> float:
        """avg_at_k, a share of one."""
        return sum(self.correct.values()) / (self.samples * len(self.correct))

    @property
    def persona(self) -> float:
        """Mean persona score over everyday prompts."""
        return sum(self.personas.values()) / len(self.personas)


def require_same_questions(cells: list[Cell], base: Cell) -> None:
    """Check that every cell answered what the base answered, as often.

    Raises:
        ReportError: a cell has other problems, prompts or another k; differences would not be paired.
    """
    for cell in cells:
        same = (
            cell.correct.keys() == base.correct.keys()
            and cell.personas.keys() == base.personas.keys()
            and cell.samples == base.samples
        )
        if not (cell.is_failed or same):
            raise ReportError(
                "A cell did not answer what the base answered.",
                where=f"{cell.arm}, {cell.training.label}, α {cell.alpha:g}, seed {cell.seed}",
                expected=f"{len(base.correct)} problems × {base.samples}, {len(base.personas)} prompts, the base's",
                found=f"{len(cell.correct)} problems × {cell.samples}, {len(cell.personas)} prompts",
                next_step="run the cell again with this plan",
            )

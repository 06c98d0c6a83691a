"""What GRPO makes, ready to be made: its identity is known without trl, torch or transformers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from skippy.presets.settings import GrpoSettings
from skippy.resolve.references import FoundReference
from skippy.training.making import Made
from skippy.training.plan import RunSink, TrainRequest
from skippy.training.resume import identify, name_work


@dataclass(frozen=True, eq=False)
class GrpoMaker:
    """Makes an update by GRPO; under a launcher every process trains."""

    request: TrainRequest  # what is trained, but for the reference
    reference: FoundReference | None = None  # character deltas are measured against it; None: they are not

    @property
    def settings(self) -> GrpoSettings:
        """The hyperparameters that all arms made by GRPO share."""
        return self.request.settings

    @property
    def identity(self) -> Mapping[str, Any]:
        """What makes two trainings the same trajectory."""
        return identify(self.request)

    @property
    def rewards_digest(self) -> str:
        """Of character, hardening, judge and own rewards."""
        return self.request.rewards_digest

    def name_work(self) -> tuple[str, ...]:
        """The workspace of this training."""
        return name_work(self.request)

    def going_on(self, resume: bool) -> GrpoMaker:
        """The same, from the last checkpoint or from the start."""
        return replace(self, request=replace(self.request, resume=resume))

    def make(self, folder: Path, sink: RunSink, *, is_first: bool) -> Made | None:
        """Train."""
        from skippy.training.grpo import describe, train_grpo

        reference = self.reference.load() if self.reference else None
        outcome = train_grpo(replace(self.request, output_dir=folder, reference=reference), sink)
        return describe(outcome, self.request.variant) if is_first else None

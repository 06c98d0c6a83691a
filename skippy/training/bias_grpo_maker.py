"""What GRPO on biases is made of, ready to be made: its identity is known without trl, torch or transformers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from skippy.presets.settings import GrpoSettings, unusable
from skippy.presets.steering import SteerSettings
from skippy.resolve.bases import Base
from skippy.training.making import Anew, Made, work_name
from skippy.training.plan import RunSink, TrainRequest
from skippy.training.resume import identify


@dataclass(frozen=True, eq=False)
class BiasGrpoMaker(Anew):
    """Makes biases by GRPO, on one process."""

    request: TrainRequest
    base: Base
    site: SteerSettings

    @property
    def settings(self) -> GrpoSettings:
        """GRPO's, with the learning rate that biases need."""
        return replace(self.request.settings, learning_rate=self.site.grpo_learning_rate)

    @property
    def identity(self) -> Mapping[str, Any]:
        """What makes two trainings the same trajectory."""
        request = replace(self.request, settings=self.settings)
        return {**identify(request), "site": [self.site.site, self.site.layers, self.site.depth]}

    @property
    def rewards_digest(self) -> str:
        """Of character, hardening, judge and own rewards."""
        return self.request.rewards_digest

    def name_work(self) -> tuple[str, ...]:
        """The workspace of this training."""
        return work_name(self.request.variant, self.request.base_digest, self.settings.seed, self.identity)

    def make(self, folder: Path, sink: RunSink, *, is_first: bool) -> Made | None:
        """Train.

        Raises:
            ConfigError: with math problems, under vLLM or on several processes, none of which this arm has.
        """
        from skippy.training.bias_grpo import train_bias_grpo

        request = replace(self.request, settings=self.settings, output_dir=folder)
        if not is_first or request.settings.vllm or request.settings.math_mix:
            raise unusable("variant " + request.variant, "one process, no vllm and no math_mix", "another")
        return train_bias_grpo(request, self.base, self.site, sink)

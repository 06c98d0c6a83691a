"""The character delta by step: metrics, and the tables by target, pooled and by trait."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from torch import nn
from transformers import TrainerCallback

from skippy.core.personality.measurement import measure_character
from skippy.core.personality.reference import CharacterReference, prepare_gauge
from skippy.core.spectral.lora import LoraFactors
from skippy.models.activations import mean_hidden
from skippy.training.plan import RunSink

CONSTANT = "character/trait_condition"
"""Of the reference alone: one point says it, which no chart draws as a curve."""


class CharacterCallback(TrainerCallback):
    """Measures every `every` steps and at each save, once a step, on the first process only.

    It draws no random number from the global state: a run that measures and one that does not are the same.

    Args:
        model: read teacher-forced on the reference's probes, for the trait profile.
    """

    def __init__(
        self,
        run: RunSink,
        model: nn.Module,
        tokenizer: Any,
        factors: Mapping[str, LoraFactors],
        reference: CharacterReference,
        every: int,
        seed: int,
    ) -> None:
        self.run = run
        self.model, self.tokenizer = model, tokenizer
        self.factors = factors
        self.every = every
        device = next(iter(factors.values())).A.device
        self.gauge = prepare_gauge(reference, seed=seed, device=device)
        self._measured_at = -1

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Measure where the step is due, and at the last one."""
        if state.global_step % self.every == 0 or state.global_step == state.max_steps:
            self.measure(state)

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Measure what was saved."""
        self.measure(state)

    def measure(self, state: Any) -> None:
        """Log the character delta of the adapter as it is now."""
        step = state.global_step
        if not state.is_world_process_zero or step == self._measured_at:
            return
        is_first, self._measured_at = self._measured_at < 0, step
        hidden = mean_hidden(self.model, self.tokenizer, self.gauge.reference.traits)
        measurement = measure_character(self.factors, self.gauge, hidden)
        metrics = measurement.metrics()
        if not is_first:
            metrics.pop(CONSTANT, None)
        self.run.log_metrics(metrics, step=step)
        rows = [asdict(row) for row in measurement.rows]
        self.run.log_table(rows, f"character_deltas/step_{step:06d}.parquet")
        # Folders of their own: the figures read every table in the first one as targets.
        self.run.log_table(measurement.pooled_rows(), f"character_pooled/step_{step:06d}.parquet")
        self.run.log_table(measurement.trait_rows(), f"character_traits/step_{step:06d}.parquet")

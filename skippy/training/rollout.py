"""Completions for a training step by recorded decoding, in place of `generate` of transformers.

`generate` launches every kernel of every token from the host, which for a small model is most of a training
step. The distribution sampled from is the same: temperature, then top-k, then top-p. The random numbers are
others: each completion has a seed, drawn from torch's generator, which a checkpoint keeps.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor

from skippy.core.sampling import Sampling
from skippy.models.captured import FixedBatch
from skippy.models.decoding import Row
from skippy.training.weight_sync import merged_forward


class Rollout:
    """Samples from the policy as it is now.

    Args:
        config: TRL's generation config, of which every parameter that `Sampling` lacks must be off.
        records: record a step on a GPU; without, the same tokens come kernel by kernel.
    """

    def __init__(self, model: PeftModel, config: Any, *, merges: bool, records: bool = True) -> None:
        self._model, self._merges, self._records = model, merges, records
        self._sampling = Sampling(
            temperature=config.temperature,
            top_p=config.top_p,
            top_k=config.top_k or 0,
            max_tokens=config.max_new_tokens,
            name="rollout",
        )
        ends = config.eos_token_id
        self._ends = [ends] if isinstance(ends, int) else list(ends)
        self._pad_token: int = config.pad_token_id
        self._barred: list[int] = list(config.suppress_tokens or ())
        self._sums: dict[str, Tensor] = {}  # of W + ΔW, at addresses that recorded steps read
        self._batch: FixedBatch | None = None

    def complete(self, prompts: Sequence[Sequence[int]]) -> list[list[int]]:
        """One completion a prompt, in their order, each with the token that ended it."""
        seeds = torch.randint(2**62, (len(prompts),)).tolist()
        rows = [
            Row(str(index), tuple(prompt), seed)
            for index, (prompt, seed) in enumerate(zip(prompts, seeds, strict=True))
        ]
        batch = self._fitting_batch(len(rows), max(map(len, prompts)) + self._sampling.max_tokens)
        was_training = self._model.training
        self._model.eval()
        try:
            with merged_forward(self._model, self._sums) if self._merges else nullcontext():
                batch.join(rows)
                while batch.rows:
                    batch.step()
        finally:
            batch.clear()
            self._model.train(was_training)
        return [row.tokens for row in rows]

    def _fitting_batch(self, slots: int, columns: int) -> FixedBatch:
        """The batch of the last step, unless this one needs more."""
        batch = self._batch
        if batch is None or batch.slots < slots or batch.columns < columns:
            self._batch = None  # its buffers go before the new ones come
            self._batch = batch = FixedBatch(
                self._model,
                self._sampling,
                self._ends,
                self._pad_token,
                slots=slots,
                columns=columns,
                barred=self._barred,
                records=self._records,
            )
        return batch

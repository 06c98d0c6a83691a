"""How far a model has moved: KL between base and arm, a token at a time, on the same texts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

BATCH = 12


@dataclass(frozen=True, eq=False)
class _Batch:
    """Texts side by side: tokens, what is padding, which positions predict an answer token, the base's logits there."""

    tokens: Tensor
    mask: Tensor
    predicts: Tensor
    logits: Tensor


class Divergence:
    """KL between base and arm per token, teacher-forced on given answers; the base's logits are kept, not the base."""

    def __init__(
        self, model: nn.Module, tokenizer: Any, texts: Sequence[tuple[list[int], list[int]]]
    ) -> None:
        self._model: nn.Module | None = model
        pad = tokenizer.pad_token_id or 0
        device = next(model.parameters()).device
        ordered = sorted(texts, key=lambda pair: len(pair[0]) + len(pair[1]))
        self._batches = []
        for start in range(0, len(ordered), BATCH):
            batch = ordered[start : start + BATCH]
            width = max(len(prompt) + len(answer) for prompt, answer in batch)
            rows = [prompt + answer for prompt, answer in batch]
            tokens = torch.tensor([row + [pad] * (width - len(row)) for row in rows], device=device)
            mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows], device=device)
            predicts = torch.zeros_like(mask, dtype=torch.bool)
            for index, (prompt, answer) in enumerate(batch):
                predicts[index, len(prompt) - 1 : len(prompt) + len(answer) - 1] = True
            self._batches.append(_Batch(tokens, mask, predicts, self._logits(tokens, mask, predicts)))

    def measure(self, arm: nn.Module | None = None) -> tuple[float, float]:
        """KL(base‖arm) and KL(arm‖base) in nats a token; without an `arm`, of the weights as they are now."""
        self._model = arm or self._model
        forward = backward = 0.0
        count = 0
        for batch in self._batches:
            base = batch.logits.float().log_softmax(-1)
            moved = self._logits(batch.tokens, batch.mask, batch.predicts).float().log_softmax(-1)
            forward += float((base.exp() * (base - moved)).sum())
            backward += float((moved.exp() * (moved - base)).sum())
            count += len(base)
        return forward / count, backward / count

    def forget_model(self) -> None:
        """Let the base go; what was read of it stays."""
        self._model = None

    @torch.inference_mode()
    def _logits(self, tokens: Tensor, mask: Tensor, predicts: Tensor) -> Tensor:
        assert self._model is not None
        out = self._model(input_ids=tokens, attention_mask=mask, use_cache=False)
        logits: Tensor = out.logits
        return logits[predicts]

"""Steering: a bias in the middle of the model, trained on pairs of answers so that it turns the character up.

The layers below the bias see nothing of it, so their output is computed once and kept; every step runs the others.
The model's own weights have no gradient. Held-out prompts stop the training.

Source: BiPO, arXiv 2406.00045 (core/personality/steering.py says where we depart).
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from skippy.core.personality.pairs import Pair
from skippy.core.personality.steering import ROWS, bipo_losses, fold_gradient, signed_rows
from skippy.errors import TrainingError
from skippy.models.answering import pad_id
from skippy.models.hooks import evaluating
from skippy.presets.steering import SteerSettings
from skippy.training.plan import RunSink
from skippy.training.steer_means import pair_tokens
from skippy.training.steered_model import Answered, SteeredModel, site_modules


@dataclass(frozen=True)
class Steered:
    """What a training of a bias leaves."""

    biases: Mapping[str, Tensor]  # by module, float32, on the CPU
    steps: int  # taken
    epoch: int  # whose bias it is, the best on held-out pairs
    loss: float  # on held-out pairs there; log 2 at the start
    told_apart: float  # share of held-out pairs that the bias prefers the right way round
    train_pairs: int  # trained on
    held_out_pairs: int  # that stopped it
    seconds: float  # of wall time


def train_bias(
    model: Any, tokenizer: Any, pairs: Sequence[Pair], settings: SteerSettings, sink: RunSink
) -> Steered:
    """Train the biases of `settings.site`.

    Raises:
        TrainingError: the loss is not finite.
    """
    began = time.perf_counter()
    model.requires_grad_(False)
    steered = SteeredModel(model, *site_modules(model, settings))
    with evaluating(model), steered.listening():
        run = _Run(steered, tokenizer, pairs, settings, sink)
        return run.train(began)


class _Run:
    """Pairs as tokens, the base's log-probabilities, the biases and their optimizer."""

    def __init__(
        self,
        steered: SteeredModel,
        tokenizer: Any,
        pairs: Sequence[Pair],
        settings: SteerSettings,
        sink: RunSink,
    ) -> None:
        self._steered, self._settings, self._sink = steered, settings, sink
        self._fill = pad_id(tokenizer)
        self._pairs = read_pairs(steered, tokenizer, pairs)
        self._reference = self._base_log_probabilities()
        self._held, self._trained = split_by_prompt([pair.prompt for pair in pairs], settings)
        self._biases = {
            name: torch.zeros(steered.width(name), device=steered.device) for name in steered.modules
        }
        self._optimizer = torch.optim.AdamW(
            self._biases.values(), lr=settings.learning_rate, weight_decay=settings.weight_decay
        )
        self._steps = settings.epochs * math.ceil(len(self._trained) / settings.batch)

    def train(self, began: float) -> Steered:
        """Epoch by epoch until the held-out loss has not fallen for `patience` of them; the best is kept."""
        generator = torch.Generator().manual_seed(self._settings.seed)
        best, epoch, step = (math.inf, 0.0, 0, self._copy()), 0, 0
        for epoch in range(1, self._settings.epochs + 1):
            order = torch.randperm(len(self._trained), generator=generator).tolist()
            for start in range(0, len(order), self._settings.batch):
                self._step([self._trained[i] for i in order[start : start + self._settings.batch]], step)
                step += 1
            loss, told_apart = self._examine()
            self._sink.log_metrics({"steer/held_out_loss": loss, "steer/told_apart": told_apart}, step)
            if loss < best[0]:
                best = (loss, told_apart, epoch, self._copy())
            if epoch - best[2] >= self._settings.patience:
                break
        loss, told_apart, chosen, biases = best
        return Steered(
            *(biases, step, chosen, loss, told_apart, len(self._trained), len(self._held)),
            time.perf_counter() - began,
        )

    def _step(self, batch: Sequence[int], step: int) -> None:
        loss = self.gradients(batch)
        for group in self._optimizer.param_groups:
            group["lr"] = self._settings.learning_rate * self._share(step)
        self._optimizer.step()
        norm = math.sqrt(sum(float(one.square().sum()) for one in self._biases.values()))
        self._sink.log_metrics({"steer/loss": loss, "steer/norm": norm}, step + 1)

    def gradients(self, batch: Sequence[int]) -> float:
        """Loss of these pairs; leaves its gradient with the biases."""
        rows = {name: signed_rows(one).requires_grad_() for name, one in self._biases.items()}
        losses, _ = self._losses(batch, rows)
        loss = losses.mean()
        for name, found in zip(rows, torch.autograd.grad(loss, list(rows.values())), strict=True):
            self._biases[name].grad = fold_gradient(found)
        if not bool(torch.isfinite(loss)):
            raise TrainingError(
                "The loss is not finite.",
                where="steering",
                expected="a finite loss",
                found=str(float(loss.detach())),
                next_step="train with a smaller steer.learning_rate",
            )
        return float(loss.detach())

    @torch.no_grad()
    def _examine(self) -> tuple[float, float]:
        """Loss and share told apart over the held-out pairs."""
        rows = {name: signed_rows(one) for name, one in self._biases.items()}
        total, right = 0.0, 0.0
        for start in range(0, len(self._held), self._settings.batch):
            batch = self._held[start : start + self._settings.batch]
            losses, margins = self._losses(batch, rows)
            total += float(losses.mean()) * len(batch)
            right += float((margins > 0).sum())
        return total / len(self._held), right / len(self._held)

    def _losses(self, batch: Sequence[int], rows: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """The two losses, and how much likelier +v makes r_T than r_O."""
        chosen, rejected = [self._pairs[i][0] for i in batch], [self._pairs[i][1] for i in batch]
        policy = self._steered.log_probabilities([*chosen, *rejected] * 2, rows, self._fill).view(ROWS, -1)
        reference = self._reference[:, list(batch)]
        margins = (policy[0] - reference[0]) - (policy[1] - reference[1])
        return bipo_losses(policy, reference, self._settings.beta), margins.detach()

    @torch.no_grad()
    def _base_log_probabilities(self) -> Tensor:
        """(2, pairs): of r_T and r_O at v = 0, once."""
        found = []
        for start in range(0, len(self._pairs), self._settings.batch):
            part = self._pairs[start : start + self._settings.batch]
            answers = [each for side in (0, 1) for each in [pair[side] for pair in part]]
            found.append(self._steered.log_probabilities(answers, {}, self._fill).view(2, -1))
        return torch.cat(found, 1)

    def _share(self, step: int) -> float:
        """Of the peak learning rate: warm-up, then a cosine to 0."""
        warmup = min(self._settings.warmup_steps, self._steps // 2)
        if step < warmup:
            return (step + 1) / warmup
        return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, self._steps - warmup)))

    def _copy(self) -> dict[str, Tensor]:
        return {name: one.detach().float().cpu().clone() for name, one in self._biases.items()}


def read_pairs(
    steered: SteeredModel, tokenizer: Any, pairs: Sequence[Pair]
) -> list[tuple[Answered, Answered]]:
    """Both answers of each pair after the plain prompt, with the token that ends an answer where both ended."""
    texts = [(pair, text) for pair in pairs for text in (pair.chosen, pair.rejected)]
    read = steered.read([pair_tokens(tokenizer, pair, text) for pair, text in texts], pad_id(tokenizer))
    return list(zip(read[0::2], read[1::2], strict=True))


def split_by_prompt(prompts: Sequence[str], settings: SteerSettings) -> tuple[list[int], list[int]]:
    """Places of held-out and of trained pairs; pairs of one prompt stay together."""
    distinct = list(dict.fromkeys(prompts))
    if len(distinct) < 2:
        raise TrainingError(
            "There is no prompt to hold out.",
            where="pairs of answers",
            expected="pairs of at least 2 prompts",
            found=f"{len(distinct)}",
            next_step="run the subspace stage with more prompts",
        )
    generator = torch.Generator().manual_seed(settings.seed)
    order = torch.randperm(len(distinct), generator=generator).tolist()
    count = min(max(1, round(settings.held_out * len(distinct))), len(distinct) - 1)
    held = {distinct[i] for i in order[:count]}
    places = {True: [], False: []}  # type: dict[bool, list[int]]
    for place, prompt in enumerate(prompts):
        places[prompt in held].append(place)
    return places[True], places[False]

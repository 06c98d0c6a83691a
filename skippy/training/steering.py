"""Steering: a bias in the middle of the model, trained on pairs of answers so that it turns the character up.

The layers below the bias see nothing of it, so their output is computed once and kept; every step runs the others.
The model's own weights have no gradient. Held-out prompts stop the training.

Source: BiPO, arXiv 2406.00045 (core/personality/steering.py says where we depart).
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from skippy.core.personality.pairs import Pair
from skippy.core.personality.steering import ROWS, bipo_losses, fold_gradient, signed_rows
from skippy.errors import TrainingError
from skippy.models.answering import pad_id
from skippy.models.hooks import Hook, Reading, evaluating, find_module, read_moments
from skippy.models.layers import decoder_layers, entered_at, states_before
from skippy.models.prompts import conversation, prompt_ids
from skippy.presets.steering import SteerSettings
from skippy.training.plan import RunSink

logger = logging.getLogger(__name__)

READ_ROWS = 32  # answers whose layers below are computed at once


@dataclass(frozen=True)
class Answered:
    """One answer as tokens after its prompt's, and what enters the lowest steered layer there."""

    ids: Tensor
    answer: int
    states: Tensor


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


def site_modules(model: Any, settings: SteerSettings) -> tuple[tuple[str, ...], int]:
    """Names of the modules to whose output the biases are added, and the lowest layer among them.

    Raises:
        TrainingError: the model has fewer layers.
    """
    layers = decoder_layers(model)
    names = {id(module): name for name, module in model.named_modules()}
    if settings.layers > len(layers):
        raise TrainingError(
            "There are not so many layers to steer.",
            where="steer.layers",
            expected=f"at most {len(layers)}",
            found=str(settings.layers),
            next_step="pass a smaller number",
        )
    middle = int(settings.depth * len(layers))
    first = min(max(0, middle - (settings.layers - 1) // 2), len(layers) - settings.layers)
    inside = "" if settings.site == "block" else f".self_attn.{settings.site}"
    chosen = [names[id(layers[at])] + inside for at in range(first, first + settings.layers)]
    return tuple(chosen), first


class SteeredModel:
    """A frozen model whose layers from the lowest steered one on are run with signed rows of a bias.

    Args:
        model: on its device, in any mode.
        modules: to whose outputs the biases are added.
        first: the lowest of their layers.
        keep_states: compute what enters that layer once; else the whole model runs each time (the benchmark's twin).
    """

    def __init__(self, model: Any, modules: Sequence[str], first: int, *, keep_states: bool = True) -> None:
        self.model, self.modules, self.first = model, tuple(modules), first
        self._keeps = keep_states
        self.device = next(model.parameters()).device
        self._rows: dict[str, Tensor] = {}

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Within, biases are added."""
        with ExitStack() as stack:
            for name in self.modules:
                handle = find_module(self.model, name).register_forward_hook(self._adder(name))
                stack.callback(handle.remove)
            yield

    def width(self, name: str) -> int:
        """Of the output of a module."""
        module = find_module(self.model, name)
        if isinstance(module, nn.Linear):
            return int(module.out_features)
        config = self.model.config
        return int(getattr(config, "text_config", config).hidden_size)

    def read(self, answers: Sequence[tuple[Sequence[int], Sequence[int]]], fill: int) -> list[Answered]:
        """Prompts and answers as tokens, with what enters the lowest steered layer."""
        found: dict[int, Answered] = {}
        order = sorted(range(len(answers)), key=lambda i: len(answers[i][0]) + len(answers[i][1]))
        for start in range(0, len(order), READ_ROWS):
            part = order[start : start + READ_ROWS]
            rows = [torch.tensor([*answers[i][0], *answers[i][1]]) for i in part]
            ids = _side_by_side(rows, fill).to(self.device)
            states = states_before(self.model, self.first, ids) if self._keeps else None
            for row, (i, one) in enumerate(zip(part, rows, strict=True)):
                kept = one.new_zeros(0) if states is None else states[row, : len(one)].clone()
                found[i] = Answered(one.to(self.device), len(answers[i][1]), kept)
        return [found[i] for i in range(len(answers))]

    def log_probabilities(self, answers: Sequence[Answered], rows: Mapping[str, Tensor], fill: int) -> Tensor:
        """Σ log π(token) over each answer's tokens, float32.

        Args:
            answers: n of them.
            rows: by module (g, d), what is added in each of g equal groups of `answers`; empty: nothing.
            fill: a token to fill with; nothing of an answer sees what comes after it.
        """
        ids = _side_by_side([each.ids for each in answers], fill)
        lengths = [len(each.ids) for each in answers]
        begin = min(length - each.answer for length, each in zip(lengths, answers, strict=True)) - 1
        keep = torch.arange(begin, ids.shape[1] - 1, device=self.device)
        self._rows = dict(rows)
        given = {"input_ids": ids, "use_cache": False, "logits_to_keep": keep}
        if self._keeps:
            states = _side_by_side([each.states for each in answers], 0)
            with entered_at(self.model, self.first, states):
                logits = self.model(**given).logits
        else:
            logits = self.model(**given).logits
        wanted = ids[:, begin + 1 :]
        tokens = -F.cross_entropy(logits.float().flatten(0, 1), wanted.flatten(), reduction="none")
        ends = torch.tensor(lengths, device=self.device)[:, None]
        begins = ends - torch.tensor([each.answer for each in answers], device=self.device)[:, None]
        places = keep[None] + 1
        return tokens.view_as(wanted).where((places >= begins) & (places < ends), 0.0).sum(1)

    def _adder(self, name: str) -> Any:
        def add(_: nn.Module, __: tuple[Any, ...], output: Tensor) -> Tensor:
            rows = self._rows.get(name)
            if rows is None:
                return output
            return output + rows.to(output.dtype).repeat_interleave(len(output) // len(rows), 0)[:, None]

        return add


def train_bias(
    model: Any, tokenizer: Any, pairs: Sequence[Pair], settings: SteerSettings, sink: RunSink
) -> Steered:
    """Train the biases of `settings.site`.

    Args:
        model: the base; its parameters lose their gradient.
        pairs: chosen and rejected answers, asked without a system prompt.

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
    read = steered.read([_tokens(tokenizer, pair, text) for pair, text in texts], pad_id(tokenizer))
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


def mean_difference(
    model: Any, tokenizer: Any, pairs: Sequence[Pair], settings: SteerSettings
) -> dict[str, Tensor]:
    """Mean activation over tokens in character minus that over plain ones, where the biases are added; one pass.

    For `o_proj` that is the residual stream after attention, for `v_proj` the values, for `block` the layer's output.

    Source: contrastive activation addition, arXiv 2312.06681. Departure: all tokens of free answers, not the letter
    of a multiple choice.
    """
    modules, first = site_modules(model, settings)
    layers = decoder_layers(model)
    names = {id(module): name for name, module in model.named_modules()}
    hooks = {name: [Hook(name, name, "writes")] for name in modules}
    if settings.site == "o_proj":  # what attention adds, and the stream that it is added to
        for place, name in enumerate(modules):
            hooks[name].append(Hook(name + ".stream", names[id(layers[first + place])], "reads"))
    readings = [
        Reading((*prompt, *answer), len(answer), group)
        for pair in pairs
        for group, text in enumerate((pair.chosen, pair.rejected))
        for prompt, answer in [_tokens(tokenizer, pair, text)]
    ]
    moments = read_moments(
        model,
        readings,
        [hook for each in hooks.values() for hook in each],
        groups=2,
        pad_id=pad_id(tokenizer),
        batch_size=READ_ROWS,
    )
    means = {
        name: torch.stack([moments[hook.name].means for hook in each]).sum(0) for name, each in hooks.items()
    }
    return {name: (chosen - rejected).float() for name, (chosen, rejected) in means.items()}


def _tokens(tokenizer: Any, pair: Pair, answer: str) -> tuple[list[int], list[int]]:
    spoken = tokenizer(answer, add_special_tokens=False)["input_ids"]
    ending = [tokenizer.eos_token_id] if pair.is_whole else []
    return list(prompt_ids(tokenizer, conversation(pair.prompt))), [*spoken, *ending]


def _side_by_side(rows: Sequence[Tensor], fill: int) -> Tensor:
    return nn.utils.rnn.pad_sequence(list(rows), batch_first=True, padding_value=fill)

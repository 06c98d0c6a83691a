"""A frozen model with a bias in its middle: only the layers from the lowest steered one on are run each time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from skippy.errors import TrainingError
from skippy.models.hooks import find_module
from skippy.models.layers import decoder_layers, entered_at, states_before
from skippy.presets.steering import SteerSettings

READ_ROWS = 32  # answers whose layers below are computed at once


@dataclass(frozen=True)
class Answered:
    """One answer as tokens after its prompt's, and what enters the lowest steered layer there."""

    ids: Tensor
    answer: int
    states: Tensor


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
        modules: to whose outputs the biases are added.
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
            ids = side_by_side(rows, fill).to(self.device)
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
        ids = side_by_side([each.ids for each in answers], fill)
        lengths = [len(each.ids) for each in answers]
        begin = min(length - each.answer for length, each in zip(lengths, answers, strict=True)) - 1
        keep = torch.arange(begin, ids.shape[1] - 1, device=self.device)
        self._rows = dict(rows)
        given = {"input_ids": ids, "use_cache": False, "logits_to_keep": keep}
        if self._keeps:
            states = side_by_side([each.states for each in answers], 0)
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


def side_by_side(rows: Sequence[Tensor], fill: int) -> Tensor:
    """Rows of different lengths as one tensor, filled behind."""
    return nn.utils.rnn.pad_sequence(list(rows), batch_first=True, padding_value=fill)

"""Mean activations of a running model, group by group, at named points of its residual stream.

Activations are reduced inside the forward pass, one module at a time: what is kept is a mean a group and,
where asked for, a sketch of the covariance. Nothing of the size of a batch survives its batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from skippy.errors import SubspaceError, TargetError
from skippy.models.prompts import Messages, prompt_ids
from skippy.progress import track


@dataclass(frozen=True)
class Hook:
    """A point of the residual stream: the input ("reads") or output ("writes") of a module, by its name."""

    name: str
    module: str
    side: str


@dataclass(frozen=True)
class Reading:
    """Token ids of a conversation; the last `answer` of them are the answer, and only those are averaged."""

    ids: tuple[int, ...]
    answer: int
    group: int


def reading_of(tokenizer: Any, messages: Messages, answer: str, group: int) -> Reading:
    """A conversation with the answer that is read back."""
    spoken = tokenizer(answer, add_special_tokens=False)["input_ids"]
    return Reading((*prompt_ids(tokenizer, messages), *spoken), len(spoken), group)


@dataclass(frozen=True)
class Moments:
    """What one hook saw."""

    means: Tensor  # (groups, d) mean activation over a group's answer tokens, float64, on the CPU
    tokens: Tensor  # (groups,) how many there were
    # (m, d) F with E[FᵀF] = Σ, the covariance of all tokens together; None if not asked for
    sketch: Tensor | None
    # (groups, d, d) E[x xᵀ] of each group, not centred, float64, where the model is; None if not asked for
    squares: Tensor | None = None


def find_module(model: nn.Module, name: str) -> nn.Module:
    """The module called `name`, also inside wrappers that put a prefix before it (PEFT, DDP).

    Raises:
        TargetError: no module, or more than one, ends in this name.
    """
    found = [module for path, module in model.named_modules() if path == name or path.endswith("." + name)]
    if len(found) != 1:
        raise TargetError(
            "A hook's module is not in the model." if not found else "A hook's module is ambiguous.",
            where=name,
            expected="exactly one module of this name",
            found=str(len(found)),
            next_step="measure the model that the reference was collected on",
        )
    return found[0]


def read_moments(
    model: nn.Module,
    readings: Sequence[Reading],
    hooks: Sequence[Hook],
    *,
    groups: int,
    pad_id: int,
    batch_size: int,
    sketch_rows: int = 0,
    seed: int = 0,
    label: str | None = None,
    with_squares: bool = False,
) -> dict[str, Moments]:
    """Run the readings through the model once and reduce every hook's activations.

    The sketch mixes centred tokens with Gaussian weights, the same weights at every hook, so that a row is
    one mixture of tokens seen everywhere at once (skippy/core/personality/deltas.py says why).

    Args:
        model: in any mode; put back into it afterwards.
        readings: conversations, at least one token of answer in every group.
        sketch_rows: m; 0 leaves the sketch out.
        label: of the progress bar; None shows none, inside a training loop that has its own.
        with_squares: take E[x xᵀ] too, groups·d² numbers a hook on the model's device.

    Raises:
        SubspaceError: a group has no answer token at all.
    """
    sums = {hook.name: _Sums(groups, sketch_rows, with_squares) for hook in hooks}
    counts = _read(model, readings, hooks, sums, groups, pad_id, batch_size, sketch_rows, seed, label)
    return {name: part.finish(counts) for name, part in sums.items()}


def read_squares(
    model: nn.Module,
    readings: Sequence[Reading],
    hooks: Sequence[Hook],
    *,
    groups: int,
    pad_id: int,
    batch_size: int,
    label: str | None = None,
) -> tuple[dict[str, Tensor], Tensor]:
    """Sums of squared activations over answer tokens, by hook (groups, d), and how many tokens there were (groups,).

    Squares are taken in float32 and added in float64, on the CPU when returned. Arguments and errors as of
    `read_moments`.
    """
    sums = {hook.name: Squares(groups) for hook in hooks}
    counts = _read(model, readings, hooks, sums, groups, pad_id, batch_size, 0, 0, label)
    return {name: part.total.cpu() for name, part in sums.items()}, counts


def _read(
    model: nn.Module,
    readings: Sequence[Reading],
    hooks: Sequence[Hook],
    sums: Mapping[str, _Reducer],
    groups: int,
    pad_id: int,
    batch_size: int,
    sketch_rows: int,
    seed: int,
    label: str | None,
) -> Tensor:
    """Run the readings through the model, every hook reduced by its own; tokens by group."""
    device = next(model.parameters()).device
    ordered = sorted(readings, key=lambda reading: -len(reading.ids))
    batches = [ordered[start : start + batch_size] for start in range(0, len(ordered), batch_size)]
    counts = torch.zeros(groups, dtype=torch.float64)
    generator = torch.Generator().manual_seed(seed)
    batch = Batch()
    with _listening(model, hooks, sums, batch), evaluating(model), torch.no_grad():
        for readings_now in track(batches, label, len(batches)) if label else batches:
            ids, mask, answers, owners = _assemble(readings_now, pad_id)
            counts += torch.bincount(owners, minlength=groups)
            batch.answers, batch.owners = answers.to(device), owners.to(device)
            batch.mixing = torch.randn(sketch_rows, len(owners), generator=generator).to(device)
            batch.awaited = set(sums)
            arguments = {"input_ids": ids.to(device), "attention_mask": mask.to(device)}
            with suppress(_AllSeen):
                model(**arguments, use_cache=False, logits_to_keep=1)
    if not bool((counts > 0).all()):
        raise SubspaceError(
            "The model gave no answer at all in one group, so there is nothing to average.",
            where=f"{label or 'probes'}, group {int(counts.argmin())} of {groups}",
            expected="at least one answer token",
            found="0",
            next_step="use more prompts, or allow more tokens an answer",
        )
    return counts


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Dropout off within the block."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


class _AllSeen(Exception):
    """Every hook has seen the batch: what lies above the last one need not run."""


@dataclass
class Batch:
    """What the hooks need to know of the batch that is running, and who has not seen it yet."""

    answers: Tensor | None = None
    owners: Tensor | None = None
    mixing: Tensor | None = None
    awaited: set[str] = field(default_factory=set)

    def leave(self, hook: str) -> None:
        """End the forward pass once all have seen the batch."""
        self.awaited.discard(hook)
        if not self.awaited:
            raise _AllSeen


class _Reducer(Protocol):
    def add(self, tokens: Tensor, batch: Batch) -> None: ...


class Squares:
    """Sums of squares of one hook."""

    def __init__(self, groups: int) -> None:
        self._groups = groups
        self.total = torch.zeros(groups, 0, dtype=torch.float64)

    def add(self, tokens: Tensor, batch: Batch) -> None:
        """Take the answer tokens of a batch, each for its group."""
        assert batch.owners is not None
        if not self.total.shape[1]:
            self.total = torch.zeros(self._groups, tokens.shape[1], dtype=torch.float64, device=tokens.device)
        self.total.index_add_(0, batch.owners, tokens.float().square().double())


class _Sums:
    """Running sums of one hook: float64 for the means, float32 for the sketch.

    Both are taken about the first batch's mean, so that a large common offset costs no digits.
    """

    def __init__(self, groups: int, rows: int, with_squares: bool = False) -> None:
        self._groups, self._rows, self._with_squares = groups, rows, with_squares
        self._origin: Tensor | None = None

    def add(self, tokens: Tensor, batch: Batch) -> None:
        assert batch.owners is not None
        assert batch.mixing is not None
        if self._origin is None:
            width, device = tokens.shape[1], tokens.device
            self._origin = tokens.double().mean(0)
            self._total = torch.zeros(self._groups, width, dtype=torch.float64, device=device)
            self._sketch = torch.zeros(self._rows, width, device=device)
            self._weights = torch.zeros(self._rows, device=device)
            if self._with_squares:
                shape = (self._groups, width, width)
                self._squares = torch.zeros(shape, dtype=torch.float64, device=device)
        moved = tokens.double() - self._origin
        self._total.index_add_(0, batch.owners, moved)
        if self._rows:
            self._sketch += batch.mixing @ moved.float()
            self._weights += batch.mixing.sum(1)
        if self._with_squares:
            for group in batch.owners.unique().tolist():
                members = tokens[batch.owners == group].double()
                self._squares[group].addmm_(members.mT, members)

    def finish(self, counts: Tensor) -> Moments:
        assert self._origin is not None
        total, origin = self._total.cpu(), self._origin.cpu()
        means = origin + total / counts[:, None]
        sketch = None
        if self._rows:
            centre = (total.sum(0) / counts.sum()).float()
            scale = float(counts.sum() * self._rows) ** -0.5
            sketch = scale * (self._sketch.cpu() - self._weights.cpu()[:, None] * centre)
        squares = self._squares / counts.to(self._squares)[:, None, None] if self._with_squares else None
        return Moments(means, counts.clone(), sketch, squares)


@contextmanager
def _listening(
    model: nn.Module, hooks: Sequence[Hook], sums: Mapping[str, _Reducer], batch: Batch
) -> Iterator[None]:
    with ExitStack() as stack:
        for hook in hooks:
            handle = _listen(find_module(model, hook.module), hook, sums[hook.name], batch)
            stack.callback(handle.remove)
        yield


def _listen(module: nn.Module, hook: Hook, sums: _Reducer, batch: Batch) -> Any:
    if hook.side == "reads":

        def take_input(_: nn.Module, args: tuple[Any, ...]) -> None:
            sums.add(args[0][batch.answers], batch)
            batch.leave(hook.name)

        return module.register_forward_pre_hook(take_input)

    def take_output(_: nn.Module, __: tuple[Any, ...], output: Any) -> None:
        stream = output[0] if isinstance(output, tuple) else output
        sums.add(stream[batch.answers], batch)
        batch.leave(hook.name)

    return module.register_forward_hook(take_output)


def _assemble(readings: Sequence[Reading], pad_id: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Ids and mask padded on the right, where the answer tokens are, and the group of each of them."""
    longest = max(len(reading.ids) for reading in readings)
    ids = torch.full((len(readings), longest), pad_id)
    mask = torch.zeros_like(ids)
    answers = torch.zeros_like(ids, dtype=torch.bool)
    owners = []
    for row, reading in enumerate(readings):
        length = len(reading.ids)
        ids[row, :length] = torch.tensor(reading.ids)
        mask[row, :length] = 1
        answers[row, length - reading.answer : length] = True
        owners += [reading.group] * reading.answer
    return ids, mask, answers, torch.tensor(owners, dtype=torch.long)

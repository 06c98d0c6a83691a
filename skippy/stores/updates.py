"""What one tensor of a base becomes: its rows plus what one or several adapters add to them.

A plain target gets ΔW = s·B·A. A DoRA target becomes m ⊙ (W + ΔW) / ‖W + ΔW‖, norms by rows. A module saved whole
replaces the base's. A gate multiplies some weights. Each is a change ΔW of the base, is scaled by its weight, and
changes are added up.

Source: LoRA, arXiv 2106.09685, eq. 3; DoRA, arXiv 2402.09353, eq. 5. Departure: with several adapters, or a weight
other than 1, DoRA's W' − W is scaled, so that a weight of 0 gives the base.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import torch
from torch import Tensor

from skippy.core.spectral.lora import LoraFactors
from skippy.stores.adapters import Adapter
from skippy.stores.headers import TensorInfo
from skippy.stores.tensors import read_rows


@dataclass(frozen=True)
class LowRank:
    """ΔW = scale·B·A of one adapter, with the magnitudes of DoRA where it has them."""

    factors: LoraFactors
    weight: float
    magnitude: Tensor | None = None

    def to(self, device: torch.device | str) -> LowRank:
        """The same on another device."""
        factors = replace(self.factors, A=self.factors.A.to(device), B=self.factors.B.to(device))
        magnitude = None if self.magnitude is None else self.magnitude.to(device)
        return LowRank(factors, self.weight, magnitude)

    def delta(self, rows: slice, out: Tensor | None = None) -> Tensor:
        """s·B·A of these rows, in float32 and in PEFT's own order of operations."""
        factors = self.factors
        return torch.mm(factors.B[rows].float(), factors.A.float(), out=out).mul_(factors.scale)

    def change(self, rows: slice, base: Tensor) -> Tensor:
        """ΔW of these rows, at weight 1."""
        delta = self.delta(rows)
        if self.magnitude is None:
            return delta
        return self.replacement(delta.add_(base), rows).sub_(base)

    def replacement(self, moved: Tensor, rows: slice) -> Tensor:
        """DoRA's rows from W + ΔW: each gets the length of its magnitude."""
        assert self.magnitude is not None
        lengths = torch.linalg.norm(moved, dim=1)
        return moved.mul_((self.magnitude[rows].float() / lengths)[:, None])


class Gated(Protocol):
    """A part that knows itself how it changes weights, be it by multiplying some; `mask_changes` has one."""

    @property
    def weight(self) -> float:
        """The factor on ΔW."""

    def to(self, device: torch.device | str) -> Gated:
        """The same on another device."""

    def delta(self, rows: slice, base: Tensor) -> Tensor:
        """ΔW of these rows, at weight 1."""

    def gated(self, rows: slice, base: Tensor) -> Tensor:
        """W + weight·ΔW of these rows, with the bits of the base where nothing goes."""


@dataclass(frozen=True)
class Shift:
    """A vector that is added to a bias, whose rows have one column."""

    vector: Tensor
    weight: float

    def to(self, device: torch.device | str) -> Shift:
        """The same on another device."""
        return Shift(self.vector.to(device), self.weight)

    def delta(self, rows: slice, base: Tensor) -> Tensor:
        """What is added to these rows at weight 1, in the shape of the base's."""
        return self.vector[rows].reshape(base.shape).clone()

    def gated(self, rows: slice, base: Tensor) -> Tensor:
        """These rows, moved by `weight` times the vector."""
        return base + self.weight * self.delta(rows, base)


@dataclass(frozen=True)
class Replacement:
    """A tensor that was saved whole; read by rows, never whole."""

    info: TensorInfo
    weight: float

    def rows(self, rows: slice) -> Tensor:
        """What it puts in the place of these rows, in float32."""
        return read_rows(self.info, rows.start, rows.stop).float().flatten(1)


class Rooms:
    """Buffers that are used again: a fresh one for every step would fault in its pages, and miss the cache."""

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self._device = device
        self._buffers = [torch.empty(0, dtype=torch.uint8, device=device) for _ in range(4)]

    def first(self, shape: Sequence[int]) -> Tensor:
        """One of this shape, float32."""
        return self._of(0, shape)

    def second(self, shape: Sequence[int]) -> Tensor:
        """Another one."""
        return self._of(1, shape)

    def widened(self, values: Tensor) -> Tensor:
        """A float32 copy, in a third one."""
        return self._of(2, values.shape).copy_(values)

    def made(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """Room for what is written, in a fourth one."""
        return self._of(3, shape, dtype)

    def _of(self, index: int, shape: Sequence[int], dtype: torch.dtype = torch.float32) -> Tensor:
        size = math.prod(shape) * dtype.itemsize
        if len(self._buffers[index]) < size:
            self._buffers[index] = torch.empty(size, dtype=torch.uint8, device=self._device)
        return self._buffers[index][:size].view(dtype).view(tuple(shape))


@dataclass
class Update:
    """All that is added to one tensor of the base."""

    low_rank: list[LowRank] = field(default_factory=list)
    whole: list[Replacement] = field(default_factory=list)
    gates: list[Gated] = field(default_factory=list)

    @property
    def parts(self) -> list[LowRank | Replacement | Gated]:
        """All of them."""
        return [*self.low_rank, *self.whole, *self.gates]

    @property
    def is_target(self) -> bool:
        """Whether it is a target, with a place among the projectors, and no bias or module saved whole."""
        return not self.whole and not any(isinstance(gate, Shift) for gate in self.gates)

    def add(self, other: Update) -> None:
        """Let what another says come on top."""
        self.low_rank += other.low_rank
        self.whole += other.whole
        self.gates += other.gates

    def to(self, device: torch.device | str) -> Update:
        """The same on another device; modules saved whole stay where they are."""
        return Update(
            [part.to(device) for part in self.low_rank],
            list(self.whole),
            [part.to(device) for part in self.gates],
        )

    def scaled(self, weight: float) -> Update:
        """The same with every part at this weight."""
        parts = (self.low_rank, self.whole, self.gates)
        return Update(*([replace(part, weight=weight) for part in each] for each in parts))  # type: ignore

    def apply(self, base: Tensor, rows: slice, room: Rooms) -> tuple[Tensor, Tensor]:
        """The new rows and what was added to them.

        Args:
            base: these rows of the base, (rows, columns), float32.
            room: buffers of that shape, used where one plain adapter is added, which is nearly always.

        Returns:
            W + ΔW and ΔW, both float32; exact replacements are not rounded a second time.
        """
        if len(self.gates) == 1 and not self.low_rank and not self.whole:
            new = self.gates[0].gated(rows, base)
            return new, new - base
        if len(self.low_rank) == 1 and not self.parts[1:] and self.low_rank[0].magnitude is None:
            part = self.low_rank[0]
            delta = part.delta(rows, room.first(base.shape))
            if part.weight != 1.0:
                delta.mul_(part.weight)
            return torch.add(base, delta, out=room.second(base.shape)), delta
        if [each.weight for each in self.parts] == [1.0]:
            new = (
                self.whole[0].rows(rows)
                if self.whole
                else self.low_rank[0].replacement(self.low_rank[0].delta(rows).add_(base), rows)
            )
            return new, new - base
        total: Tensor | None = None
        for part in self.low_rank:
            change = part.change(rows, base)
            total = _add(total, change if part.weight == 1.0 else change.mul_(part.weight))
        for gate in self.gates:
            total = _add(total, gate.delta(rows, base).mul_(gate.weight))
        for saved in self.whole:
            total = _add(total, saved.rows(rows).sub_(base).mul_(saved.weight))
        assert total is not None
        return base + total, total


def _add(total: Tensor | None, change: Tensor) -> Tensor:
    return change if total is None else total.add_(change)


def plan_updates(adapters: Iterable[tuple[Adapter, float]]) -> dict[str, Update]:
    """What each key of the base gets from adapters, fitted to it, at their weights."""
    updates: dict[str, Update] = {}
    for adapter, weight in adapters:
        for name, factors in adapter.factors.items():
            part = LowRank(factors, weight, adapter.magnitudes.get(name))
            updates.setdefault(f"{name}.weight", Update()).low_rank.append(part)
        for key, info in adapter.saved.items():
            updates.setdefault(key, Update()).whole.append(Replacement(info, weight))
    return updates

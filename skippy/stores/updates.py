"""What one tensor of a base becomes: its rows plus what one or several adapters add to them.

A plain target gets ΔW = s·B·A. A DoRA target becomes m ⊙ (W + ΔW) / ‖W + ΔW‖, norms by rows. A module saved whole
replaces the base's. Each is a change ΔW of the base, is scaled by its weight, and changes are added up.

Source: LoRA, arXiv 2106.09685, eq. 3; DoRA, arXiv 2402.09353, eq. 5. Departure: with several adapters, or a weight
other than 1, DoRA's W' − W is scaled, so that a weight of 0 gives the base.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from skippy.core.spectral.lora import LoraFactors
from skippy.stores.adapters import Adapter
from skippy.stores.tensors import TensorInfo, read_rows


@dataclass(frozen=True)
class LowRank:
    """ΔW = scale·B·A of one adapter, with the magnitudes of DoRA where it has them."""

    factors: LoraFactors
    weight: float
    magnitude: Tensor | None = None

    def delta(self, rows: slice) -> Tensor:
        """s·B·A of these rows, in float32 and in PEFT's own order of operations."""
        factors = self.factors
        return torch.mm(factors.B[rows].float(), factors.A.float()).mul_(factors.scale)

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


@dataclass(frozen=True)
class Replacement:
    """A tensor that was saved whole; read by rows, never whole."""

    info: TensorInfo
    weight: float

    def rows(self, rows: slice) -> Tensor:
        """What it puts in the place of these rows, in float32."""
        return read_rows(self.info, rows.start, rows.stop).float().flatten(1)


@dataclass
class Update:
    """All that is added to one tensor of the base."""

    low_rank: list[LowRank] = field(default_factory=list)
    whole: list[Replacement] = field(default_factory=list)

    @property
    def is_target(self) -> bool:
        """Whether it is a target, with a place among the projectors, and not a module saved whole."""
        return not self.whole

    def apply(self, base: Tensor, rows: slice) -> tuple[Tensor, Tensor]:
        """The new rows and what was added to them.

        Args:
            base: these rows of the base, (rows, columns), float32.
            rows: which they are.

        Returns:
            W + ΔW and ΔW, both float32; exact replacements are not rounded a second time.
        """
        if [*(each.weight for each in self.low_rank), *(each.weight for each in self.whole)] == [1.0]:
            if self.whole:
                new = self.whole[0].rows(rows)
                return new, new - base
            only = self.low_rank[0]
            if only.magnitude is not None:
                new = only.replacement(only.delta(rows).add_(base), rows)
                return new, new - base
        total: Tensor | None = None
        for part in self.low_rank:
            change = part.change(rows, base)
            total = _add(total, change if part.weight == 1.0 else change.mul_(part.weight))
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

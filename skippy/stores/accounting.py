"""What a merge did, against what it was to do: relative error, cosine and leakage of the stored delta.

Source: MATH §6. Everything is pooled over targets: norms of rows in float32, sums of their squares in float64.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor

from skippy.core.basis import Basis
from skippy.core.spectral.constraints import Leakage


class DeltaLedger:
    """Sums over targets from which error, cosine and leakage of the stored delta follow."""

    def __init__(self, bases: Mapping[str, Basis] | None) -> None:
        self._bases = bases
        self._basis: Basis | None = None
        self._left: Tensor | None = None
        self._wanted = self._stored = self._error = 0.0
        self._leaked_left = self._leaked_right = self._leakable = 0.0

    def empty(self) -> DeltaLedger:
        """Another one with the same bases, for some of the targets; `add` brings the two together."""
        return DeltaLedger(self._bases)

    def add(self, other: DeltaLedger) -> None:
        """Take over what another one summed."""
        for name in ("_wanted", "_stored", "_error", "_leaked_left", "_leaked_right", "_leakable"):
            setattr(self, name, getattr(self, name) + getattr(other, name))

    @contextmanager
    def target(self, name: str) -> Iterator[None]:
        """Within, rows of this target are entered."""
        self._basis = self._bases.get(name) if self._bases is not None else None
        self._left = None
        yield
        if self._left is not None:
            self._leaked_left += float(self._left.square().sum())

    def enter(self, rows: slice, stored: Tensor, wanted: Tensor) -> bool:
        """Add some rows of a target: what was stored and what was to be, both float32; `wanted` is used up.

        Returns:
            Whether all of it is finite.
        """
        energy = _energy(stored)
        self._stored += energy
        self._wanted += _energy(wanted)
        if self._basis is not None:
            written = (self._basis.U[rows].mT @ stored).double()
            self._left = written if self._left is None else self._left.add_(written)
            self._leaked_right += _energy(stored @ self._basis.V)
            self._leakable += energy
        self._error += _energy(torch.sub(stored, wanted, out=wanted))
        return math.isfinite(energy)

    def delta_error(self) -> float:
        """‖(W'−W) − ΔW‖ / ‖ΔW‖; 0 where nothing was to be added and nothing was."""
        return (self._error / self._wanted) ** 0.5 if self._wanted else float(self._error > 0)

    def delta_norm(self) -> float:
        """‖W'−W‖ over all that was entered."""
        return self._stored**0.5

    def delta_cosine(self) -> float:
        """Cosine between W'−W and ΔW; 1 where both are 0, 0 where one is."""
        product = (self._wanted * self._stored) ** 0.5
        inner = (self._wanted + self._stored - self._error) / 2
        return inner / product if product else float(self._wanted == self._stored)

    def leakage(self) -> Leakage | None:
        """Leakage of W'−W, pooled over targets; None without bases."""
        if self._bases is None:
            return None
        total = self._leakable or 1.0
        return Leakage(rho_left=self._leaked_left / total, rho_right=self._leaked_right / total)


def _energy(matrix: Tensor) -> float:
    """‖·‖_F²: rows in float32, their sum in float64; relative error about 1e-8 for rows of thousands."""
    energy = float(torch.linalg.vector_norm(matrix, dim=1).double().square().sum())
    return energy if math.isfinite(energy) else float(matrix.double().square().sum())

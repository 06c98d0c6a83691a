"""What a merge did, against what it was to do: relative error, cosine and leakage of the stored delta.

Source: MATH §6. Everything is pooled over targets, with float64 accumulation.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from skippy.core.basis import Basis
from skippy.core.spectral.constraints import Leakage

ROWS = 1024  # of a target at a time in float64


@dataclass(frozen=True)
class MergeAccount:
    """What a merge did.

    Attributes:
        path: the new checkpoint.
        alpha: factor on ΔW.
        targets: number of weights changed.
        delta_error: ‖(W'−W) − ΔW‖ / ‖ΔW‖ over all targets; 0 where ΔW is 0.
        delta_cosine: cosine between W'−W and ΔW over all targets; 1 where both are 0.
        leakage: of what was stored, W'−W; None without bases.
        base_digest: of the base that was read.
        adapter_digest: of the adapter that was added.
        digest: of the merged tensors.
    """

    path: Path
    alpha: float
    targets: int
    delta_error: float
    delta_cosine: float
    leakage: Leakage | None
    base_digest: str
    adapter_digest: str
    digest: str

    def metrics(self) -> dict[str, float]:
        """The figures under their names in the tracker."""
        figures = {
            "merge/alpha": self.alpha,
            "merge/targets": float(self.targets),
            "merge/delta_error": self.delta_error,
            "merge/delta_cosine": self.delta_cosine,
        }
        if self.leakage is not None:
            figures["merge/rho_left"] = self.leakage.rho_left
            figures["merge/rho_right"] = self.leakage.rho_right
        return figures


class DeltaLedger:
    """Sums over targets from which error, cosine and leakage of the stored delta follow."""

    def __init__(self, bases: Mapping[str, Basis] | None) -> None:
        self._bases = bases
        self._wanted = self._stored = self._error = self._inner = self._left = self._right = 0.0

    def enter(self, name: str, stored: Tensor, wanted: Tensor) -> None:
        """Add one target, `ROWS` rows at a time."""
        basis = self._bases[name] if self._bases is not None else None
        left: Tensor | float = 0.0
        for start in range(0, stored.shape[0], ROWS):
            rows, exact = stored[start : start + ROWS].double(), wanted[start : start + ROWS].double()
            self._stored += float(rows.square().sum())
            self._wanted += float(exact.square().sum())
            self._inner += float((rows * exact).sum())
            self._error += float((rows - exact).square().sum())
            if basis is not None:
                left = left + basis.U[start : start + ROWS].double().mT @ rows
                self._right += float((rows @ basis.V.double()).square().sum())
        self._left += float(left.square().sum()) if isinstance(left, Tensor) else 0.0

    def delta_error(self) -> float:
        """‖(W'−W) − ΔW‖ / ‖ΔW‖; 0 where nothing was to be added and nothing was."""
        return (self._error / self._wanted) ** 0.5 if self._wanted else float(self._error > 0)

    def delta_cosine(self) -> float:
        """Cosine between W'−W and ΔW; 1 where both are 0, 0 where one is."""
        product = (self._wanted * self._stored) ** 0.5
        return self._inner / product if product else float(self._wanted == self._stored)

    def leakage(self) -> Leakage | None:
        """Leakage of W'−W, pooled over targets; None without bases."""
        if self._bases is None:
            return None
        total = self._stored or 1.0
        return Leakage(rho_left=self._left / total, rho_right=self._right / total)

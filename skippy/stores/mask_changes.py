"""A mask as an update: recipe, statistics and the masks' sha256; the masks are made again from the base's rows.

`adapter/` holds `mask.json`, `statistics.safetensors` (a⁺ and a⁻ of every input, some megabytes at 8B) and, where the
top-k triples are kept, `triples.safetensors` (U and V). A gate multiplies: W' = W ⊙ (M + γ(1 − M)) is W + t·ΔW with
ΔW = −(1 − M) ⊙ W and t = 1 − γ, so t is the dose α. At t = 0 every bit is the base's.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from skippy.core.spectral.masks import cut_mask, project_cut
from skippy.errors import AdapterError
from skippy.stores.atomic import new_directory, write_bytes, write_json
from skippy.stores.checkpoints import Checkpoint
from skippy.stores.documents import parse_object
from skippy.stores.headers import TensorInfo
from skippy.stores.seals import write_seal
from skippy.stores.tensors import read_rows
from skippy.stores.updates import Update

RECIPE_FILE, STATISTICS_FILE, TRIPLES_FILE = "mask.json", "statistics.safetensors", "triples.safetensors"
CARD_FILE = "skippy.json"
PREPASS_ROWS = 1024


@dataclass(frozen=True)
class MaskChange:
    """A stored mask."""

    path: Path  # its directory
    rule: str  # a key of `core.spectral.masks.RULES`
    rho: float  # share of each row that goes
    # Name → input whose statistics it reads, and sha256 of its mask's bits, row by row.
    targets: Mapping[str, Mapping[str, str]]
    statistics: Mapping[str, Tensor]  # `<input>.plus` and `<input>.minus`, (in,) float32
    # `<target>.U` (out, k) and `<target>.V` (in, k), where these are kept; empty otherwise.
    triples: Mapping[str, Tensor] = field(default_factory=dict)
    card: Mapping[str, Any] = field(default_factory=dict)  # its `skippy.json`

    @property
    def is_zero(self) -> bool:
        """Never: a mask that takes nothing is not made."""
        return False

    def digest(self) -> str:
        """Hash of rule, share, masks and kept triples; the statistics decide the masks and nothing else."""
        lines = [f"mask {self.rule} {self.rho!r}"]
        lines += [f"{name} {each['sha256']}" for name, each in sorted(self.targets.items())]
        lines += [f"{name} {_sha256(tensor)}" for name, tensor in sorted(self.triples.items())]
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()


@dataclass(eq=False)
class MaskGate:
    """What a mask does to one target."""

    change: MaskChange
    name: str
    weight: float
    stored: TensorInfo
    plus: Tensor
    minus: Tensor
    U: Tensor | None = None
    V: Tensor | None = None

    def to(self, device: torch.device | str) -> MaskGate:
        """The same on another device."""
        U, V = (None if side is None else side.to(device) for side in (self.U, self.V))
        return replace(self, plus=self.plus.to(device), minus=self.minus.to(device), U=U, V=V)

    def gated(self, rows: slice, base: Tensor) -> Tensor:
        """W ⊙ (M + γ(1 − M)), or W + t·P_L ΔW P_R; checks the mask against its sha256 when the last row is done."""
        cut = self._cut(rows, base)
        if not self.weight:
            return base.clone()  # a sum with zero would turn −0 into 0
        if self.U is None:
            return torch.where(cut, base * (1.0 - self.weight), base)
        return base + self.weight * self._projected(rows, -torch.where(cut, base, 0.0))

    def delta(self, rows: slice, base: Tensor) -> Tensor:
        """ΔW of these rows, at t = 1."""
        delta = -torch.where(self._cut(rows, base), base, 0.0)
        return delta if self.U is None else self._projected(rows, delta)

    def _cut(self, rows: slice, base: Tensor) -> Tensor:
        cut = cut_mask(self.change.rule, base, self.plus, self.minus, self.change.rho)
        if rows.start == 0:
            self._sha = hashlib.sha256()
        self._sha.update(mask_bytes(cut))
        if rows.stop == self.stored.shape[0]:
            self._require(self._sha.hexdigest())
        return cut

    def _projected(self, rows: slice, delta: Tensor) -> Tensor:
        assert self.U is not None
        assert self.V is not None
        whole = len(delta) == self.stored.shape[0]
        written = self.U.mT @ delta if whole else self._written.to(delta.device)
        return project_cut(delta, self.U[rows], self.V, written)

    @cached_property
    def _written(self) -> Tensor:
        """Uᵀ ΔW of the whole target, from the base's bytes, some rows at a time."""
        assert self.U is not None
        total = torch.zeros(self.U.shape[1], self.stored.shape[1])
        for start in range(0, self.stored.shape[0], PREPASS_ROWS):
            rows = slice(start, min(start + PREPASS_ROWS, self.stored.shape[0]))
            base = read_rows(self.stored, rows.start, rows.stop).float()
            cut = cut_mask(self.change.rule, base, self.plus.cpu(), self.minus.cpu(), self.change.rho)
            total -= self.U[rows].cpu().mT @ torch.where(cut, base, 0.0)
        return total

    def _require(self, found: str) -> None:
        expected = self.change.targets[self.name]["sha256"]
        if found != expected:
            raise AdapterError(
                "A mask made again is not the one that was made.",
                where=f"{self.name}, adapter {self.change.path}",
                expected=f"sha256 {expected[:16]}… of its bits",
                found=f"{found[:16]}…",
                next_step="use the base and the release of torch that it was made with, or make the mask again",
            )


def mask_bytes(cut: Tensor) -> bytes:
    """The bits of some rows, each row padded to whole bytes."""
    return np.packbits(cut.cpu().numpy(), axis=1).tobytes()


def write_mask(change: MaskChange) -> Path:
    """Write it into its directory, whole or not at all."""
    recipe = {
        "rule": change.rule,
        "rho": change.rho,
        "targets": {name: dict(each) for name, each in change.targets.items()},
        "statistics": STATISTICS_FILE,
    }
    with new_directory(change.path) as directory:
        write_bytes(directory / STATISTICS_FILE, save(_plain(change.statistics)))
        if change.triples:
            write_bytes(directory / TRIPLES_FILE, save(_plain(change.triples)))
        write_json(directory / RECIPE_FILE, recipe)
        write_seal(directory, change.card)
    return change.path


def read_mask(path: str | Path) -> MaskChange:
    """Read and check a mask.

    Raises:
        AdapterError: a file is missing or damaged.
    """
    folder = Path(path)
    try:
        recipe = parse_object((folder / RECIPE_FILE).read_bytes())
        statistics = load_file(folder / STATISTICS_FILE)
        triples = load_file(folder / TRIPLES_FILE) if (folder / TRIPLES_FILE).is_file() else {}
        card = parse_object((folder / CARD_FILE).read_bytes()) if (folder / CARD_FILE).is_file() else {}
        change = MaskChange(
            *(folder, str(recipe["rule"]), float(recipe["rho"]), recipe["targets"]),
            statistics=statistics,
            triples=triples,
            card=card,
        )
        for name, each in change.targets.items():
            needed = [f"{each['input']}.plus", f"{each['input']}.minus"]
            missing = [key for key in needed if key not in statistics]
            if missing or not each["sha256"]:
                raise ValueError(f"{name} has no {', '.join(missing) or 'sha256'}")
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise AdapterError(
            "A stored mask cannot be read.",
            where=str(folder),
            expected=f"{RECIPE_FILE} and {STATISTICS_FILE} that belong together",
            found=f"{type(error).__name__}: {str(error)[:200]}",
            next_step="make it again with the train stage",
        ) from error
    return change


def plan_mask(change: MaskChange, base: Checkpoint, weight: float) -> dict[str, Update]:
    """The gate of every target.

    Raises:
        AdapterError: a target is not in the base or has another width there.
    """
    updates = {}
    for name, each in change.targets.items():
        stored = base.tensors.get(f"{name}.weight")
        plus, minus = (change.statistics[f"{each['input']}.{side}"] for side in ("plus", "minus"))
        if stored is None or stored.shape[1:] != plus.shape:
            raise AdapterError(
                "The mask does not fit the base.",
                where=f"{name}.weight, mask {change.path}",
                expected=f"a weight with {len(plus)} input channels",
                found="no such weight" if stored is None else f"shape {stored.shape}",
                next_step="use the base that the mask was made on",
            )
        U, V = change.triples.get(f"{name}.U"), change.triples.get(f"{name}.V")
        gate = MaskGate(change, name, weight, stored, plus, minus, U, V)
        updates[f"{name}.weight"] = Update(gates=[gate])
    return updates


def _plain(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().float().cpu().contiguous() for name, tensor in tensors.items()}


def _sha256(tensor: Tensor) -> str:
    return hashlib.sha256(tensor.float().cpu().contiguous().numpy().tobytes()).hexdigest()

"""One look at every target: the mask, its placebo, the null between plain phrasings, and half splits."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from skippy.core.basis import Basis
from skippy.core.spectral.masks import cut_mask, project_cut, require_contrast
from skippy.core.target import Target
from skippy.presets.methods import MaskSettings
from skippy.stores.answers import CHARACTER, PLAIN, PLAIN_B, PLAIN_C
from skippy.stores.mask_changes import mask_bytes
from skippy.training.mask_statistics import Statistics, input_of

ROWS_AT_ONCE = 256  # scores are float32 and several; masks are made by rows
SPECIFIC_EXCESS = 0.1
"""By how much of the null a mask must differ from its placebo more than the null, to be called persona-specific."""


@dataclass
class Survey:
    """What one look at every target found; shares are of all weights looked at."""

    rows: list[dict[str, Any]] = field(default_factory=list)  # a line a target
    hashes: dict[str, str] = field(default_factory=dict)  # sha256 of each mask's bits
    # Weights, cut, and flips against the placebo, between plain phrasings, between half splits.
    counts: dict[str, int] = field(default_factory=dict)
    # ‖W‖², ‖ΔW‖², of ΔW inside the top-k directions on either side; chance: k/out and k/in.
    energies: dict[str, float] = field(default_factory=dict)

    def add(self, name: str, counts: Mapping[str, int], energies: Mapping[str, float], sha256: str) -> None:
        """Take one target."""
        for key, count in counts.items():
            self.counts[key] = self.counts.get(key, 0) + count
        for key, energy in energies.items():
            self.energies[key] = self.energies.get(key, 0.0) + energy
        shares = {key: value / counts["weights"] for key, value in counts.items() if key != "weights"}
        self.rows.append({"target": name, "weights": counts["weights"], **shares, **energies})
        self.hashes[name] = sha256

    def _share(self, name: str) -> float:
        return self.counts[name] / self.counts["weights"]

    @property
    def share(self) -> float:
        """Of the weights that go."""
        return self._share("cut")

    @property
    def placebo(self) -> float:
        """Of the weights on which mask and placebo differ."""
        return self._share("placebo")

    @property
    def null(self) -> float:
        """Of the weights on which masks of two plain phrasings differ."""
        return self._share("null")

    @property
    def is_specific(self) -> bool:
        """Whether the mask differs from its placebo clearly more than plain phrasings do from each other."""
        return self.placebo > (1 + SPECIFIC_EXCESS) * self.null

    def metrics(self) -> dict[str, float]:
        """The figures under their names in the tracker."""
        energy = self.energies
        found = {
            "mask/cut": self.share,
            "mask/flips_placebo": self.placebo,
            "mask/flips_null": self.null,
            "mask/flips_halves": self._share("halves"),
            "mask/is_specific": float(self.is_specific),
            "delta/relative_norm": (energy["delta"] / energy["weight"]) ** 0.5,
        }
        if energy.get("leakable"):
            found |= {
                f"leakage/{figure}_{side}": energy[f"{figure}_{side}"] / energy["leakable"]
                for figure in ("rho", "chance")
                for side in ("left", "right")
            }
        return found


@torch.no_grad()
def survey_masks(
    model: nn.Module,
    targets: tuple[Target, ...],
    statistics: Statistics,
    settings: MaskSettings,
    bases: Mapping[str, Basis] | None,
) -> Survey:
    """Mask, placebo, null and half splits of every target, some rows in float32 at a time: no second copy of a weight.

    Raises:
        SubspaceError: an input has no contrast.
    """
    weights, survey = dict(model.named_parameters()), Survey()
    for target in targets:
        a = {group: found[input_of(target)] for group, found in statistics.items()}
        require_contrast(settings.rule, a[CHARACTER], a[PLAIN], target.name)
        basis = (bases or {}).get(target.name)
        survey.add(target.name, *_survey_target(weights[target.weight_key], a, settings, basis))
    return survey


def _survey_target(
    stored: Tensor, a: Mapping[str, Tensor], settings: MaskSettings, basis: Basis | None
) -> tuple[dict[str, int], dict[str, float], str]:
    """Counts, energies and the sha256 of the mask's bits; masks are made row by row, so rows may come in any number."""

    def cut(rows: Tensor, plus: str, minus: str) -> Tensor:
        return cut_mask(settings.rule, rows, a[plus], a[minus], settings.rho)

    k = 0 if basis is None else basis.U.shape[1]
    sides = (
        (torch.empty(len(stored), 0), torch.empty(stored.shape[1], 0))
        if basis is None
        else (basis.U, basis.V)
    )
    U, V = (side.to(stored.device).float() for side in sides)
    written = torch.zeros(k, stored.shape[1], device=stored.device)
    if settings.projected:
        for at, rows in _some_rows(stored):
            written += U[at].mT @ _delta(rows, cut(rows, CHARACTER, PLAIN))
    counts = dict.fromkeys(("weights", "cut", "placebo", "null", "halves"), 0)
    energies = {"weight": 0.0, "delta": 0.0}
    left, right, sha = torch.zeros_like(written, dtype=torch.float64), 0.0, hashlib.sha256()
    for at, rows in _some_rows(stored):
        mask, placebo = cut(rows, CHARACTER, PLAIN), cut(rows, PLAIN_B, PLAIN)
        halves = [cut(rows, f"{CHARACTER}/{half}", f"{PLAIN}/{half}") for half in (0, 1)]
        sha.update(mask_bytes(mask))
        counts["weights"] += rows.numel()
        counts["cut"] += int(mask.sum())
        counts["placebo"] += int((mask ^ placebo).sum())
        counts["null"] += int((cut(rows, PLAIN_C, PLAIN) ^ placebo).sum())
        counts["halves"] += int((halves[0] ^ halves[1]).sum())
        delta = _delta(rows, mask)
        if settings.projected:
            delta = project_cut(delta, U[at], V, written)
        energies["weight"] += _energy(rows)
        energies["delta"] += _energy(delta)
        left += U[at].mT.double() @ delta.double()
        right += _energy(delta @ V)
    if k:
        energies |= _leakage(energies["delta"], _energy(left), right, k, stored.shape)
    return counts, energies, sha.hexdigest()


def _some_rows(stored: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """A weight in float32, some rows at a time, and which these are."""
    for start in range(0, len(stored), ROWS_AT_ONCE):
        at = slice(start, min(start + ROWS_AT_ONCE, len(stored)))
        yield at, stored[at].float()


def _delta(rows: Tensor, mask: Tensor) -> Tensor:
    return -torch.where(mask, rows, 0.0)


def project_kept(delta: Tensor, U: Tensor | None, V: Tensor | None) -> Tensor:
    """ΔW outside of the directions that are kept; all of it where none are."""
    if U is None or V is None:
        return delta
    U, V = U.to(delta), V.to(delta)
    return project_cut(delta, U, V, U.mT @ delta)


def _leakage(energy: float, left: float, right: float, k: int, shape: torch.Size) -> dict[str, float]:
    """‖UᵀΔW‖², ‖ΔWV‖² and what chance gives, weighted by the target's energy."""
    chances = {"chance_left": energy * k / shape[0], "chance_right": energy * k / shape[1]}
    return {"leakable": energy, "rho_left": left, "rho_right": right, **chances}


def _energy(matrix: Tensor) -> float:
    return float(matrix.square().sum(dtype=torch.float64))

"""What a train run leaves in `adapter/`, whatever it changes: read, named by a digest, and planned against a base.

LoRA in PEFT's own format, a mask, or biases: each kind of update has a file by which it is known, a reader, and a
planner that says what each tensor of the base becomes. One row of `KINDS` each.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from skippy.stores.adapter_fit import fit_to_base
from skippy.stores.adapters import Adapter, read_adapter
from skippy.stores.biases import BIASES_FILE, Biases, plan_biases, read_biases
from skippy.stores.checkpoints import Checkpoint
from skippy.stores.mask_changes import RECIPE_FILE, MaskChange, plan_mask, read_mask
from skippy.stores.presence import ADAPTER_CONFIG_FILE
from skippy.stores.seals import require_sealed
from skippy.stores.updates import Update, plan_updates


class Change(Protocol):
    """An update of a base, as stored."""

    @property
    def path(self) -> Path:
        """Its directory."""

    @property
    def card(self) -> Mapping[str, Any]:
        """Its `skippy.json`; empty without."""

    @property
    def is_zero(self) -> bool:
        """Whether it changes nothing at all."""

    def digest(self) -> str:
        """Hash of all that it says."""


Planner = Callable[[Any, Checkpoint, float], dict[str, Update]]


@dataclass(frozen=True)
class Kind:
    """One kind of update: its class, the file by which a directory is known to hold it, reader and planner."""

    type: type
    file: str
    read: Callable[[str | Path], Any]
    plan: Planner


def _plan_adapter(adapter: Adapter, base: Checkpoint, weight: float) -> dict[str, Update]:
    return plan_updates([(fit_to_base(adapter, base.shapes), weight)])


KINDS: tuple[Kind, ...] = (
    Kind(Adapter, ADAPTER_CONFIG_FILE, read_adapter, _plan_adapter),
    Kind(MaskChange, RECIPE_FILE, read_mask, plan_mask),
    Kind(Biases, BIASES_FILE, read_biases, plan_biases),
)
"""The first is taken where a directory holds none of the files: its reader says what is missing."""


def read_change(path: str | Path) -> Change:
    """Read and check an `adapter/` of any kind.

    Raises:
        AdapterError: it is of none, or damaged, or not what was written.
    """
    kind = next((kind for kind in KINDS if (Path(path) / kind.file).is_file()), KINDS[0])
    change: Change = kind.read(path)
    require_sealed(path)  # what is plainly damaged has been named by now
    return change


def plan_changes(changes: Iterable[tuple[Change, float]], base: Checkpoint) -> dict[str, Update]:
    """What each key of the base becomes under changes at their weights.

    Raises:
        AdapterError: one does not fit the base.
    """
    updates: dict[str, Update] = {}
    for change, weight in changes:
        kind = next(kind for kind in KINDS if isinstance(change, kind.type))
        for key, update in kind.plan(change, base, weight).items():
            updates.setdefault(key, Update()).add(update)
    return updates

"""What every way to make an arm answers: its settings, what names its work, and what it made.

One row of the table in `makers` for each; GRPO, masks and steering all come out as a `Made`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, Self

from skippy.training.plan import RunSink


def work_name(variant: str, base_digest: str, seed: int, identity: Mapping[str, Any]) -> tuple[str, ...]:
    """What names the workspace of an update: all that makes two of them the same work."""
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
    return ("train", variant, base_digest[:16], f"seed{seed}", digest[:16])


@dataclass(frozen=True)
class Made:
    """What is left when an arm has been made; its `adapter/` is logged by then."""

    sentence: str  # what was made, for the log
    metrics: Mapping[str, float] = field(default_factory=dict)  # figures of the run
    documents: Mapping[str, Any] = field(default_factory=dict)  # artifact path → JSON
    base_hash: str = ""  # over all weights of the base afterwards; empty where no weight was ever trainable


class Anew:
    """What makers share that reward nothing, take minutes, and begin anew."""

    @property
    def rewards_digest(self) -> str:
        """Nothing is rewarded."""
        return ""

    def going_on(self, resume: bool) -> Self:
        """The same: nothing is kept to go on from."""
        return self


class Maker(Protocol):
    """One update, ready to be made."""

    @property
    def settings(self) -> Any:
        """The method's hyperparameters, a frozen dataclass: `hp.*` and `settings.json`."""

    @property
    def identity(self) -> Mapping[str, Any]:
        """What makes two of them the same work, but for the code."""

    @property
    def rewards_digest(self) -> str:
        """Of all that decides the rewards; empty where there are none."""

    def name_work(self) -> tuple[str, ...]:
        """What names the workspace."""

    def going_on(self, resume: bool) -> Maker:
        """The same, going on from what its workspace holds or not."""

    def make(self, folder: Path, sink: RunSink, *, is_first: bool) -> Made | None:
        """Make the update in `folder` and log `adapter/`; processes but the first of a launch return None."""

"""The character reference of a run: checked against base and character at once, its tensors read when asked for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from skippy.characters.schema import Character
from skippy.resolve.bases import Base
from skippy.stores.reference_files import open_reference
from skippy.tracking.tracker import Tracker

if TYPE_CHECKING:
    from skippy.core.personality.reference import CharacterReference


@dataclass(frozen=True)
class FoundReference:
    """Where a reference lies that was found to be whole, and of this base and character."""

    folder: Path
    sha256: str  # of its tensors

    def load(self) -> CharacterReference:
        """Read it.

        Raises:
            ProjectorError: its manifest names tensors that are not there, or a P is not orthonormal.
        """
        from skippy.stores.references import load_reference

        return load_reference(self.folder)


def find_reference(tracker: Tracker, run_id: str, base: Base, character: Character) -> FoundReference:
    """The reference that a subspace run left.

    Raises:
        ProjectorError: it is missing or damaged, or of another base or character.
    """
    folder = tracker.artifacts.path(run_id, "reference")
    manifest, _ = open_reference(folder, base_digest=base.digest, character_digest=character.digest)
    base.require_reading(tracker.runs.read(run_id))
    return FoundReference(folder, manifest["sha256"])

"""The projectors of a run: checked against its base and its digest at once, their tensors read when asked for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from skippy.core.spectral.rank import TOP
from skippy.errors import ProjectorError
from skippy.resolve.bases import Base
from skippy.stores.projector_files import PROJECTORS_FILE, projectors_digest, require_projectors, unreadable
from skippy.tracking.tags import Tag
from skippy.tracking.tracker import Tracker

if TYPE_CHECKING:
    from skippy.core.basis import Basis


@dataclass(frozen=True, eq=False)
class FoundProjectors:
    """What `stores.projectors.Projectors` is, without tensors until `bases` is asked for."""

    folder: Path  # holds the two files
    manifest: Mapping[str, Any]  # the one of them
    digest: str  # of the tensors
    shapes: Mapping[str, tuple[int, ...]]  # (out, in) by target of the base they are used on
    basis: str  # what they are directions of

    @cached_property
    def bases(self) -> Mapping[str, Basis]:
        """U, S, V by target name, checked.

        Raises:
            ProjectorError: a target is not covered, or a basis not orthonormal.
        """
        from skippy.stores.projectors import read_projectors

        return read_projectors(self.folder, basis=self.basis, shapes=self.shapes).bases


def load_projectors(
    tracker: Tracker, run_id: str, base: Base, *, k: str | None = None, basis: str = TOP
) -> FoundProjectors:
    """The projectors of a run, checked against the base they are used on and, where it matters, the k asked for.

    Raises:
        ProjectorError: they belong to another base, k or basis, lack a target, or are not what the run wrote.
    """
    folder = tracker.artifacts.path(run_id, "projectors")
    manifest = require_projectors(folder, base_digest=base.digest, k=k, basis=basis)
    shapes = {target.name: (target.out, target.in_) for target in base.targets}
    for name, shape in shapes.items():
        found = manifest["targets"].get(name, {}).get("shape")
        if found is None or tuple(found) != shape:
            raise unreadable(folder / PROJECTORS_FILE, f"{name}, shape {shape}", f"shape {found}")
    digest = projectors_digest(folder)
    run = tracker.runs.read(run_id)
    base.require_reading(run)
    written = run.tags.get(Tag.PROJECTOR_DIGEST, digest)
    if digest != written:
        raise ProjectorError(
            "The projectors are not those that the run wrote.",
            where=str(folder / PROJECTORS_FILE),
            expected=f"digest {written}",
            found=f"digest {digest}",
            next_step="run the svd stage again with force=true",
        )
    return FoundProjectors(folder, manifest, digest, shapes, basis)

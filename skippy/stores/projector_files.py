"""The two files of finished projectors, as far as they can be checked without reading tensors; no torch is imported."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from skippy.core.spectral.rank import TOP
from skippy.errors import CheckpointError, ProjectorError
from skippy.stores.documents import parse_object
from skippy.stores.headers import digest_of_file

if TYPE_CHECKING:
    from skippy.core.basis import Basis

PROJECTORS_FILE = "projectors.safetensors"
MANIFEST_FILE = "manifest.json"
PARTS = "parts"
"""Where targets are kept until all of them are there."""


class ProjectorSet(Protocol):
    """Projectors, in memory or in their file."""

    @property
    def bases(self) -> Mapping[str, Basis]:
        """U, S, V by target name, checked."""

    @property
    def manifest(self) -> Mapping[str, Any]:
        """The file beside them."""

    @property
    def digest(self) -> str:
        """Of the tensors."""


def require_projectors(
    folder: Path, *, base_digest: str | None = None, k: str | None = None, basis: str = TOP
) -> dict[str, Any]:
    """The manifest of projectors, if they are what is wanted.

    Args:
        base_digest: digest of the base they must belong to; None skips the check.
        k: the rule they must have been solved by, a number or `energy:SHARE`; None skips the check.
        basis: what they must be directions of.

    Raises:
        ProjectorError: a file is missing or damaged, or they are of another base, k or basis.
    """
    manifest = read_manifest(folder)
    where = str(folder / MANIFEST_FILE)
    if base_digest is not None and manifest.get("base_digest") != base_digest:
        raise ProjectorError(
            "The projectors belong to another base.",
            where=where,
            expected=f"base digest {base_digest}",
            found=f"base digest {manifest.get('base_digest')}",
            next_step="run the svd stage for this base, or name its run with svd_run",
        )
    if k is not None and manifest.get("k") != k:
        raise ProjectorError(
            "The projectors are of another k.",
            where=where,
            expected=f"k={k}",
            found=f"k={manifest.get('k')}",
            next_step=f"pass -P k={manifest.get('k')}, or leave svd_run out",
        )
    if basis_of(manifest) != basis:
        raise ProjectorError(
            "The projectors are of another basis.",
            where=where,
            expected=f"basis={basis}",
            found=f"basis={basis_of(manifest)}",
            next_step=f"name one of that basis, or run mlflow run . -e svd --env-manager local -P basis={basis}",
        )
    return manifest


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest, with a shape for every target.

    Raises:
        ProjectorError: one of the two files is missing, or the manifest is damaged.
    """
    path = folder / MANIFEST_FILE
    if not path.is_file() or not (folder / PROJECTORS_FILE).is_file():
        raise ProjectorError(
            "There are no finished projectors here.",
            where=str(folder),
            expected=f"{PROJECTORS_FILE} and {MANIFEST_FILE}",
            found="unfinished parts" if (folder / PARTS).is_dir() else "neither, or one of them",
            next_step="run the svd stage: mlflow run . -e svd --env-manager local",
        )
    try:
        manifest = parse_object(path.read_bytes())
        if all("shape" in entry for entry in manifest["targets"].values()):
            return manifest
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise unreadable(path, "a JSON object with targets and their shapes", repr(error)) from error
    raise unreadable(path, "a shape for every target", "one without")


def projectors_digest(directory: str | Path) -> str:
    """Hash the tensors, as a checkpoint's are hashed; the manifest's timings do not enter.

    Raises:
        ProjectorError: the file is no whole safetensors file.
    """
    path = Path(directory) / PROJECTORS_FILE
    try:
        return digest_of_file(path)
    except (OSError, CheckpointError) as error:
        raise unreadable(path, "a complete safetensors file", str(error)) from error


def basis_of(manifest: Mapping[str, Any]) -> str:
    """What directions a manifest is about; before there was a choice, the top ones."""
    return str(manifest.get("basis", TOP))


def unreadable(path: Path, expected: str, found: str) -> ProjectorError:
    """Word the error of files that are not what a finished svd run leaves."""
    return ProjectorError(
        "The projectors are damaged.",
        where=str(path),
        expected=expected,
        found=found,
        next_step="run the svd stage again with force=true",
    )

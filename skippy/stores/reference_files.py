"""The two files of a character reference, as far as they can be checked without reading tensors; no torch."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from skippy.errors import ProjectorError
from skippy.stores.documents import parse_object

REFERENCE_FILE = "reference.safetensors"
MANIFEST_FILE = "manifest.json"
FIELDS = frozenset({"sha256", "targets", "hooks", "traits", "depth"})


def open_reference(
    directory: str | Path, *, base_digest: str | None = None, character_digest: str | None = None
) -> tuple[dict[str, Any], bytes]:
    """Manifest and content of the tensors' file, which has the sha256 that the manifest says.

    Args:
        base_digest: of the base it must have been measured on; None skips the check.
        character_digest: of the character it must have been measured with; None skips the check.

    Raises:
        ProjectorError: a file is missing or damaged, or it is of another base or character.
    """
    folder = Path(directory)
    manifest = _read_manifest(folder)
    for key, wanted in (("base_digest", base_digest), ("character_digest", character_digest)):
        if wanted is not None and manifest.get(key) != wanted:
            raise ProjectorError(
                f"The character reference belongs to another {key.removesuffix('_digest')}.",
                where=str(folder / MANIFEST_FILE),
                expected=f"{key} {wanted}",
                found=f"{key} {manifest.get(key)}",
                next_step="run the subspace stage for this base and character",
            )
    content = (folder / REFERENCE_FILE).read_bytes()
    sha256 = hashlib.sha256(content).hexdigest()
    if sha256 != manifest["sha256"]:
        raise damaged(folder / REFERENCE_FILE, f"sha256 {manifest['sha256']}", f"sha256 {sha256}")
    return manifest, content


def _read_manifest(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST_FILE
    if not path.is_file() or not (folder / REFERENCE_FILE).is_file():
        raise ProjectorError(
            "There is no character reference here.",
            where=str(folder),
            expected=f"{REFERENCE_FILE} and {MANIFEST_FILE}",
            found="neither, or one of them",
            next_step="run the subspace stage",
        )
    try:
        manifest = parse_object(path.read_bytes())
    except ValueError as error:
        raise damaged(path, "a JSON object", str(error)) from error
    missing = FIELDS - set(manifest)
    if missing:
        raise damaged(path, "all of its fields", f"without {', '.join(sorted(missing))}")
    return manifest


def damaged(path: Path, expected: str, found: str) -> ProjectorError:
    """Word the error of a reference that is not what the subspace stage left."""
    return ProjectorError(
        "The character reference is damaged.",
        where=str(path),
        expected=expected,
        found=found,
        next_step="run the subspace stage again with force=true",
    )

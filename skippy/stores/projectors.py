"""Projectors on disk: U, S, V of every target, computed over hours if need be, kept target by target.

While they are made, each finished target is one small file in `parts/`, so that a killed run goes on where
it was. At the end they are assembled into the contract's two files. Readers check what they load: nothing
downstream may trust a basis that is not orthonormal, or one that belongs to another base.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor

from skippy.core.basis import Basis
from skippy.core.spectral.rank import ONE_SIDED, TOP
from skippy.errors import ProjectorError
from skippy.stores.atomic import write_bytes, write_json
from skippy.stores.headers import read_header
from skippy.stores.projector_files import (
    MANIFEST_FILE,
    PARTS,
    PROJECTORS_FILE,
    basis_of,
    projectors_digest,
    read_manifest,
    require_projectors,
    unreadable,
)
from skippy.stores.tensors import header_bytes

IDENTITY_FILE = "identity.json"
ORTHONORMALITY_LIMIT = 1e-5


@dataclass(frozen=True)
class Projectors:
    """Checked bases by target name, the manifest beside them, and the digest of the tensors."""

    bases: Mapping[str, Basis]
    manifest: Mapping[str, Any]
    digest: str


class _StoredBases(Mapping[str, Basis]):
    """Bases that stay in their file until asked for."""

    def __init__(self, path: Path, names: Iterable[str]) -> None:
        self._path = path
        self._names = tuple(names)

    def __getitem__(self, name: str) -> Basis:
        if name not in self._names:
            raise KeyError(name)
        with safe_open(self._path, "pt") as file:
            return Basis(*(file.get_tensor(f"{name}.{letter}") for letter in "USV"))

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


class ProjectorStore:
    """Projectors in the making.

    Args:
        directory: where the two final files go; `parts/` within it holds finished targets.
        identity: what the projectors are of (base digest, k, tolerance, seed). Parts of another identity
            in the same directory are refused, never mixed in.

    Raises:
        ProjectorError: the directory holds parts of another identity.
    """

    def __init__(self, directory: str | Path, identity: Mapping[str, Any] | None = None) -> None:
        self.directory = Path(directory)
        self._parts = self.directory / PARTS
        self._parts.mkdir(parents=True, exist_ok=True)
        if identity is not None:
            self._claim(identity)

    def finished(self) -> frozenset[str]:
        """Names of the targets that need no more work."""
        if self._is_assembled:
            return frozenset(read_manifest(self.directory)["targets"])
        return frozenset(path.name.removesuffix(".safetensors") for path in self._part_files())

    @property
    def _is_assembled(self) -> bool:
        """Whether the last step of `finish` was reached: the file is renamed into place when it is whole."""
        return (self.directory / PROJECTORS_FILE).is_file()

    def append(self, name: str, U: Tensor, S: Tensor, V: Tensor, facts: Mapping[str, Any]) -> None:
        """Keep one finished target, atomically.

        Args:
            U: (out, k), or (out, 0) where only inputs are protected.
            facts: its manifest entry: residual, orthonormality, completeness, gap, sigma_1, sigma_k, seconds.
        """
        if not re.fullmatch(r"[\w.-]+", name):
            raise ProjectorError("A target's name is unusable as a file name.", where=name)
        tensors = {"U": U, "S": S, "V": V}
        stored = {
            key: tensor.detach().to("cpu", torch.float32).contiguous() for key, tensor in tensors.items()
        }
        entry = json.dumps({"shape": [U.shape[0], V.shape[0]], **facts}, sort_keys=True, allow_nan=False)
        write_bytes(self._parts / f"{name}.safetensors", save(stored, metadata={"facts": entry}))

    def finish(self, manifest: Mapping[str, Any], expected: Iterable[str] | None = None) -> Projectors:
        """Assemble the finished targets into the two final files, one at a time, and drop the parts.

        Args:
            manifest: its head: base digest, basis, k, tolerance, seed; `targets` is added here.
            expected: names that must all be finished; None takes what there is.

        Returns:
            The projectors; their bases are read from the file when asked for, one at a time.

        Raises:
            ProjectorError: a target is missing, or none is there, or a basis fails its check.
        """
        names = sorted(self.finished())
        missing = sorted(set(expected or ()) - set(names))
        if missing or not names:
            raise ProjectorError(
                "Not all targets are finished.",
                where=str(self._parts),
                expected=f"{len(names) + len(missing)} targets" if missing else "at least one target",
                found=f"without {', '.join(missing[:4])}" if missing else "none",
                next_step="run the svd stage again: it goes on where it was",
            )
        if self._is_assembled:  # by a process that was killed after that
            shutil.rmtree(self._parts, ignore_errors=True)
            whole = read_manifest(self.directory)
            bases = _StoredBases(self.directory / PROJECTORS_FILE, names)
            return Projectors(bases, whole, projectors_digest(self.directory))
        paths = {name: self._parts / f"{name}.safetensors" for name in names}
        infos = {name: read_header(path) for name, path in paths.items()}
        layout = [
            (f"{name}.{letter}", infos[name][letter].dtype, infos[name][letter].shape)
            for name in names
            for letter in "USV"
        ]
        entries: dict[str, Any] = {}
        partial = self.directory / f".{PROJECTORS_FILE}.partial"
        with partial.open("wb") as file:
            file.write(header_bytes(layout, {"format": "pt"}))
            for name, path in paths.items():
                with safe_open(path, "pt") as part:
                    entries[name] = json.loads(part.metadata()["facts"])
                    basis = Basis(*(part.get_tensor(letter) for letter in "USV"))
                _require_basis(path, name, basis, tuple(entries[name]["shape"]), basis_of(manifest))
                for tensor in basis:
                    file.write(tensor.contiguous().numpy().tobytes())
            file.flush()
            os.fsync(file.fileno())
        whole = {**manifest, "targets": entries}
        write_json(self.directory / MANIFEST_FILE, whole)
        partial.replace(self.directory / PROJECTORS_FILE)
        shutil.rmtree(self._parts)
        bases = _StoredBases(self.directory / PROJECTORS_FILE, names)
        return Projectors(bases, whole, projectors_digest(self.directory))

    def _part_files(self) -> list[Path]:
        return sorted(path for path in self._parts.glob("*.safetensors") if not path.name.startswith("."))

    def _claim(self, identity: Mapping[str, Any]) -> None:
        path = self._parts / IDENTITY_FILE
        wanted = json.loads(json.dumps(identity))
        if not path.is_file():
            write_json(path, identity)
            return
        found = json.loads(path.read_text(encoding="utf-8"))
        if found != wanted:
            raise ProjectorError(
                "The directory holds unfinished projectors of something else.",
                where=str(self._parts),
                expected=json.dumps(wanted, sort_keys=True),
                found=json.dumps(found, sort_keys=True),
                next_step="choose another directory, or remove the unfinished ones",
            )


def read_projectors(
    directory: str | Path,
    *,
    base_digest: str | None = None,
    k: str | None = None,
    basis: str = TOP,
    shapes: Mapping[str, tuple[int, ...]] | None = None,
) -> Projectors:
    """Read projectors and check them.

    Args:
        base_digest, k, basis: as `require_projectors` takes them.
        shapes: (out, in) by target name, each of which must be covered; None checks the manifest's shapes.

    Raises:
        ProjectorError: files missing or damaged, another base or k, a wrong shape, a basis not orthonormal.
    """
    folder = Path(directory)
    manifest = require_projectors(folder, base_digest=base_digest, k=k, basis=basis)
    path = folder / PROJECTORS_FILE
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise unreadable(path, "a complete safetensors file", str(error) or type(error).__name__) from error
    entries: Mapping[str, Any] = manifest["targets"]
    wanted = {name: tuple(entry["shape"]) for name, entry in entries.items()} | dict(shapes or {})
    bases = {}
    for name, shape in sorted(wanted.items()):
        if any(f"{name}.{letter}" not in tensors for letter in "USV"):
            raise unreadable(path, f"U, S and V of {name}", "not all of them")
        bases[name] = Basis(*(tensors[f"{name}.{letter}"] for letter in "USV"))
        _require_basis(path, name, bases[name], shape, basis)
    return Projectors(bases, manifest, projectors_digest(folder))


def _require_basis(path: Path, name: str, basis: Basis, shape: tuple[int, ...], kind: str) -> None:
    k = basis.S.shape[0] if basis.S.ndim == 1 else -1
    left = 0 if kind in ONE_SIDED else k
    found = tuple(tuple(tensor.shape) for tensor in basis)
    if found != ((shape[0], left), (k,), (shape[1], k)):
        columns = "0" if kind in ONE_SIDED else "k"
        raise unreadable(path, f"{name}: U ({shape[0]}, {columns}), S (k,), V ({shape[1]}, k)", str(found))
    for letter, tensor in (("U", basis.U), ("V", basis.V)):
        gram = tensor.double().mT @ tensor.double()
        identity = torch.eye(len(gram), dtype=torch.float64)
        error = float((gram - identity).abs().max()) if len(gram) else 0.0
        if not error <= ORTHONORMALITY_LIMIT:  # also catches NaN
            raise unreadable(path, f"{name}.{letter} orthonormal to {ORTHONORMALITY_LIMIT:g}", f"{error:.3g}")
    if not bool(basis.S.isfinite().all()) or bool((basis.S < 0).any()):
        raise unreadable(path, f"{name}.S finite and not negative", str(basis.S.tolist()[:4]))

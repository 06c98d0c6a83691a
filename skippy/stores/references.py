"""Character references on disk: one safetensors file, one manifest, checked when read.

The manifest names base and character by digest, so that a reference is never held against another model, and
the tensors by sha256, so that a damaged file is no measurement.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from skippy.core.personality.reference import (
    CharacterReference,
    HookReference,
    MeasuredTarget,
    TraitReference,
)
from skippy.core.personality.subspaces import PersonaSubspace
from skippy.stores.atomic import new_directory, write_bytes, write_json
from skippy.stores.reference_files import MANIFEST_FILE, REFERENCE_FILE, damaged, open_reference

ORTHONORMALITY_LIMIT = 1e-5
TRAIT_TENSORS = ("vectors", "hidden", "tokens")


def save_reference(directory: str | Path, reference: CharacterReference) -> Path:
    """Write a reference; the directory appears whole or not at all.

    Returns:
        The directory.
    """
    tensors = {f"traits/{name}": getattr(reference.traits, name) for name in TRAIT_TENSORS}
    for name, hook in reference.hooks.items():
        tensors[f"{name}/P"] = hook.subspace.P
        tensors[f"{name}/spectrum"] = hook.subspace.spectrum
        tensors[f"{name}/sketch"] = hook.sketch
    content = save({key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()})
    destination = Path(directory)
    with new_directory(destination) as partial:
        write_bytes(partial / REFERENCE_FILE, content)
        write_json(partial / MANIFEST_FILE, _manifest(reference, hashlib.sha256(content).hexdigest()))
    return destination


def load_reference(
    directory: str | Path, *, base_digest: str | None = None, character_digest: str | None = None
) -> CharacterReference:
    """Read a reference and check it.

    Args:
        base_digest, character_digest: as `open_reference` takes them.

    Raises:
        ProjectorError: files missing or damaged, another base or character, a P that is not orthonormal.
    """
    folder = Path(directory)
    manifest, content = open_reference(directory, base_digest=base_digest, character_digest=character_digest)
    try:
        tensors = load(content)
    except SafetensorError as error:
        raise damaged(folder / REFERENCE_FILE, "a safetensors file", str(error)) from error
    try:
        reference = _assemble(manifest, tensors)
    except (KeyError, TypeError, ValueError) as error:
        raise damaged(folder / MANIFEST_FILE, "names of the tensors that are stored", repr(error)) from error
    for name, hook in reference.hooks.items():
        _require_orthonormal(folder / REFERENCE_FILE, name, hook.subspace.P)
    return reference


def _manifest(reference: CharacterReference, sha256: str) -> dict[str, Any]:
    hooks = {
        name: {
            "K": hook.subspace.K,
            "width": hook.subspace.P.shape[1],
            "explained": hook.subspace.explained,
            "spectrum": hook.subspace.spectrum.tolist(),
            "held_out": hook.held_out,
            "tokens": hook.tokens,
        }
        for name, hook in reference.hooks.items()
    }
    return {
        "base_digest": reference.base_digest,
        "character_digest": reference.character_digest,
        "depth": reference.depth,
        "sha256": sha256,
        "targets": [asdict(target) for target in reference.targets],
        "hooks": hooks,
        "traits": {
            "names": list(reference.traits.names),
            "hooks": list(reference.traits.hooks),
            "probes": [list(probe) for probe in reference.traits.probes],
        },
    }


def _assemble(manifest: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> CharacterReference:
    hooks = {
        name: HookReference(
            subspace=PersonaSubspace(
                tensors[f"{name}/P"], tensors[f"{name}/spectrum"], float(entry["explained"])
            ),
            sketch=tensors[f"{name}/sketch"],
            held_out=float(entry["held_out"]),
            tokens=int(entry["tokens"]),
        )
        for name, entry in manifest["hooks"].items()
    }
    traits = manifest["traits"]
    return CharacterReference(
        base_digest=manifest["base_digest"],
        character_digest=manifest["character_digest"],
        depth=int(manifest["depth"]),
        targets=tuple(MeasuredTarget(**entry) for entry in manifest["targets"]),
        hooks=hooks,
        traits=TraitReference(
            names=tuple(traits["names"]),
            hooks=tuple(traits["hooks"]),
            probes=tuple((prompt, text) for prompt, text in traits["probes"]),
            **{name: tensors[f"traits/{name}"] for name in TRAIT_TENSORS},
        ),
    )


def _require_orthonormal(path: Path, name: str, P: Tensor) -> None:
    wide = P.double()
    error = float((wide @ wide.T - torch.eye(len(P), dtype=torch.float64)).abs().max())
    if not error <= ORTHONORMALITY_LIMIT:  # also catches NaN
        raise damaged(path, f"{name}/P orthonormal to {ORTHONORMALITY_LIMIT:g}", f"{error:.3g}")

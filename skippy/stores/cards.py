"""`skippy.json` beside merged weights: what was merged, and the sha256 of every file, to be checked again."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

from skippy.errors import CheckpointError
from skippy.stores.accounting import MergeAccount
from skippy.stores.atomic import write_json
from skippy.stores.documents import parse_object

CARD_FILE = "skippy.json"
HASH_THREADS = 4


def write_card(directory: Path, account: MergeAccount, hashes: Mapping[str, str], lineage: str) -> None:
    """Write the card; `lineage` is what the base descends from; files not among `hashes` are read and hashed."""
    others = _hash_files(directory, sorted(_files_in(directory) - set(hashes)))
    card = {
        "alpha": account.alpha,
        "targets": account.targets,
        "dtype": account.dtype,
        "rounding": account.rounding,
        "delta_error": account.delta_error,
        "delta_cosine": account.delta_cosine,
        "leakage": asdict(account.leakage) if account.leakage is not None else None,
        "base_digest": account.base_digest,
        "adapter_digest": account.adapter_digest,
        "digest": account.digest,
        "lineage": lineage,
        "notes": list(account.notes),
        "files": {**hashes, **others},
    }
    write_json(directory / CARD_FILE, card)


def verify_checkpoint(directory: str | Path) -> dict[str, Any]:
    """Hash every file again and compare with `skippy.json`.

    Returns:
        The content of `skippy.json`.

    Raises:
        CheckpointError: a file is missing, altered or not on the card.
    """
    folder = Path(directory)
    path = folder / CARD_FILE
    try:
        card = parse_object(path.read_bytes())
        listed: Mapping[str, str] = dict(card["files"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            "The merged checkpoint has no readable card.",
            where=str(path),
            expected="a JSON object with the sha256 of every file",
            found=repr(error),
            next_step="merge again",
        ) from error
    present = _files_in(folder)
    wrong = sorted(present ^ set(listed))
    hashes = _hash_files(folder, sorted(present & set(listed)))
    wrong += [name for name, found in hashes.items() if found != listed[name]]
    if wrong:
        raise CheckpointError(
            "The merged checkpoint is not what was written.",
            where=str(folder),
            expected=f"the {len(listed)} files of {CARD_FILE}, unaltered",
            found="missing, added or altered: " + ", ".join(wrong[:4]),
            next_step="merge again, or restore the files",
        )
    return card


def hash_file(path: Path) -> str:
    """Hash one file (sha256, hexadecimal), a chunk at a time."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _files_in(folder: Path) -> set[str]:
    files = {file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()}
    return files - {CARD_FILE}


def _hash_files(folder: Path, names: Iterable[str]) -> dict[str, str]:
    listed = list(names)
    with ThreadPoolExecutor(HASH_THREADS) as pool:
        return dict(zip(listed, pool.map(hash_file, (folder / name for name in listed)), strict=True))

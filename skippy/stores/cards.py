"""`skippy.json` beside merged weights: what was merged, and the sha256 of every file, to be checked again."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from itertools import repeat
from pathlib import Path
from typing import TYPE_CHECKING, Any

from skippy.errors import CheckpointError
from skippy.stores.atomic import write_json
from skippy.stores.blocks import BLOCK_BYTES, Reader
from skippy.stores.documents import parse_object
from skippy.stores.lanes import Span, read_ahead

if TYPE_CHECKING:
    from skippy.core.spectral.constraints import Leakage

CARD_FILE = "skippy.json"
HASH_THREADS = 4
READ_ONLY = 0o444


@dataclass(frozen=True)
class MergeAccount:
    """What a merge did."""

    path: Path  # the new checkpoint
    alpha: float  # factor on ΔW
    targets: int  # number of weights that LoRA changed
    dtype: str  # of the weights written: same as the base's, or float32
    rounding: str  # how sums were rounded to it: nearest or stochastic
    delta_error: float  # ‖(W'−W) − ΔW‖ / ‖ΔW‖ over all targets; 0 where ΔW is 0
    delta_cosine: float  # cosine between W'−W and ΔW over all targets; 1 where both are 0
    leakage: Leakage | None  # of what was stored, W'−W; None without bases
    base_digest: str  # of the base that was read
    adapter_digest: str  # of the adapter that was added, or of all of them with their weights
    digest: str  # of the merged tensors
    notes: tuple[str, ...] = ()  # what a person should know about the inputs, a sentence each
    delta_norm: float = 0.0  # ‖W'−W‖ over all tensors that change
    changed: tuple[str, ...] = ()  # their keys

    def metrics(self) -> dict[str, float]:
        """The figures under their names in the tracker."""
        figures = {
            "merge/alpha": self.alpha,
            "merge/targets": float(self.targets),
            "merge/delta_error": self.delta_error,
            "merge/delta_cosine": self.delta_cosine,
            "merge/delta_norm": self.delta_norm,
        }
        if self.leakage is not None:
            figures["merge/rho_left"] = self.leakage.rho_left
            figures["merge/rho_right"] = self.leakage.rho_right
        return figures


def write_card(directory: Path, account: MergeAccount, hashes: Mapping[str, str], lineage: str) -> None:
    """Write the card, and make every file read-only: what was hashed is not to be edited in place.

    `lineage` is what the base descends from; files not among `hashes` are read and hashed.
    """
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
    for name in _files_in(directory) | {CARD_FILE}:
        (directory / name).chmod(READ_ONLY)


def read_card(folder: Path) -> dict[str, Any]:
    """The content of `skippy.json`.

    Raises:
        CheckpointError: there is none that can be read.
    """
    path = folder / CARD_FILE
    try:
        card = parse_object(path.read_bytes())
        dict(card["files"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            "The merged checkpoint has no readable card.",
            where=str(path),
            expected="a JSON object with the sha256 of every file",
            found=repr(error),
            next_step="merge again",
        ) from error
    return card


def verify_checkpoint(
    directory: str | Path, progress: Callable[[int], object] | None = None, *, keep: bool = False
) -> dict[str, Any]:
    """Hash every file again and compare with `skippy.json`.

    Args:
        keep: the files are loaded next: leave them in the page cache.

    Returns:
        The content of `skippy.json`.

    Raises:
        CheckpointError: a file is missing, altered or not on the card.
    """
    folder = Path(directory)
    card = read_card(folder)
    listed: Mapping[str, str] = card["files"]
    present = _files_in(folder)
    wrong = sorted(present ^ set(listed))
    hashes = _hash_files(folder, sorted(present & set(listed)), progress, keep)
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


def hash_file(path: Path, keep: bool = False) -> str:
    """Hash one file (sha256, hexadecimal), a block at a time, while the next are read."""
    sha, size = hashlib.sha256(), path.stat().st_size
    with Reader(path, keep=keep) as reader:
        starts = range(0, size, BLOCK_BYTES)
        for _ in read_ahead(Span(reader, at, min(at + BLOCK_BYTES, size), path.name, sha) for at in starts):
            pass
    return sha.hexdigest()


def digest_of_files(directory: Path) -> str:
    """One digest for the names and bytes of the files that lie in a directory, not those in folders of it."""
    files = sorted(file for file in directory.iterdir() if file.is_file())
    lines = (f"{file.name} {hash_file(file)}\n" for file in files)
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _files_in(folder: Path) -> set[str]:
    files = {file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()}
    return files - {CARD_FILE}


def _hash_files(
    folder: Path,
    names: Iterable[str],
    progress: Callable[[int], object] | None = None,
    keep: bool = False,
) -> dict[str, str]:
    listed, hashes = list(names), {}
    with ThreadPoolExecutor(HASH_THREADS) as pool:
        found = pool.map(hash_file, (folder / name for name in listed), repeat(keep))
        for name, digest in zip(listed, found, strict=True):
            hashes[name] = digest
            if progress is not None:
                progress((folder / name).stat().st_size)
    return hashes

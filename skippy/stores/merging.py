"""Merge an adapter into a base: inventory, plan, validate, apply, account, one tensor at a time.

W' = round_dtype(fp32(W) + s·fp32(B)·fp32(A)·α). Rounding to the stored type eats small updates, so the merge
reports what it really stored, W' − W, against what it was to store, ΔW: relative error, cosine, and leakage.
The result has the base's shard layout to the byte, except for the bytes of the targets.

Source: MATH §6.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor

from skippy.core.basis import Basis
from skippy.core.spectral.lora import LoraFactors, dense_delta
from skippy.errors import AdapterError, CheckpointError, ProjectorError
from skippy.stores.accounting import DeltaLedger, MergeAccount
from skippy.stores.adapters import Adapter, read_adapter, require_fit
from skippy.stores.atomic import new_directory, write_bytes, write_json
from skippy.stores.checkpoints import INDEX_FILE, Checkpoint, digest_of_hashes
from skippy.stores.tensors import CHUNK_BYTES, TensorInfo, read_tensor

CARD_FILE = "skippy.json"
HASH_THREADS = 4
ROOM = 1.02  # of the base's bytes: headers, companions and file system overhead


def merge_checkpoint(
    base: Checkpoint,
    adapter_dir: str | Path,
    destination: str | Path,
    *,
    alpha: float = 1.0,
    base_digest: str | None = None,
    bases: Mapping[str, Basis] | None = None,
    lineage: str = "",
    progress: Callable[[int], object] | None = None,
) -> MergeAccount:
    """Write base + α·ΔW as a plain checkpoint directory; whole, or not at all.

    Args:
        base: the opened base.
        adapter_dir: a PEFT adapter.
        destination: must not exist, or be an empty directory.
        alpha: factor on ΔW; 1 for a trained variant, 0.7 for the delta base.
        base_digest: what the base is known to hash to; checked against the bytes really read.
        bases: projectors by target, to measure the leakage of what is stored.
        lineage: what the base descends from; the card hands it on.
        progress: called with 1 after each of the `len(base.tensors)` tensors.

    Raises:
        AdapterError: the adapter does not fit the base, or a target of it went unused.
        CheckpointError: the destination is taken, the disk too full, or the base changed.
        ProjectorError: `bases` lacks a target of the adapter.
    """
    adapter = read_adapter(adapter_dir)
    require_fit(adapter, base.shapes)
    _require_mergeable(base, adapter, bases)
    with new_directory(Path(destination), needed_bytes=int(base.nbytes * ROOM)) as directory:
        work = _Work(adapter.factors, alpha, DeltaLedger(bases))
        for file in base.files:
            work.write_file(base, file, directory / file.name, progress)
        found = digest_of_hashes(base.tensors, work.base_hashes)
        _require_accounted(base, adapter, work.unused, base_digest, found)
        if (base.path / INDEX_FILE).is_file():
            write_bytes(directory / INDEX_FILE, (base.path / INDEX_FILE).read_bytes())
        base.copy_companions(directory)
        account = MergeAccount(
            path=Path(destination),
            alpha=alpha,
            targets=len(adapter.factors),
            delta_error=work.ledger.delta_error(),
            delta_cosine=work.ledger.delta_cosine(),
            leakage=work.ledger.leakage(),
            base_digest=found,
            adapter_digest=adapter.digest(),
            digest=digest_of_hashes(base.tensors, work.merged_hashes),
        )
        _write_card(directory, account, lineage)
    return account


class _Work:
    """The merge in progress: what is still to be added, what was read, what was written."""

    def __init__(self, factors: Mapping[str, LoraFactors], alpha: float, ledger: DeltaLedger) -> None:
        self.unused = dict(factors)
        self.ledger = ledger
        self.base_hashes: dict[str, str] = {}
        self.merged_hashes: dict[str, str] = {}
        self._alpha = alpha

    def write_file(
        self, base: Checkpoint, source: Path, destination: Path, progress: Callable[[int], object] | None
    ) -> None:
        """Write one file of the base with its targets merged; hashing runs beside adding and writing."""
        with destination.open("wb") as out, ThreadPoolExecutor(1) as pool:
            for info in _copy_header(base, source, out):
                name = info.key.removesuffix(".weight")
                if name in self.unused:
                    weight = read_tensor(info)
                    base_hash = pool.submit(_sha256, weight)
                    merged = _add(weight, self.unused.pop(name), self._alpha, self.ledger, name)
                    merged_hash = pool.submit(_sha256, merged)
                    out.write(_bytes(merged))
                    self.base_hashes[info.key] = base_hash.result()
                    self.merged_hashes[info.key] = merged_hash.result()
                else:
                    self.base_hashes[info.key] = self.merged_hashes[info.key] = _copy_tensor(info, out)
                if progress is not None:
                    progress(1)


def verify_checkpoint(directory: str | Path) -> dict[str, object]:
    """Hash every file again and compare with `skippy.json`.

    Returns:
        The content of `skippy.json`.

    Raises:
        CheckpointError: a file is missing, altered or not on the card.
    """
    folder = Path(directory)
    path = folder / CARD_FILE
    try:
        card: dict[str, object] = json.loads(path.read_text(encoding="utf-8"))
        listed: Mapping[str, str] = dict(card["files"])  # type: ignore[call-overload]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            "The merged checkpoint has no readable card.",
            where=str(path),
            expected="a JSON object with the sha256 of every file",
            found=repr(error),
            next_step="merge again",
        ) from error
    present = {file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()} - {
        CARD_FILE
    }
    wrong = sorted(present ^ set(listed))
    both = sorted(present & set(listed))
    with ThreadPoolExecutor(HASH_THREADS) as pool:
        hashes = pool.map(hash_file, (folder / name for name in both))
        wrong += [name for name, found in zip(both, hashes, strict=True) if found != listed[name]]
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


def _add(weight: Tensor, factors: LoraFactors, alpha: float, ledger: DeltaLedger, name: str) -> Tensor:
    delta = dense_delta(factors).mul_(alpha)
    merged = (weight.float() + delta).to(weight.dtype)
    if not bool(merged.isfinite().all()):
        raise AdapterError(
            "The sum is not finite in the type of the base.",
            where=f"{name}.weight",
            expected=f"values that {weight.dtype} can hold",
            found="overflow or NaN",
            next_step="check the adapter, or merge with a smaller alpha",
        )
    ledger.enter(name, merged.float() - weight.float(), delta)
    return merged


def _copy_header(base: Checkpoint, file: Path, out: BinaryIO) -> list[TensorInfo]:
    """Copy everything before the first tensor; return the tensors in the order of their bytes."""
    infos = sorted(
        (info for info in base.tensors.values() if info.file == file),
        key=lambda info: (info.start, info.stop),
    )
    with file.open("rb") as source:
        length = int.from_bytes(source.read(8), "little")
        source.seek(0)
        out.write(source.read(8 + length))
    position = 8 + length
    for info in infos:
        if info.start != position:
            raise CheckpointError(
                "The tensors of a weight file overlap or leave gaps.",
                where=f"{info.key} in {file}",
                expected=f"data from byte {position}",
                found=f"from byte {info.start}",
                next_step="save the base again with save_pretrained",
            )
        position = info.stop
    return infos


def _copy_tensor(info: TensorInfo, out: BinaryIO) -> str:
    sha = hashlib.sha256()
    with info.file.open("rb") as source:
        source.seek(info.start)
        for start in range(0, info.nbytes, CHUNK_BYTES):
            chunk = source.read(min(CHUNK_BYTES, info.nbytes - start))
            sha.update(chunk)
            out.write(chunk)
    return sha.hexdigest()


def _sha256(tensor: Tensor) -> str:
    return hashlib.sha256(_bytes(tensor)).hexdigest()


def _bytes(tensor: Tensor) -> memoryview:
    return tensor.contiguous().flatten().view(torch.uint8).numpy().data


def _require_mergeable(base: Checkpoint, adapter: Adapter, bases: Mapping[str, Basis] | None) -> None:
    for name in adapter.factors:
        info = base.tensors[f"{name}.weight"]
        if not info.dtype.is_floating_point or info.dtype.itemsize < 2:
            raise CheckpointError(
                "A target is stored in a type that cannot be added to.",
                where=f"{info.key} in {info.file}",
                expected="float32, bfloat16 or float16",
                found=str(info.dtype),
                next_step="use an unquantised base",
            )
        if bases is not None and name not in bases:
            raise ProjectorError(
                "The projectors lack a target of the adapter.",
                where=name,
                expected=f"{len(adapter.factors)} targets",
                found=f"{len(bases)} in the projectors",
                next_step="run the svd stage for this base",
            )


def _require_accounted(
    base: Checkpoint,
    adapter: Adapter,
    unused: Mapping[str, LoraFactors],
    expected_digest: str | None,
    found_digest: str,
) -> None:
    if unused:
        raise AdapterError(
            "Targets of the adapter were not used.",
            where=str(adapter.path),
            expected=f"all {len(adapter.factors)} targets added to the base",
            found=f"unused: {', '.join(sorted(unused)[:4])}",
            next_step="merge the adapter into the base that it was trained on",
        )
    if expected_digest is not None and expected_digest != found_digest:
        raise CheckpointError(
            "The base is not the one that was opened: its bytes have another digest.",
            where=str(base.path),
            expected=expected_digest,
            found=found_digest,
            next_step="make sure that nothing writes to the base, and merge again",
        )


def _write_card(directory: Path, account: MergeAccount, lineage: str) -> None:
    paths = sorted(file for file in directory.iterdir() if file.is_file())
    with ThreadPoolExecutor(HASH_THREADS) as pool:
        files = dict(zip((path.name for path in paths), pool.map(hash_file, paths), strict=True))
    card = {
        "alpha": account.alpha,
        "targets": account.targets,
        "delta_error": account.delta_error,
        "delta_cosine": account.delta_cosine,
        "leakage": asdict(account.leakage) if account.leakage is not None else None,
        "base_digest": account.base_digest,
        "adapter_digest": account.adapter_digest,
        "digest": account.digest,
        "lineage": lineage,
        "files": files,
    }
    write_json(directory / CARD_FILE, card)

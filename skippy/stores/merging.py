"""Merge adapters into a base: inventory, plan, validate, apply, account, a few rows at a time.

W' = round_dtype(fp32(W) + s·fp32(B)·fp32(A)·α). Rounding to the stored type eats small updates, so the merge
reports what it really stored, W' − W, against what it was to store, ΔW: relative error, cosine, and leakage.
In the base's own type the result has its shard layout to the byte, except for the bytes of what was changed.

Every byte passes once: read, hashed, added to, hashed, written (`lanes`), a few files side by side. Memory is that of
some rows for each of these, whatever the size of the model or of a tensor.

Source: MATH §6.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path

from skippy.core.basis import Basis
from skippy.core.biases import ENDING, describe_engines
from skippy.errors import AdapterError, CheckpointError, ProjectorError
from skippy.stores.accounting import DeltaLedger
from skippy.stores.adapter_fit import fit_to_base
from skippy.stores.adapters import Adapter
from skippy.stores.atomic import new_directory
from skippy.stores.biases import Biases, with_biases
from skippy.stores.cards import MergeAccount, write_card
from skippy.stores.changes import Change, plan_changes, read_change
from skippy.stores.checkpoints import Checkpoint
from skippy.stores.headers import digest_of_hashes
from skippy.stores.layout import lay_out, write_companions
from skippy.stores.merge_work import MergeWork
from skippy.stores.peft_check import Part, require_peft_agrees
from skippy.stores.tensors import DTYPE_NAMES
from skippy.stores.updates import Update

ROOM = 1.02  # of the bytes written: headers, companions and file system overhead

Changes = str | Path | Sequence[tuple[str | Path | Change, float]]


def merge_checkpoint(
    base: Checkpoint,
    adapters: Changes,
    destination: str | Path,
    *,
    alpha: float = 1.0,
    dtype: str = "same",
    rounding: str = "nearest",
    seed: int = 0,
    base_digest: str | None = None,
    bases: Mapping[str, Basis] | None = None,
    notes: Sequence[str] = (),
    lineage: str = "",
    progress: Callable[[int], object] | None = None,
) -> MergeAccount:
    """Write base + α·ΔW as a plain checkpoint directory; whole, or not at all.

    Args:
        base: the opened base.
        adapters: an update of any kind, or several with their weights; directories, or what was read of them.
        destination: must not exist, or be an empty directory.
        alpha: factor on ΔW; 1 for a trained variant, 0.7 for the delta base.
        dtype: of what is written: the base's own, or float32 throughout.
        rounding: to the nearest value, or by chance to a neighbour, which keeps a small ΔW on average.
        seed: of stochastic rounding.
        base_digest: what the base is known to hash to; checked against the bytes really read.
        bases: projectors by target, to measure the leakage of what is stored.
        notes: sentences for the card, beside those that the merge itself finds.
        lineage: what the base descends from; the card hands it on.
        progress: called with 1 after each of the `len(base.tensors)` tensors, from the threads that write them.

    Raises:
        AdapterError: an adapter does not fit the base, or a target of it went unused.
        CheckpointError: the destination is taken, the disk too full, the base changed or holds NaN.
        ProjectorError: `bases` lacks a target of the adapter.
    """
    weighted = [(adapters, 1.0)] if isinstance(adapters, str | Path) else list(adapters)
    read = [(read_change(one) if isinstance(one, str | Path) else one, weight) for one, weight in weighted]
    updates = plan_changes([(change, weight * alpha) for change, weight in read], base)
    given = with_biases(base, (key for key in updates if key.endswith(ENDING)))
    lora = [(change, weight * alpha) for change, weight in read if isinstance(change, Adapter)]
    fitted = [(fit_to_base(adapter, base.shapes), weight) for adapter, weight in lora]
    _require_mergeable(given, updates, bases)
    targets = sum(update.is_target for update in updates.values())
    layouts = [lay_out(given, file, dtype) for file in base.files]
    room = int(sum(layout.nbytes for layout in layouts) * ROOM)
    with new_directory(Path(destination), needed_bytes=room) as directory:
        work = MergeWork(updates, DeltaLedger(bases), rounding, seed)
        work.write_files(layouts, directory, progress)
        found = digest_of_hashes(base.tensors, work.base_hashes)
        _require_accounted(base, work.unused, base_digest, found)
        write_companions(given, directory, dtype)
        _require_peft_agrees(base, directory, lora, fitted, 0.5 if rounding == "nearest" else 1.0)
        types = {info.key: DTYPE_NAMES[kind] for layout in layouts for info, kind in layout.entries}
        account = MergeAccount(
            path=Path(destination),
            alpha=alpha,
            targets=targets,
            dtype=dtype,
            rounding=rounding,
            delta_error=work.ledger.delta_error(),
            delta_cosine=work.ledger.delta_cosine(),
            leakage=work.ledger.leakage(),
            base_digest=found,
            adapter_digest=combined_digest(read),
            digest=digest_of_hashes(given.tensors, work.merged_hashes, types),
            delta_norm=work.ledger.delta_norm(),
            changed=tuple(updates),
            notes=(*notes, *_notes(base, read), *_renamings(lora, fitted)),
        )
        write_card(directory, account, work.file_hashes, lineage)
    return account


def combined_digest(adapters: Sequence[tuple[Change, float]]) -> str:
    """The digest of one adapter; of several, or of one at another weight than 1, one of digests and weights."""
    if [weight for _, weight in adapters] == [1.0]:
        return adapters[0][0].digest()
    lines = (f"{weight!r} {adapter.digest()}\n" for adapter, weight in adapters)
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _require_mergeable(
    base: Checkpoint, updates: Mapping[str, Update], bases: Mapping[str, Basis] | None
) -> None:
    targets = [key.removesuffix(".weight") for key, update in updates.items() if update.is_target]
    for key in updates:
        info = base.tensors[key]
        if not info.is_weight:
            raise CheckpointError(
                "A target is stored in a type that cannot be added to.",
                where=f"{key} in {info.file}",
                expected="float32, bfloat16 or float16",
                found=str(info.dtype),
                next_step="use an unquantised base",
            )
    embedded = [
        key for key in updates if base.is_tied and ("embed_tokens" in key or key.startswith("lm_head"))
    ]
    if embedded:
        raise AdapterError(
            "The adapter changes one of two weights that the base ties to each other.",
            where=", ".join(embedded),
            expected="embeddings and lm_head as they are, where tie_word_embeddings is true",
            found="a change of " + ", ".join(embedded),
            next_step="untie the base first, or train the adapter without them",
        )
    lacking = [name for name in targets if bases is not None and name not in bases]
    if lacking:
        raise ProjectorError(
            "The projectors lack a target of the adapter.",
            where=lacking[0],
            expected=f"{len(targets)} targets",
            found=f"{len(bases or {})} in the projectors",
            next_step="run the svd stage for this base",
        )


def _require_peft_agrees(
    base: Checkpoint,
    directory: Path,
    read: Sequence[tuple[Adapter, float]],
    fitted: Sequence[tuple[Adapter, float]],
    steps: float,
) -> None:
    if not read:
        return
    parts = [
        Part(adapter, dict(zip(adapter.factors, renamed.factors, strict=True)), weight)
        for (adapter, _), (renamed, weight) in zip(read, fitted, strict=True)
    ]
    require_peft_agrees(parts, base.tensors, Checkpoint.open(directory).tensors, steps=steps)


def _require_accounted(
    base: Checkpoint, unused: Collection[str], expected_digest: str | None, found_digest: str
) -> None:
    if unused:
        raise AdapterError(
            "Targets of the adapter were not used.",
            where=str(base.path),
            expected="every tensor of the adapter added to the base once",
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


def _notes(base: Checkpoint, read: Sequence[tuple[Change, float]]) -> list[str]:
    """What the inputs are that a person may not expect."""
    notes = [f"ΔW of the adapter {change.path.name} is zero" for change, _ in read if change.is_zero]
    notes += [describe_engines(change.kinds) for change, _ in read if isinstance(change, Biases)]
    if base.has_idle_head:
        notes.append("the base ties lm_head to the embeddings and stores one all the same: readers ignore it")
    return notes


def _renamings(
    read: Sequence[tuple[Adapter, float]], fitted: Sequence[tuple[Adapter, float]]
) -> Iterator[str]:
    for (adapter, _), (renamed, _) in zip(read, fitted, strict=True):
        if adapter.keys != renamed.keys:
            old, new = adapter.keys[0], renamed.keys[0]
            yield f"names of the adapter were those of another release: {old} is {new} here"

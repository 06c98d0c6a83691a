"""The bytes of a merge: every file of the base written anew, a few rows at a time, some files side by side."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from skippy.core.spectral.rounding import round_stochastically
from skippy.core.spectral.subspaces import seed_of
from skippy.core.torch_threads import one_torch_thread
from skippy.errors import AdapterError
from skippy.stores import blocks
from skippy.stores.accounting import DeltaLedger
from skippy.stores.blocks import Reader
from skippy.stores.headers import NewTensor, TensorInfo, not_finite, require_finite
from skippy.stores.lanes import Hash, Sink, Span, read_ahead
from skippy.stores.layout import FileLayout
from skippy.stores.tensors import Zeros
from skippy.stores.updates import Rooms, Update

CHUNK_ELEMENTS = 1 << 19  # worked on at once: what the processor's cache holds
LARGEST_VALUE = 8  # bytes
FILES_AT_ONCE = min(4, os.cpu_count() or 1)  # each has some 50 MB of buffers


class MergeWork:
    """The merge in progress: what is to be added, what was read, what was written."""

    def __init__(self, updates: Mapping[str, Update], ledger: DeltaLedger, rounding: str, seed: int) -> None:
        self.updates = updates
        self.ledger = ledger
        self.base_hashes: dict[str, str] = {}
        self.merged_hashes: dict[str, str] = {}
        self.file_hashes: dict[str, str] = {}
        self.rounding = rounding
        self.seed = seed
        self.has_failed = threading.Event()

    @property
    def unused(self) -> list[str]:
        """Keys of updates that no file had a tensor for."""
        return sorted(set(self.updates) - set(self.base_hashes))

    def write_files(
        self, layouts: Sequence[FileLayout], directory: Path, progress: Callable[[int], object] | None
    ) -> None:
        """Write every file, some at once, the largest first; what fails first stops the others."""
        waiting = iter(sorted(layouts, key=lambda layout: -layout.nbytes))
        ledgers: dict[str, DeltaLedger] = {}

        def write_some() -> None:
            for layout in waiting:  # each thread takes the next
                ledgers[layout.source.name] = _File(self, layout).write(directory, progress)

        with one_torch_thread(), ThreadPoolExecutor(FILES_AT_ONCE) as pool:
            writing = [pool.submit(write_some) for _ in range(FILES_AT_ONCE - 1)]
            try:
                write_some()  # in this thread too, whose buffers torch has already
                for each in writing:
                    each.result()
            except BaseException:
                self.has_failed.set()  # also where it was Ctrl-C
                raise
        for layout in layouts:
            self.ledger.add(ledgers[layout.source.name])


class _File:
    """One file of the base on its way; reading, hashing and writing run beside adding."""

    def __init__(self, work: MergeWork, layout: FileLayout) -> None:
        self._work = work
        self._layout = layout
        self._ledger = work.ledger.empty()
        self._rooms = Rooms()

    def write(self, directory: Path, progress: Callable[[int], object] | None) -> DeltaLedger:
        """Write it with its targets merged and return what that did; stop where another one failed."""
        try:
            self._write(directory, progress)
        except BaseException:
            self._work.has_failed.set()
            raise
        return self._ledger

    def _write(self, directory: Path, progress: Callable[[int], object] | None) -> None:
        layout, work = self._layout, self._work
        destination = directory / layout.source.name
        read: dict[str, Hash] = {info.key: hashlib.sha256() for info, _ in layout.entries}
        made = dict(read)
        with (
            Reader(layout.source) as source,
            destination.open("wb", buffering=0) as out,
            Sink(out) as sink,
            closing(read_ahead(self._spans(source, read))) as ahead,
        ):
            blocks.set_direct(out, layout.nbytes > blocks.BLOCK_BYTES)
            sink.put(np.frombuffer(layout.header, np.uint8), "the header")
            for info, dtype in layout.entries:
                if work.has_failed.is_set():
                    return
                update, sha = work.updates.get(info.key), None
                if update or dtype != info.dtype:
                    made[info.key] = sha = hashlib.sha256()
                pieces = map(torch.from_numpy, islice(ahead, len(self._cuts(info))))
                values = (
                    self._merged(info, dtype, update, pieces) if update else self._copied(info, dtype, pieces)
                )
                for each in values:
                    sink.put(each.reshape(-1).view(torch.uint8).numpy(), info.key, sha)
                if progress is not None:
                    progress(1)
            work.file_hashes[destination.name] = sink.finish()
        work.base_hashes.update((key, sha.hexdigest()) for key, sha in read.items())
        work.merged_hashes.update((key, sha.hexdigest()) for key, sha in made.items())

    def _spans(self, source: Reader, hashes: Mapping[str, Hash]) -> Iterator[Span]:
        """All that is read, in order."""
        for info, _ in self._layout.entries:
            origin, cuts = Zeros() if isinstance(info, NewTensor) else source, self._cuts(info)
            for at in cuts:
                yield Span(origin, at, min(at + cuts.step, info.stop), info.key, hashes[info.key])

    def _cuts(self, info: TensorInfo) -> range:
        """Where pieces of a tensor begin, each about a block: whole values, and of a target whole steps of rows."""
        rows = _rows_at_once(info) if info.key in self._work.updates else 0
        unit = rows * _row_bytes(info) or LARGEST_VALUE
        return range(info.start, info.stop, max(1, blocks.BLOCK_BYTES // unit) * unit)

    def _merged(
        self, info: TensorInfo, dtype: torch.dtype, update: Update, pieces: Iterator[Tensor]
    ) -> Iterator[Tensor]:
        """Rows of a target as they are written; what is done to them is entered in the ledger."""
        columns = _row_bytes(info) // info.dtype.itemsize
        generator = torch.Generator().manual_seed(seed_of(f"{self._work.seed} {info.key}"))
        done = 0
        with self._ledger.target(info.key.removesuffix(".weight")):
            for piece in pieces:
                for raw in piece.view(info.dtype).view(-1, columns).split(_rows_at_once(info)):
                    part = slice(done, done + len(raw))
                    done = part.stop
                    base = self._rooms.widened(raw)
                    new, wanted = update.apply(base, part, self._rooms)
                    made = self._rooms.made(new.shape, dtype)
                    if self._work.rounding == "stochastic" and dtype in (torch.bfloat16, torch.float16):
                        made.copy_(round_stochastically(new, dtype, generator))
                    else:
                        made.copy_(new)
                    if not self._ledger.enter(part, new.copy_(made).sub_(base), wanted):
                        _blame(info, base, update)
                    yield made

    def _copied(self, info: TensorInfo, dtype: torch.dtype, pieces: Iterator[Tensor]) -> Iterator[Tensor]:
        """Bytes as they were read, or values in the type that is written."""
        for piece in pieces:
            require_finite(piece.numpy(), info)
            if dtype == info.dtype:
                yield piece
            else:
                for values in piece.view(info.dtype).split(CHUNK_ELEMENTS):
                    yield self._rooms.made(values.shape, dtype).copy_(values)


def _row_bytes(info: TensorInfo) -> int:
    return info.nbytes // max(info.shape[0] if info.shape else 1, 1)


def _rows_at_once(info: TensorInfo) -> int:
    return max(1, CHUNK_ELEMENTS * info.dtype.itemsize // max(_row_bytes(info), 1))


def _blame(info: TensorInfo, base: Tensor, update: Update) -> None:
    """Say which of the two sides is not finite, or that their sum is not."""
    if not bool(base.isfinite().all()):
        raise not_finite(info)
    for saved in update.whole:
        if not bool(saved.rows(slice(0, info.shape[0])).isfinite().all()):
            raise not_finite(saved.info)
    raise AdapterError(
        "The sum is not finite in the type of the base.",
        where=info.key,
        expected=f"values that {info.dtype} can hold",
        found="overflow or NaN",
        next_step="check the adapter, or merge with a smaller alpha",
    )

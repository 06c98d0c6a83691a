"""The bytes of a merge: every file of the base written anew, a few rows at a time, some files side by side."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from torch import Tensor

from skippy.core.spectral.rounding import round_stochastically
from skippy.core.spectral.subspaces import seed_of
from skippy.errors import AdapterError
from skippy.stores.accounting import DeltaLedger
from skippy.stores.headers import NewTensor, TensorInfo, not_finite, require_finite
from skippy.stores.lanes import Hash, Lanes, Stream, write_all
from skippy.stores.layout import FileLayout
from skippy.stores.tensors import Zeros
from skippy.stores.updates import Rooms, Update

CHUNK_ELEMENTS = 1 << 19  # a few megabytes of buffers, used again and again
COPY_BYTES = 4 << 20
FILES_AT_ONCE = min(4, os.cpu_count() or 1)  # each has some 40 MB of buffers


class MergeWork:
    """The merge in progress: what is still to be added, what was read, what was written."""

    def __init__(self, updates: Mapping[str, Update], ledger: DeltaLedger, rounding: str, seed: int) -> None:
        self.unused = dict(updates)
        self.ledger = ledger
        self.base_hashes: dict[str, str] = {}
        self.merged_hashes: dict[str, str] = {}
        self.file_hashes: dict[str, str] = {}
        self.rounding = rounding
        self.seed = seed
        self.has_failed = threading.Event()

    def write_files(
        self, layouts: Sequence[FileLayout], directory: Path, progress: Callable[[int], object] | None
    ) -> None:
        """Write every file, some at once; what fails first stops the others."""
        files = [_File(self, layout, self.ledger.empty()) for layout in layouts]
        first, *others = files
        with ThreadPoolExecutor(max(1, FILES_AT_ONCE - 1)) as pool:
            writing = [pool.submit(file.write, directory, progress) for file in others]
            try:
                first.write(directory, progress)  # in this thread, whose buffers torch has already
                for each in writing:
                    each.result()
            except BaseException:
                self.has_failed.set()  # also where it was Ctrl-C
                raise
        for file in files:
            self.ledger.add(file.ledger)


class _File:
    """One file of the base on its way; hashing and writing run beside adding."""

    def __init__(self, work: MergeWork, layout: FileLayout, ledger: DeltaLedger) -> None:
        self.ledger = ledger
        self._work = work
        self._layout = layout

    def write(self, directory: Path, progress: Callable[[int], object] | None) -> None:
        """Write it with its targets merged; stop where another one failed."""
        try:
            self._write(directory, progress)
        except BaseException:
            self._work.has_failed.set()
            raise

    def _write(self, directory: Path, progress: Callable[[int], object] | None) -> None:
        layout, work = self._layout, self._work
        destination = directory / layout.source.name
        file_sha = hashlib.sha256(layout.header)
        hashes: dict[str, tuple[Hash, Hash]] = {}
        rooms = Rooms()
        with (
            layout.source.open("rb", buffering=0) as source,
            destination.open("wb", buffering=0) as out,
            Lanes() as lanes,
        ):
            write_all(out, layout.header, "the header")
            source.seek(layout.data_start)
            for info, dtype in layout.entries:
                if work.has_failed.is_set():
                    return
                update = work.unused.pop(info.key, None)
                origin = Zeros() if isinstance(info, NewTensor) else source
                stream = Stream(origin, out, file_sha, lanes, info, dtype)
                hashes[info.key] = self._merge(stream, update, rooms) if update else _copy(stream)
                if progress is not None:
                    progress(1)
            lanes.drain()
        for key, (read, made) in hashes.items():
            work.base_hashes[key], work.merged_hashes[key] = read.hexdigest(), made.hexdigest()
        work.file_hashes[destination.name] = file_sha.hexdigest()

    def _merge(self, stream: Stream, update: Update, rooms: Rooms) -> tuple[Hash, Hash]:
        info = stream.info
        rows = info.shape[0] if info.shape else 1
        columns = info.nbytes // (info.dtype.itemsize * max(rows, 1))
        step = max(1, CHUNK_ELEMENTS // max(columns, 1))
        generator = torch.Generator().manual_seed(seed_of(f"{self._work.seed} {info.key}"))
        with self.ledger.target(info.key.removesuffix(".weight")):
            for start in range(0, rows, step):
                part = slice(start, min(start + step, rows))
                slot, raw = stream.read((part.stop - start) * columns * info.dtype.itemsize)
                base = rooms.widened(raw.view(info.dtype).view(-1, columns))
                new, wanted = update.apply(base, part, rooms)
                made = stream.room(slot, new)
                self._round(new, made, generator)
                stored = new.copy_(made).sub_(base)
                if not self.ledger.enter(part, stored, wanted):
                    _blame(info, base, update)
                stream.write(slot, made)
        return stream.hashes

    def _round(self, exact: Tensor, made: Tensor, generator: torch.Generator) -> None:
        if self._work.rounding == "stochastic" and made.dtype in (torch.bfloat16, torch.float16):
            made.copy_(round_stochastically(exact, made.dtype, generator))
        else:
            made.copy_(exact)


def _copy(stream: Stream) -> tuple[Hash, Hash]:
    info = stream.info
    for start in range(0, info.nbytes, COPY_BYTES):
        slot, raw = stream.read(min(COPY_BYTES, info.nbytes - start))
        require_finite(raw.numpy(), info)
        if stream.dtype == info.dtype:
            stream.pass_on(slot, raw)
        else:
            values = raw.view(info.dtype)
            stream.write(slot, stream.room(slot, values).copy_(values))
    return stream.hashes


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

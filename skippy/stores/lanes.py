"""Bytes on their way from one file to another: read once, hashed and written in order while the next are made.

Every lane is one thread that takes its work in order, so that a running hash sees the bytes as they lie in the
file. hashlib and the kernel work without the interpreter's lock: on two cores, hashing costs little more than the
time it takes anyway. Buffers are few and used again; a fresh one for every tensor would fault in every page of it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from io import RawIOBase
from typing import Protocol

import torch
from torch import Tensor

from skippy.errors import CheckpointError
from skippy.stores.headers import TensorInfo, fill

SLOTS = 3


class Hash(Protocol):
    """A running hash."""

    def update(self, content: memoryview, /) -> None:
        """Add bytes."""

    def hexdigest(self) -> str:
        """The digest of all bytes so far."""


class Slot:
    """One buffer for bytes read and one for bytes to be written, with the work that still uses them."""

    def __init__(self) -> None:
        self._read = torch.empty(0, dtype=torch.uint8)
        self._made = torch.empty(0, dtype=torch.uint8)
        self._pending: list[Future[object]] = []

    def read(self, size_bytes: int) -> Tensor:
        """Room for bytes that are read."""
        if len(self._read) < size_bytes:
            self._read = torch.empty(size_bytes, dtype=torch.uint8)
        return self._read[:size_bytes]

    def made(self, size_bytes: int) -> Tensor:
        """Room for bytes that are made."""
        if len(self._made) < size_bytes:
            self._made = torch.empty(size_bytes, dtype=torch.uint8)
        return self._made[:size_bytes]

    def occupy(self, work: Future[object]) -> None:
        """Keep the buffers as they are until `work` is done."""
        self._pending.append(work)

    def wait(self) -> None:
        """Wait until nobody uses the buffers; raise what went wrong in a lane."""
        pending, self._pending = self._pending, []
        for work in pending:
            work.result()


class Lanes:
    """Threads for hashing what is read, hashing what is made, hashing the file, and writing it."""

    def __init__(self) -> None:
        self._slots = [Slot() for _ in range(SLOTS)]
        self._stack = ExitStack()
        self._read, self._made, self._file, self._write = (
            self._stack.enter_context(ThreadPoolExecutor(1)) for _ in range(4)
        )

    def __enter__(self) -> Lanes:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def next_slot(self) -> Slot:
        """The buffers that were given out longest ago, once they are free."""
        slot = self._slots.pop(0)
        self._slots.append(slot)
        slot.wait()
        return slot

    def drain(self) -> None:
        """Wait until all that was handed over is done."""
        for slot in self._slots:
            slot.wait()

    def hash_read(self, slot: Slot, sha: Hash, content: Tensor) -> None:
        """Add bytes to the hash of what is read."""
        slot.occupy(self._read.submit(sha.update, view_of(content)))

    def hash_made(self, slot: Slot, sha: Hash, content: Tensor) -> None:
        """Add bytes to the hash of what is made."""
        slot.occupy(self._made.submit(sha.update, view_of(content)))

    def write(self, slot: Slot, out: RawIOBase, sha: Hash, content: Tensor, what: str) -> None:
        """Write bytes of `what`, and add them to the hash of the file."""
        slot.occupy(self._file.submit(sha.update, view_of(content)))
        slot.occupy(self._write.submit(write_all, out, view_of(content), what))


class Stream:
    """One tensor on its way through the lanes."""

    def __init__(
        self,
        source: RawIOBase,
        out: RawIOBase,
        file_sha: Hash,
        lanes: Lanes,
        info: TensorInfo,
        dtype: torch.dtype,
    ) -> None:
        self.info, self.dtype = info, dtype
        self._source, self._out, self._file_sha, self._lanes = source, out, file_sha, lanes
        self._read: Hash = hashlib.sha256()
        self._made: Hash | None = None

    @property
    def hashes(self) -> tuple[Hash, Hash]:
        """Of what was read, and of what was written."""
        return self._read, self._made or self._read

    def read(self, size_bytes: int) -> tuple[Slot, Tensor]:
        """The next bytes of the base, in a slot that is free."""
        slot = self._lanes.next_slot()
        raw = slot.read(size_bytes)
        fill(self._source, view_of(raw), self.info)
        self._lanes.hash_read(slot, self._read, raw)
        return slot, raw

    def room(self, slot: Slot, like: Tensor) -> Tensor:
        """Room in the slot for as many values, in the type that is written."""
        return slot.made(like.numel() * self.dtype.itemsize).view(self.dtype).view(like.shape)

    def write(self, slot: Slot, made: Tensor) -> None:
        """Hand over values that were made."""
        if self._made is None:
            self._made = hashlib.sha256()
        self._lanes.hash_made(slot, self._made, made)
        self._lanes.write(slot, self._out, self._file_sha, made, self.info.key)

    def pass_on(self, slot: Slot, raw: Tensor) -> None:
        """Hand over bytes as they were read."""
        self._lanes.write(slot, self._out, self._file_sha, raw, self.info.key)


@contextmanager
def one_torch_thread() -> Iterator[None]:
    """Let torch work in the calling thread alone: the lanes keep the other cores busy.

    Threads of torch's own meet after every operation. Where cores are short, each such meeting waits for the
    scheduler, thousands of times a gigabyte.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def view_of(content: Tensor) -> memoryview:
    """The bytes of a contiguous tensor."""
    return content.flatten().view(torch.uint8).numpy().data


def write_all(out: RawIOBase, content: bytes | memoryview, what: str) -> None:
    """Write to an unbuffered file, which may take less than it is given.

    Raises:
        CheckpointError: the disk is full, or refuses.
    """
    left = memoryview(content)
    try:
        while len(left):
            left = left[out.write(left) or 0 :]
    except OSError as error:
        raise CheckpointError(
            "A weight cannot be written; nothing of the merge is kept.",
            where=f"{what} into {getattr(out, 'name', '')}",
            expected=f"room for {len(left)} more bytes",
            found=str(error),
            next_step="free some space, or choose a destination on another disk",
        ) from error

"""Bytes on their way from one file to another: read ahead, hashed and written in order while others are made.

Every lane is one thread that takes its work in order, so that a running hash sees the bytes as they lie in the
file. hashlib and the kernel work without the interpreter's lock: on two cores, hashing costs little more than the
time it takes anyway. Buffers are few and used again; a fresh one for every tensor would fault in every page of it.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Generator, Iterable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from io import FileIO
from itertools import cycle
from typing import NamedTuple, Protocol

import numpy as np

from skippy.stores import blocks
from skippy.stores.blocks import PAGE, new_buffer, write_all

SLOTS = 3  # one is filled, one is worked on, and one waits between the two


class Hash(Protocol):
    """A running hash."""

    def update(self, content: memoryview, /) -> None:
        """Add bytes."""

    def hexdigest(self) -> str:
        """The digest of all bytes so far."""


class Source(Protocol):
    """What bytes are read from."""

    def read(self, start: int, stop: int, what: str, buffer: np.ndarray) -> np.ndarray:
        """See `Reader.read`."""


class Span(NamedTuple):
    """Bytes to be read, and a hash that they go into."""

    source: Source
    start: int
    stop: int
    what: str
    sha: Hash


class Slot:
    """A buffer that is used again, and the work that still needs what is in it."""

    def __init__(self) -> None:
        self.buffer = new_buffer(0)
        self._pending: list[Future[object]] = []

    def room(self, size_bytes: int) -> np.ndarray:
        """The buffer, for so many bytes, once nobody needs it; raises what went wrong for those who did."""
        pending, self._pending = self._pending, []
        for work in pending:
            work.result()
        if len(self.buffer) < size_bytes + 2 * PAGE:
            self.buffer = new_buffer(size_bytes)
        return self.buffer

    def occupy(self, work: Future[object]) -> None:
        """Keep the bytes as they are until `work` is done."""
        self._pending.append(work)


def read_ahead(spans: Iterable[Span]) -> Generator[np.ndarray, None, None]:
    """The bytes of each span in turn, (n,) uint8, while the next are read and hashed.

    Bytes are the caller's until it asks for more; hashes are whole when there is no more, or the generator is closed.
    """
    ahead = deque[Future[np.ndarray]]()
    with ThreadPoolExecutor(1) as hashing, ThreadPoolExecutor(1) as reading:
        for slot, span in zip(cycle([Slot() for _ in range(SLOTS)]), spans, strict=False):
            ahead.append(reading.submit(_read, span, slot, hashing))
            if len(ahead) == SLOTS:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()


def _read(span: Span, slot: Slot, hashing: Executor) -> np.ndarray:
    raw = span.source.read(span.start, span.stop, span.what, slot.room(span.stop - span.start))
    slot.occupy(hashing.submit(span.sha.update, raw.data))
    return raw


@dataclass
class _Part:
    """Bytes of a block that belong together, up to `stop`."""

    what: str
    sha: Hash | None
    stop: int


class Sink:
    """A new file: filled block by block, each of which is hashed and written while the next are filled."""

    def __init__(self, out: FileIO) -> None:
        self._out = out
        self._sha = hashlib.sha256()
        self._stack = ExitStack()
        self._made, self._file, self._write = (
            self._stack.enter_context(ThreadPoolExecutor(1)) for _ in range(3)
        )
        self._slots = cycle([Slot() for _ in range(SLOTS)])
        self._slot = next(self._slots)
        self._parts: list[_Part] = []

    def __enter__(self) -> Sink:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def put(self, content: np.ndarray, what: str, sha: Hash | None = None) -> None:
        """Add bytes of `what`, (n,) uint8, which are the caller's again afterwards; `sha` hashes them on their way."""
        while len(content):
            filled, block = self._filled, self._slot.room(blocks.BLOCK_BYTES)
            stop = min(filled + len(content), blocks.BLOCK_BYTES)
            block[filled:stop] = content[: stop - filled]
            content = content[stop - filled :]
            if self._parts and (self._parts[-1].what, self._parts[-1].sha) == (what, sha):
                self._parts[-1].stop = stop
            else:
                self._parts.append(_Part(what, sha, stop))
            if stop == blocks.BLOCK_BYTES:
                self._hand_over()

    def finish(self) -> str:
        """Write what is left, wait for the lanes, and return the sha256 of the file."""
        self._hand_over()
        for _ in range(SLOTS):
            next(self._slots).room(0)
        return self._sha.hexdigest()

    @property
    def _filled(self) -> int:
        return self._parts[-1].stop if self._parts else 0

    def _hand_over(self) -> None:
        """Let the lanes have the block, and take the one that they were given longest ago."""
        slot, parts, content = self._slot, self._parts, self._slot.buffer[: self._filled]
        slot.occupy(self._made.submit(_hash_parts, content, parts))
        slot.occupy(self._file.submit(self._sha.update, content.data))
        slot.occupy(self._write.submit(write_all, self._out, content, lambda at: _name_at(parts, at)))
        self._slot, self._parts = next(self._slots), []


def _hash_parts(content: np.ndarray, parts: Iterable[_Part]) -> None:
    start = 0
    for part in parts:
        if part.sha is not None:
            part.sha.update(content[start : part.stop].data)
        start = part.stop


def _name_at(parts: Iterable[_Part], position: int) -> str:
    return next(part.what for part in parts if position < part.stop)

"""Large files read and written in large blocks, past the page cache where that is the shorter way.

To find, fill and copy a page for every 4 KiB costs the processor more than to hash what is in them. So blocks go
straight between disk and buffer (O_DIRECT) unless the file lies in memory already. Where the platform or the file
system does not know how, files are read and written as ever. No torch here.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import mmap
import os
from collections.abc import Callable
from io import FileIO
from pathlib import Path

import numpy as np

from skippy.errors import CheckpointError

BLOCK_BYTES = 8 << 20
PAGE = 4096  # where blocks begin, on disk and in memory; some disks ask for less
O_DIRECT: int = getattr(os, "O_DIRECT", 0)


def new_buffer(size_bytes: int) -> np.ndarray:
    """Memory that begins with a page, for so many bytes and what lies around them in their pages: (n,) uint8."""
    return np.frombuffer(mmap.mmap(-1, size_bytes + 2 * PAGE), np.uint8)


def set_direct(stream: FileIO, on: bool) -> None:
    """Have a file pass by the page cache from now on, or not; where it cannot, nothing happens."""
    flags = fcntl.fcntl(stream, fcntl.F_GETFL)
    try:
        fcntl.fcntl(stream, fcntl.F_SETFL, flags | O_DIRECT if on else flags & ~O_DIRECT)
    except OSError:
        return


def is_direct(stream: FileIO) -> bool:
    """Whether a file passes by the page cache."""
    return bool(fcntl.fcntl(stream, fcntl.F_GETFL) & O_DIRECT)


class Reader:
    """A file that is read at any place.

    Args:
        file: which.
        keep: somebody else reads it soon: leave what is read in the page cache.
    """

    def __init__(self, file: Path, *, keep: bool = False) -> None:
        self.file = file
        self._stream: FileIO = file.open("rb", buffering=0)
        if not keep and not is_in_memory(self._stream):
            set_direct(self._stream, True)

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.close()

    def read(self, start: int, stop: int, what: str, buffer: np.ndarray) -> np.ndarray:
        """The bytes of `what` from `start` to `stop`: a part of `buffer`, which is a new one of as many or more.

        Raises:
            CheckpointError: the file ends before, or cannot be read.
        """
        lead = start % PAGE if is_direct(self._stream) else 0
        filled, wanted = 0, lead + stop - start
        room = buffer[: -(-wanted // PAGE) * PAGE] if is_direct(self._stream) else buffer[:wanted]
        while filled < wanted:
            try:
                self._stream.seek(start - lead + filled)
                count = self._stream.readinto(room[filled:].data)
            except OSError as error:
                if _refuses_direct(error, self._stream):
                    continue
                raise damaged(self.file, f"{stop - start} bytes of {what}", str(error)) from error
            if not count:
                raise damaged(self.file, f"{stop - start} bytes of {what}", "an earlier end of the file")
            filled += count
        if lead % 8:  # values of some type would not lie where the processor wants them
            buffer[: stop - start] = buffer[lead:wanted].copy()
            lead = 0
        return buffer[lead : lead + stop - start]


def write_all(out: FileIO, content: np.ndarray, name_at: Callable[[int], str]) -> None:
    """Write bytes to an unbuffered file, which may take less than it is given.

    Args:
        out: the file; what is no whole page goes through the page cache, and all that is written after it.
        content: (n,) uint8, in a buffer that begins with a page.
        name_at: what lies at a byte of it, for the message.

    Raises:
        CheckpointError: the disk is full, or refuses.
    """
    done = 0
    while done < len(content):
        pages = (len(content) - done) // PAGE * PAGE
        if not pages:
            set_direct(out, False)
        try:
            done += out.write(content[done : done + (pages or PAGE)].data)
        except OSError as error:
            if _refuses_direct(error, out):
                continue
            raise CheckpointError(
                "A weight cannot be written; nothing of the merge is kept.",
                where=f"{name_at(done)} into {out.name}",
                expected=f"room for {len(content) - done} more bytes",
                found=str(error),
                next_step="free some space, or choose a destination on another disk",
            ) from error


def is_in_memory(stream: FileIO) -> bool:
    """Whether most of a file lies in the page cache, or it is so small that it does not matter; see mincore(2)."""
    size = os.fstat(stream.fileno()).st_size
    if size <= BLOCK_BYTES or not O_DIRECT:
        return True
    seen = np.zeros(-(-size // mmap.PAGESIZE), np.uint8)
    try:
        content = np.frombuffer(mmap.mmap(stream.fileno(), size, prot=mmap.PROT_READ), np.uint8)
    except OSError:  # a file system that maps nothing
        return False
    places = (ctypes.c_void_p(each) for each in (content.ctypes.data, size, seen.ctypes.data))
    return not ctypes.CDLL(None).mincore(*places) and float((seen & 1).mean()) > 0.5


def damaged(file: Path, expected: str, found: str) -> CheckpointError:
    """Word the error of a file whose bytes are not what they should be."""
    return CheckpointError(
        "A weight file is damaged.",
        where=str(file),
        expected=expected,
        found=found,
        next_step="fetch the file again",
    )


def _refuses_direct(error: OSError, stream: FileIO) -> bool:
    """Whether it is only the way past the page cache that does not work; then the other way is taken from now on."""
    if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP) or not is_direct(stream):
        return False
    set_direct(stream, False)
    return True

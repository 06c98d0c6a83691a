"""How many threads torch works in."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def one_torch_thread() -> Iterator[None]:
    """Let torch work in the calling thread alone: others keep the other cores busy.

    Threads of torch's own meet after every operation. Where cores are short, each such meeting waits for the
    scheduler, thousands of times a gigabyte.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)

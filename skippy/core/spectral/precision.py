"""Matrix products in the full precision of float32.

TF32 keeps ten bits of mantissa: block Krylov stalls at a residual of 2e-4..6e-4 with it and never certifies,
and a projection leaves 1e-3 of what it should remove. A trainer may have switched TF32 or autocast on for the
model's sake, so the mathematics here switches both off for its own products and puts them back.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.backends import cuda, mkldnn


@contextmanager
def full_float32(device: torch.device) -> Iterator[None]:
    """Run float32 matmuls as float32: no TF32, no bf16 emulation, no autocast. Restores what was set.

    Departure from a pure function: torch keeps these settings per process, and another thread that multiplies
    meanwhile gets the higher precision too.
    """
    backends = (cuda.matmul, mkldnn.matmul)  # type: ignore[attr-defined]
    saved = [backend.fp32_precision for backend in backends]
    try:
        for backend in backends:
            backend.fp32_precision = "ieee"
        with torch.autocast(device_type=device.type, enabled=False):
            yield
    finally:
        for backend, precision in zip(backends, saved, strict=True):
            backend.fp32_precision = precision

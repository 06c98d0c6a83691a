"""Synthetic weights for benchmarks: a bulk with a heavy head, as trained layers have, and flat noise."""

from __future__ import annotations

import torch
from torch import Tensor

# (out, in) of the seven adapted weights of one Qwen3-VL-8B layer.
LAYER_8B = {
    "q_proj": (4096, 4096),
    "k_proj": (1024, 4096),
    "v_proj": (1024, 4096),
    "o_proj": (4096, 4096),
    "gate_proj": (12288, 4096),
    "up_proj": (12288, 4096),
    "down_proj": (4096, 12288),
}
LAYERS_8B = 36

# The same of the built-in lab model.
LAYER_LAB = {
    "q_proj": (192, 192),
    "k_proj": (64, 192),
    "v_proj": (64, 192),
    "o_proj": (192, 192),
    "gate_proj": (512, 192),
    "up_proj": (512, 192),
    "down_proj": (192, 512),
}
LAYERS_LAB = 4

HEAD = 64
HEAD_EXPONENT = 0.6
HEAD_OVER_BULK = 8.0


def scaled(shapes: dict[str, tuple[int, int]], divisor: int) -> dict[str, tuple[int, int]]:
    """The same shapes, every side divided."""
    return {name: (out // divisor, in_ // divisor) for name, (out, in_) in shapes.items()}


def flat_weight(out: int, in_: int, seed: int, device: str = "cpu") -> Tensor:
    """Gaussian noise in bfloat16: neighbouring singular values at the edge differ by about 1e-3."""
    generator = torch.Generator(device).manual_seed(seed)
    return torch.randn(out, in_, generator=generator, device=device).mul_(in_**-0.5).bfloat16()


def head_heavy_weight(out: int, in_: int, seed: int, device: str = "cpu") -> Tensor:
    """The same noise under 64 directions that decay as i^−0.6 from eight times its edge, in bfloat16."""
    generator = torch.Generator(device).manual_seed(seed)
    weight = torch.randn(out, in_, generator=generator, device=device).mul_(in_**-0.5)
    rank = min(HEAD, out, in_)
    left = torch.linalg.qr(torch.randn(out, rank, generator=generator, device=device)).Q
    right = torch.linalg.qr(torch.randn(in_, rank, generator=generator, device=device)).Q
    edge = 1 + (out / in_) ** 0.5
    head = HEAD_OVER_BULK * edge * torch.arange(1, rank + 1, device=device) ** -HEAD_EXPONENT
    return weight.addmm_(left * head, right.mT).bfloat16()


SPECTRA = {"head-heavy": head_heavy_weight, "flat": flat_weight}

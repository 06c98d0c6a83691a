"""Character deltas of a whole model against the obvious way: form B·A, take its full SVD, target by target.

    python -m benchmarks.bench_deltas            # 252 targets of Qwen3-VL-8B's shapes
    python -m benchmarks.bench_deltas --quick    # the same, every width an eighth
    python -m benchmarks.bench_deltas --device cuda

Ours is the whole measurement: energies, singular values, 200 random subspaces, every pooling. The obvious way
is timed on one target of each kind and multiplied by the layers; it yields the energies and singular values,
and gets its null for nothing.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch
from torch import Tensor

from skippy.core.character import measure_character
from skippy.core.deltas import side_of
from skippy.core.lora import LoraFactors
from skippy.core.personas import persona_subspace
from skippy.core.precision import full_float32
from skippy.core.reference import (
    CharacterReference,
    HookReference,
    MeasuredTarget,
    TraitReference,
    prepare_gauge,
)

LAYERS, RANK, PERSONAS, SKETCH_ROWS = 36, 16, 8, 128
SHAPES = {
    "q_proj": (4096, 4096),
    "k_proj": (1024, 4096),
    "v_proj": (1024, 4096),
    "o_proj": (4096, 4096),
    "gate_proj": (12288, 4096),
    "up_proj": (12288, 4096),
    "down_proj": (4096, 12288),
}
AGREEMENT = 1e-3
INPUTS = {
    "q_proj": "attention",
    "k_proj": "attention",
    "v_proj": "attention",
    "gate_proj": "mlp",
    "up_proj": "mlp",
}


def make_reference(shapes: dict[str, tuple[int, int]], layers: int) -> CharacterReference:
    """Random subspaces and sketches at 8B's hooks: 4 a layer."""
    width = shapes["q_proj"][1]
    generator = torch.Generator().manual_seed(0)

    def make_hook() -> HookReference:
        centroids = torch.randn(PERSONAS, width, generator=generator)
        sketch = torch.randn(SKETCH_ROWS, width, generator=generator)
        return HookReference(persona_subspace(centroids), sketch, 1.0, 1)

    targets, hooks = [], {}
    for layer in range(layers):
        for kind in shapes:
            hook = f"{layer}.{INPUTS.get(kind, kind)}"
            targets.append(MeasuredTarget(f"{layer}.{kind}", layer, kind, side_of(kind), hook))
            if hook not in hooks:
                hooks[hook] = make_hook()
    none = torch.zeros(1, 1, width)
    traits = TraitReference(("none",), ("0.attention",), none, (("", ""),), none, torch.ones(1))
    return CharacterReference("", "", layers, tuple(targets), hooks, traits)


def make_factors(
    reference: CharacterReference, shapes: dict[str, tuple[int, int]], device: str
) -> dict[str, LoraFactors]:
    """An adapter after some training: A and B are both full."""
    generator = torch.Generator().manual_seed(1)
    made = {}
    for target in reference.targets:
        out, in_ = shapes[target.kind]
        A = torch.randn(RANK, in_, generator=generator) / in_**0.5
        B = torch.randn(out, RANK, generator=generator) * 1e-3
        made[target.name] = LoraFactors(A.to(device), B.to(device), 2.0)
    return made


def measure_obviously(factors: LoraFactors, P: Tensor, side: str) -> tuple[float, Tensor]:
    """ΔW formed, decomposed whole, and projected: energy ratio and the character matrix's singular values."""
    with full_float32(P.device):
        delta = factors.scale * factors.B @ factors.A
        U, S, Vh = torch.linalg.svd(delta, full_matrices=False)
        seen = (P @ U) * S if side == "writes" else S[:, None] * (Vh @ P.T)
    return float(seen.square().sum() / S.square().sum()), torch.linalg.svdvals(seen)


def best_seconds(run: Callable[[], object], repeats: int, device: str) -> float:
    """Least of several times, waiting for the device."""
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        run()
        if device != "cpu":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - started)
    return min(times)


def main() -> None:
    """Print both times, their ratio, and how far the two agree."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="every width an eighth of 8B's")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    arguments = parser.parse_args()
    divisor = 8 if arguments.quick else 1
    shapes = {kind: (out // divisor, in_ // divisor) for kind, (out, in_) in SHAPES.items()}
    reference = make_reference(shapes, LAYERS)
    factors = make_factors(reference, shapes, arguments.device)

    started = time.perf_counter()
    gauge = prepare_gauge(reference, device=arguments.device)
    prepared = time.perf_counter() - started
    measured = measure_character(factors, gauge)
    ours = best_seconds(lambda: measure_character(factors, gauge), 3, arguments.device)

    obvious, worst = 0.0, 0.0
    for row in measured.rows[: len(shapes)]:
        hook = next(target.hook for target in reference.targets if target.name == row.target)
        P = gauge.hooks[hook].P.float()
        started = time.perf_counter()
        ratio, singular = measure_obviously(factors[row.target], P, row.side)
        obvious += LAYERS * (time.perf_counter() - started)
        largest = row.singular_values[0]
        error = abs(float(singular[0]) - largest) / largest
        worst = max(worst, error, abs(ratio - row.ratio) / row.ratio)

    name = "Qwen3-VL-8B" if divisor == 1 else f"Qwen3-VL-8B / {divisor}"
    print(f"deltas, {len(factors)} targets of {name}, {arguments.device}, {torch.get_num_threads()} threads")
    print(f"  null prepared once     {prepared:8.2f} s")
    print(f"  ours, with the null    {ours:8.3f} s   z {measured.pooled.z:+.2f} for a random adapter")
    print(f"  B·A and full SVD       {obvious:8.1f} s   ({LAYERS} × one layer)")
    print(f"  ratio                  {obvious / ours:8.0f} ×")
    print(f"  largest disagreement   {worst:8.1e}   (the obvious way is float32)")
    if worst > AGREEMENT:
        raise SystemExit("the two ways disagree")


if __name__ == "__main__":
    main()

"""Cost of the constraint and of measuring it: `python -m benchmarks.bench_constraint`.

Projection of all factors, beside the obvious loop over targets, and leakage of all targets, beside forming ΔW.
The targets are those of the lab's four layers and of Qwen3-VL-8B's 36; `--quick` keeps four of these.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from rich.console import Console
from rich.table import Table
from torch import nn

from benchmarks.spectra import LAYER_8B, LAYER_LAB, LAYERS_8B, LAYERS_LAB
from skippy.core.spectral.constraints import ConstrainedTarget, OrthogonalConstraint, pooled_leakage

RANK = 16
K = 16


def draw_targets(
    shapes: dict[str, tuple[int, int]], layers: int, device: str
) -> dict[str, ConstrainedTarget]:
    """Random factors and bases for every target of every layer."""
    generator = torch.Generator(device).manual_seed(0)

    def draw(*size: int) -> torch.Tensor:
        return torch.randn(*size, generator=generator, device=device)

    return {
        f"layers.{layer}.{name}": ConstrainedTarget(
            nn.Parameter(draw(RANK, in_)),
            nn.Parameter(draw(out, RANK)),
            torch.linalg.qr(draw(out, K)).Q,
            torch.linalg.qr(draw(in_, K)).Q,
        )
        for layer in range(layers)
        for name, (out, in_) in shapes.items()
    }


@torch.no_grad()
def project_one_by_one(targets: dict[str, ConstrainedTarget]) -> None:
    """The obvious way, applied twice as ours is: a handful of small kernels for every factor."""
    for target in targets.values():
        for _ in range(2):
            target.A.sub_(target.A @ target.V @ target.V.mT)
            target.B.sub_(target.U @ (target.U.mT @ target.B))


@torch.no_grad()
def leakage_of_dense_deltas(targets: dict[str, ConstrainedTarget]) -> tuple[float, float]:
    """The obvious way: form every ΔW and project it."""
    left = right = whole = 0.0
    for target in targets.values():
        delta = target.B @ target.A
        left += float((target.U.mT @ delta).square().sum())
        right += float((delta @ target.V).square().sum())
        whole += float(delta.square().sum())
    return left / whole, right / whole


def milliseconds(work: Callable[[], object], repeats: int, device: str) -> float:
    """Median wall-clock time of a call after one to warm up, waiting for the device."""
    times = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        work()
        if device != "cpu":
            torch.cuda.synchronize()
        times.append(1e3 * (time.perf_counter() - start))
    return statistics.median(times[1:])


def bench_model(
    label: str, shapes: dict[str, tuple[int, int]], layers: int, repeats: int, device: str, table: Table
) -> None:
    """Two rows: projection and leakage of one model's targets. Dense ΔW: one layer, times their number."""
    targets = draw_targets(shapes, layers, device)
    one_layer = dict(list(targets.items())[: len(shapes)])
    rule = OrthogonalConstraint(targets)
    items = [(t.A, t.B, t.U, t.V) for t in targets.values()]
    label = f"{len(targets)} {label}"
    one_by_one = milliseconds(lambda: project_one_by_one(targets), repeats, device)
    ours = milliseconds(rule.project_parameters_, repeats, device)
    table.add_row(label, "projection of A and B", *_figures(ours, one_by_one))
    dense = layers * milliseconds(lambda: leakage_of_dense_deltas(one_layer), 1, device)
    gram = milliseconds(lambda: pooled_leakage(items), repeats, device)
    table.add_row(label, "leakage, both sides", *_figures(gram, dense))


def _figures(ours: float, theirs: float) -> tuple[str, str, str]:
    return f"{ours:.1f}", f"{theirs:.1f}", f"{theirs / ours:.2f}×"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="four layers of the 8B shapes instead of 36")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    table = Table(title=f"constraint, r = {RANK}, k = {K}, {options.device}")
    for column in ("targets", "work", "ours ms", "obvious ms", "ratio"):
        table.add_column(column, justify="left" if column in ("targets", "work") else "right")
    layers = LAYERS_LAB if options.quick else LAYERS_8B
    bench_model("lab", LAYER_LAB, LAYERS_LAB, 50, options.device, table)
    bench_model("8B", LAYER_8B, layers, 5, options.device, table)
    Console(width=100).print(table)


if __name__ == "__main__":
    main()

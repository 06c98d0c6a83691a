"""Certified top-k subspaces against `torch.linalg.svd`, in one process: `python -m benchmarks.bench_subspace`.

The full size is the seven weights of one Qwen3-VL-8B layer in bfloat16; `--quick` divides every side by four.
Ours is the median of three runs, the stock way, which takes a minute, one. On a GPU, `--device cuda --layers 36`
batches the equal shapes of all layers. On a CPU, the products that the iteration is made of come first.
"""

from __future__ import annotations

import argparse
import time
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from statistics import median
from typing import TypeVar

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from benchmarks.spectra import LAYER_8B, SPECTRA, scaled
from skippy.core.spectral.products import thin_product
from skippy.core.spectral.subspaces import (
    SingularSubspace,
    seed_of,
    top_singular_subspace,
    top_singular_subspaces,
)

QUICK_DIVISOR = 4
REPEATS = 3
PRODUCT_REPEATS = 15
PRODUCT_COLUMNS = (16, 32, 64)
TABLE_WIDTH = 120
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
CLOCK = CLOCKS["wall"]
Result = TypeVar("Result")


def seconds_of(work: Callable[[], Result], device: str) -> tuple[float, Result]:
    """Time of one call, waiting for the device."""
    if device != "cpu":
        torch.cuda.synchronize()
    start = CLOCK()
    result = work()
    if device != "cpu":
        torch.cuda.synchronize()
    return CLOCK() - start, result


def full_svd(weight: Tensor) -> object:
    """The stock way: the thin SVD in float32, of which k triples are then kept."""
    return torch.linalg.svd(weight.float(), full_matrices=False)


def bench_layer(spectrum: str, shapes: dict[str, tuple[int, int]], k: int, device: str, stock: bool) -> Table:
    """One layer, target by target, each beside the full SVD of the same weight."""
    table = Table(title=f"one layer, {spectrum}, k = {k}, {device}")
    for column in ("target", "shape", "ours s", "stock s", "ratio", "method", "residual", "gap", "σ₁/σ_k"):
        table.add_column(column, justify="left" if column in ("target", "method") else "right")
    ours_total = stock_total = 0.0
    stock_seconds: dict[tuple[int, int], float] = {}
    for index, (name, shape) in enumerate(shapes.items()):
        weight = SPECTRA[spectrum](*shape, index, device)
        work = partial(top_singular_subspace, weight, k, seed=seed_of(name), name=name)
        runs = [seconds_of(work, device) for _ in range(REPEATS)]
        ours, found = median(seconds for seconds, _ in runs), runs[0][1]
        if stock and shape not in stock_seconds:
            stock_seconds[shape], _ = seconds_of(partial(full_svd, weight), device)
        theirs = stock_seconds.get(shape, float("nan"))
        ours_total, stock_total = ours_total + ours, stock_total + theirs
        table.add_row(name, f"{shape[0]}×{shape[1]}", *_figures(ours, theirs), *_certificate(found))
    table.add_row("layer", "", *_figures(ours_total, stock_total), style="bold")
    return table


def bench_stacks(
    spectrum: str, shapes: dict[str, tuple[int, int]], layers: int, k: int, device: str
) -> Table:
    """All layers, the equal shapes of all of them in one stack, beside one full SVD a shape times its count."""
    table = Table(title=f"{layers} layers batched, {spectrum}, k = {k}, {device}")
    for column in (
        "shape",
        "targets",
        "ours s",
        "stock s",
        "ratio",
        "methods",
        "worst residual",
        "least gap",
    ):
        table.add_column(column, justify="right")
    names_of: dict[tuple[int, int], list[str]] = defaultdict(list)
    for layer in range(layers):
        for name, shape in shapes.items():
            names_of[shape].append(f"layers.{layer}.{name}")
    ours_total = stock_total = 0.0
    for (out, in_), names in names_of.items():
        stack = torch.stack([SPECTRA[spectrum](out, in_, seed_of(name), device) for name in names])
        seeds = [seed_of(name) for name in names]
        work = partial(top_singular_subspaces, stack, k, seeds=seeds, names=names)
        ours, results = seconds_of(work, device)
        one, _ = seconds_of(partial(full_svd, stack[0]), device)
        ours_total, stock_total = ours_total + ours, stock_total + one * len(names)
        table.add_row(f"{out}×{in_}", str(len(names)), *_figures(ours, one * len(names)), *_worst(results))
    table.add_row("all", "", *_figures(ours_total, stock_total), style="bold")
    return table


def bench_products(out: int, in_: int) -> Table:
    """A float32 weight times a few columns, and its transpose times a few: ours in turn with `torch.matmul`."""
    table = Table(title=f"products with a {out}×{in_} weight in float32, median of {PRODUCT_REPEATS}")
    for column in ("product", "columns", "ours ms", "matmul ms", "ratio"):
        table.add_column(column, justify="right")
    weight = torch.randn(1, out, in_)
    for name, matrix in (("W X", weight), ("WᵀY", weight.mT)):
        for columns in PRODUCT_COLUMNS:
            block = torch.randn(1, matrix.shape[2], columns)
            turns = [
                (
                    seconds_of(partial(thin_product, matrix, block), "cpu")[0],
                    seconds_of(partial(torch.matmul, matrix, block), "cpu")[0],
                )
                for _ in range(PRODUCT_REPEATS)
            ]
            ours, theirs = (1e3 * median(seconds) for seconds in zip(*turns, strict=True))
            table.add_row(name, str(columns), f"{ours:.1f}", f"{theirs:.1f}", f"{theirs / ours:.1f}×")
    return table


def _figures(ours: float, theirs: float) -> tuple[str, str, str]:
    return f"{ours:.2f}", f"{theirs:.2f}", f"{theirs / ours:.1f}×"


def _certificate(found: SingularSubspace) -> tuple[str, ...]:
    spread = float(found.S[0] / found.S[-1])
    return found.method, f"{found.residual:.1e}", f"{found.gap:.4f}", f"{spread:.1f}"


def _worst(results: list[SingularSubspace]) -> tuple[str, str, str]:
    methods = ", ".join(sorted({found.method for found in results}))
    residual = max(found.residual for found in results)
    return methods, f"{residual:.1e}", f"{min(found.gap for found in results):.4f}"


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a sixteenth of the entries")
    parser.add_argument("--k", type=int, default=16)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--layers", type=int, default=0, help="batch the equal shapes of this many layers")
    parser.add_argument("--spectra", nargs="*", default=list(SPECTRA), choices=list(SPECTRA))
    parser.add_argument("--no-stock", action="store_true", help="leave the full SVDs out")
    parser.add_argument(
        "--clock", choices=list(CLOCKS), default="wall", help="cpu: on a machine with other work"
    )
    options = parser.parse_args()
    global CLOCK
    CLOCK = CLOCKS[options.clock]
    torch.set_num_threads(options.threads)
    shapes = scaled(LAYER_8B, QUICK_DIVISOR) if options.quick else LAYER_8B
    top_singular_subspace(torch.randn(400, 300, device=options.device), 4)
    console = Console(width=TABLE_WIDTH)
    if options.device == "cpu":
        console.print(bench_products(*shapes["gate_proj"]))
    for spectrum in options.spectra:
        if options.layers:
            console.print(bench_stacks(spectrum, shapes, options.layers, options.k, options.device))
        else:
            console.print(bench_layer(spectrum, shapes, options.k, options.device, not options.no_stock))


if __name__ == "__main__":
    main()

"""`make bench`: every figure that the docs claim, one table after the other, each in a process of its own.

Where there is a GPU, its rows follow those of the CPU.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

import torch

ON_A_GPU = (
    ("bench_subspace", "--layers", "36"),
    ("bench_checkpoint",),
    ("bench_constraint",),
    ("bench_deltas",),
    ("bench_training", "--shapes", "8b"),
    ("bench_generation",),
    ("bench_steering",),
    ("bench_rollout",),
    ("bench_masks",),
    ("bench_engine",),
)


def plan(devices: list[str], *, is_quick: bool) -> list[list[str]]:
    """Module and arguments of every table: all `bench_*.py` beside this file, and those that have GPU rows."""
    here = [path.stem for path in sorted(Path(__file__).parent.glob("bench_*.py"))]
    tables = [[name] for name in here] if "cpu" in devices else []
    tables += [[*table, "--device", "cuda"] for table in ON_A_GPU if "cuda" in devices]
    return [[*table, *(["--quick"] if is_quick else [])] for table in tables]


def main() -> None:
    """Run them one after the other; fail at the end if one did."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="scaled-down shapes, for a look")
    parser.add_argument("--device", choices=("cpu", "cuda"), help="only the rows of this one")
    arguments = parser.parse_args()
    found = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    failed = []
    for name, *options in plan([arguments.device] if arguments.device else found, is_quick=arguments.quick):
        title = " ".join([name, *options])
        print(f"\n── {title}", flush=True)
        if subprocess.run([sys.executable, "-m", f"benchmarks.{name}", *options], check=False).returncode:
            failed.append(title)
    if "cuda" not in found:
        print("\nno GPU here: the GPU rows of docs/scale.md are printed on a machine that has one")
    if failed:
        sys.exit("failed: " + ", ".join(failed))


if __name__ == "__main__":
    main()

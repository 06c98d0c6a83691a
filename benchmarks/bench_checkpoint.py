"""From a checkpoint on disk to certified projectors on disk, beside only reading the same files.

    python -m benchmarks.bench_checkpoint --quick                    # every width an eighth, four layers, CPU
    python -m benchmarks.bench_checkpoint --device cuda              # 17 GB of Qwen3-VL-8B's shapes
    python -m benchmarks.bench_checkpoint --device cuda --keep DIR   # leaves the checkpoint in DIR

One process. The files are dropped from the page cache before every measurement. Ours is the whole svd stage:
digest, subspaces, certificates, tables, figures, the run. Reading alone is timed with one thread and with as many
as the stage uses; the ratio is to the faster of the two.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

from benchmarks.synthetic import write_checkpoint_8b
from skippy.config import SvdConfig
from skippy.stages import svd
from skippy.stores.checkpoints import DIGEST_THREADS, Checkpoint
from skippy.tracking.store import open_tracker

CHUNK_BYTES = 16 << 20
LIMIT = 1.5


def drop_from_cache(checkpoint: Checkpoint) -> None:
    """Let the kernel forget the files' pages."""
    os.sync()
    for file in checkpoint.files:
        with file.open("rb") as stream:
            os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def read_spans(checkpoint: Checkpoint, threads: int) -> None:
    """Every byte of every file, and nothing done with it."""
    spans = [
        (file, start) for file in checkpoint.files for start in range(0, file.stat().st_size, CHUNK_BYTES)
    ]

    def read(span: tuple[Path, int]) -> int:
        file, start = span
        with file.open("rb", buffering=0) as stream:
            stream.seek(start)
            return stream.readinto(bytearray(CHUNK_BYTES)) or 0

    with ThreadPoolExecutor(threads) as pool:
        assert sum(pool.map(read, spans)) == checkpoint.nbytes


def seconds_of(work: Callable[[], object]) -> float:
    """Wall-clock time of one call."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="every width an eighth, four layers")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--keep", type=Path, help="write the checkpoint here and leave it; made only once")
    arguments = parser.parse_args()
    if arguments.device == "cpu" and not arguments.quick:
        print("17 GB take an hour on a CPU: pass --quick, or --device cuda")
        return
    size = {"divisor": 8, "layers": 4} if arguments.quick else {}
    with tempfile.TemporaryDirectory() as scratch:
        folder = arguments.keep or Path(scratch) / "checkpoint"
        if not (folder / "config.json").is_file():
            made = seconds_of(lambda: write_checkpoint_8b(folder, device=arguments.device, **size))
            print(f"checkpoint written in {made:.1f} s", flush=True)
        checkpoint = Checkpoint.open(folder)
        os.environ["MLFLOW_TRACKING_URI"] = ""
        tracker = open_tracker(Path(scratch))
        if arguments.device != "cpu":
            torch.linalg.cholesky(torch.eye(64, device=arguments.device))
        rows = {}
        for threads in (1, DIGEST_THREADS):
            drop_from_cache(checkpoint)
            rows[f"only reading, {threads} threads"] = seconds_of(lambda n=threads: read_spans(checkpoint, n))
        drop_from_cache(checkpoint)
        rows["digest alone"] = seconds_of(checkpoint.digest)
        config = SvdConfig(base_model=str(folder), device=arguments.device)
        drop_from_cache(checkpoint)
        rows["svd stage, whole"] = seconds_of(lambda: svd.run(config, tracker))
        gigabytes = checkpoint.nbytes / 1e9
    best = min(value for label, value in rows.items() if label.startswith("only"))
    print(f"{gigabytes:.2f} GB, {len(checkpoint.tensors)} tensors, {arguments.device}")
    for label, value in rows.items():
        print(f"{label:<28}{value:>8.1f} s{gigabytes / value:>8.2f} GB/s{value / best:>8.2f}×")
    print(f"wanted: at most {LIMIT}× on a GPU")


if __name__ == "__main__":
    main()

"""Merging an adapter into a checkpoint, beside stock PEFT and beside copying the same files.

    python -m benchmarks.bench_merge            # 4.3 GB: eight layers of Qwen3-8B's shapes, tied embeddings
    python -m benchmarks.bench_merge --quick    # every width an eighth, four layers
    python -m benchmarks.bench_merge --rounds 3 # each contender that often, in turn; the best counts

Each contender runs in a process of its own, with the base dropped from the page cache and nothing waiting to be
written; its clock starts after the imports. Ours writes digests of every tensor and file, the account of what
rounding took, and checks rows against PEFT: all of it is in the time. Stock PEFT loads the base in bfloat16, merges
and saves; its tensors are compared with ours bit by bit.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from peft import PeftModel
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, Qwen3Config

from benchmarks.adapter_files import write_adapter
from benchmarks.bench_checkpoint import drop_from_cache
from benchmarks.spectra import LAYER_8B, scaled
from skippy.core.spectral.lora import LoraFactors
from skippy.core.target import PROJECTIONS
from skippy.stores.checkpoints import INDEX_FILE, Checkpoint
from skippy.stores.merging import merge_checkpoint

VOCABULARY, LAYERS, SHARDS, RANK = 151_936, 8, 5, 16
CONTENDERS = ("cp", "PEFT", "ours")
MEMORY_FACTOR, MEMORY_ROOM_MB = 2.5, 300.0
POOL = (1 << 24) - 3  # odd, so that no two rows are alike


def write_base(folder: Path, divisor: int, layers: int) -> None:
    """A Qwen3 checkpoint with random bfloat16 weights, in shards, and an adapter on all its targets beside it."""
    shapes = scaled(LAYER_8B, divisor)
    width, vocabulary = shapes["q_proj"][1], VOCABULARY // divisor
    config = Qwen3Config(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=shapes["gate_proj"][0],
        num_hidden_layers=layers,
        num_attention_heads=32,
        num_key_value_heads=8,
        head_dim=128 // divisor,
        tie_word_embeddings=True,
        dtype="bfloat16",
        architectures=["Qwen3ForCausalLM"],
    )
    config.save_pretrained(folder / "base")
    sizes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (vocabulary, width),
        "model.norm.weight": (width,),
    }
    factors = {}
    for layer in range(layers):
        prefix = f"model.layers.{layer}"
        sizes |= {f"{prefix}.{norm}_layernorm.weight": (width,) for norm in ("input", "post_attention")}
        sizes |= {f"{prefix}.self_attn.{norm}_norm.weight": (128 // divisor,) for norm in "qk"}
        for kind, block in PROJECTIONS.items():
            name, (out, in_) = f"{prefix}.{block}.{kind}", shapes[kind]
            sizes[f"{name}.weight"] = (out, in_)
            factors[name] = LoraFactors(torch.randn(RANK, in_) * 0.02, torch.randn(out, RANK) * 0.02, 2.0)
    names, listed = list(sizes), {}
    pool = torch.randn(POOL).mul_(0.02).bfloat16()
    for shard in range(SHARDS):
        file = f"model-{shard + 1:05d}-of-{SHARDS:05d}.safetensors"
        tensors = {name: _weights(pool, sizes[name]) for name in names[shard::SHARDS]}
        save_file(tensors, folder / "base" / file, metadata={"format": "pt"})
        listed |= dict.fromkeys(tensors, file)
    (folder / "base" / INDEX_FILE).write_text(json.dumps({"metadata": {}, "weight_map": listed}))
    write_adapter(folder / "adapter", factors)


def _weights(pool: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
    """A weight of values from `pool`, again and again: drawing billions would take longer than merging them."""
    count = math.prod(shape)
    return pool.repeat(-(-count // len(pool)))[:count].reshape(shape)


def merge_ours(folder: Path) -> None:
    """This package's way."""
    merge_checkpoint(Checkpoint.open(folder / "base"), folder / "adapter", folder / "ours")


def merge_with_peft(folder: Path) -> None:
    """The stock way."""
    model = AutoModelForCausalLM.from_pretrained(folder / "base", dtype=torch.bfloat16)
    merged = PeftModel.from_pretrained(model, folder / "adapter").merge_and_unload()
    merged.save_pretrained(folder / "PEFT", max_shard_size="1GB")


def copy(folder: Path) -> None:
    """What no merge can beat by much."""
    subprocess.run(["cp", "-r", str(folder / "base"), str(folder / "cp")], check=True)


WORK = {"cp": copy, "PEFT": merge_with_peft, "ours": merge_ours}


def run_one(contender: str, folder: Path) -> None:
    """In a process of its own: do it, and print seconds, processor seconds, peak memory and page faults."""
    started_mb, before, started, busy = _peak_mb(), _usage(), time.perf_counter(), _busy_seconds()
    WORK[contender](folder)
    after = _usage()
    figures = {
        "seconds": time.perf_counter() - started,
        "processor": _busy_seconds() - busy,
        "peak_mb": _peak_mb(),
        "started_mb": started_mb,
        "faults": after.ru_minflt - before.ru_minflt,
    }
    print(json.dumps(figures))


def _peak_mb() -> float:
    """Of this program alone: `ru_maxrss` begins with what the process that started it held."""
    (line,) = (
        line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")
    )
    return int(line.split()[1]) / 1024


def _usage() -> resource.struct_rusage:
    return resource.getrusage(resource.RUSAGE_SELF)


def _busy_seconds() -> float:
    both = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in both)


def measure(contender: str, folder: Path) -> dict[str, float]:
    """One contender, from a cold base and a quiet disk."""
    shutil.rmtree(folder / contender, ignore_errors=True)
    os.sync()
    drop_from_cache(Checkpoint.open(folder / "base"))
    command = [sys.executable, "-m", "benchmarks.bench_merge", "--one", contender, "--folder", str(folder)]
    ended = subprocess.run(command, check=True, capture_output=True, text=True)
    figures: dict[str, float] = json.loads(ended.stdout.splitlines()[-1])
    return figures


def count_unequal(folder: Path) -> tuple[int, int]:
    """Tensors of ours that are not PEFT's to the bit, and how many there are."""
    ours, peft = Checkpoint.open(folder / "ours"), Checkpoint.open(folder / "PEFT")
    unequal = sum(not torch.equal(ours.read(key), peft.read(key)) for key in ours.tensors)
    return unequal, len(ours.tensors)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="every width an eighth, four layers")
    parser.add_argument("--rounds", type=int, default=1, help="how often each contender runs")
    parser.add_argument("--keep", type=Path, help="write the base here and leave it; made only once")
    parser.add_argument("--one", choices=CONTENDERS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        run_one(arguments.one, arguments.folder)
        return
    with tempfile.TemporaryDirectory() as scratch:
        folder = arguments.keep or Path(scratch)
        if not (folder / "adapter").is_dir():
            write_base(folder, *((8, 4) if arguments.quick else (1, LAYERS)))
        rounds = [{name: measure(name, folder) for name in CONTENDERS} for _ in range(arguments.rounds)]
        unequal, count = count_unequal(folder)
        base = Checkpoint.open(folder / "base")
        largest = max(
            info.nbytes // info.dtype.itemsize for key, info in base.tensors.items() if "_proj" in key
        )
        gigabytes = base.nbytes / 1e9
        for name in CONTENDERS:
            shutil.rmtree(folder / name)
    best = {name: min((each[name] for each in rounds), key=lambda row: row["seconds"]) for name in CONTENDERS}
    print(f"{gigabytes:.2f} GB in {SHARDS} files, LoRA of rank {RANK} on every target")
    print(f"{'':<8}{'seconds':>9}{'processor':>11}{'peak MB':>9}{'faults':>12}{'to cp':>8}{'to PEFT':>9}")
    for name, row in best.items():
        print(
            f"{name:<8}{row['seconds']:>9.1f}{row['processor']:>11.1f}{row['peak_mb']:>9.0f}{row['faults']:>12.0f}"
            f"{row['seconds'] / best['cp']['seconds']:>8.2f}{row['seconds'] / best['PEFT']['seconds']:>9.2f}"
        )
    bound = MEMORY_FACTOR * largest * 4 / 2**20 + MEMORY_ROOM_MB
    grown = best["ours"]["peak_mb"] - best["ours"]["started_mb"]
    print(f"ours grew by {grown:.0f} MB over its imports; wanted: a peak of at most {bound:.0f} MB")
    print(f"tensors that are not PEFT's to the bit: {unequal} of {count}")
    print("wanted where nothing else runs: at most 1.5 × cp, never above PEFT")


if __name__ == "__main__":
    main()

"""How long a person waits in the terminal: help, TAB, refusals, and a stage that finds its work done.

Every row is a process of its own, the best of a few, in seconds by the clock and of processor time (on a busy machine
only the second means something); beside it stands its share of what `import mlflow` alone takes here.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).parent.parent
SKIPPY = (sys.executable, "-m", "entrypoints")
TAB = {"_SKIPPY_COMPLETE": "bash_complete", "COMP_WORDS": "skippy train --variant v", "COMP_CWORD": "3"}
NOTHING: Mapping[str, str] = {}
ROWS: Sequence[tuple[str, Sequence[str], Mapping[str, str], float]] = (
    ("skippy --help", ("--help",), NOTHING, 0.3),
    ("TAB", (), TAB, 0.3),
    ("a bad parameter", ("svd", "--tolerance", "abc"), NOTHING, 0.5),
    ("a missing file", ("eval", "--problems", "nowhere.jsonl"), NOTHING, 1.0),
    ("a missing base", ("svd", "--base-model", "./nowhere"), NOTHING, 1.0),
)
"""What is measured, its words, its environment, and the bound in seconds."""
DONE = (
    ("svd again", ("svd",), 3.0),
    ("subspace again", ("subspace", "--prompts", "4"), 3.0),
    ("train again", ("train", "--variant", "v3", "--steps", "2", "--reuse", "true"), 3.0),
    ("train v5 again", ("train", "--variant", "v5", "--reuse", "true"), 3.0),
    ("merge again", ("merge", "--variant", "v3", "--reuse", "true"), 3.0),
    ("eval again", ("eval", "--suite", "aime", "--limit", "2", "--reuse", "true"), 3.0),
)
"""Stages whose work the store holds already, after they ran once."""


def seconds(command: Sequence[str], environment: Mapping[str, str], repeats: int) -> tuple[float, float]:
    """Wall clock and processor time of the fastest of so many runs of a command; what it prints is dropped."""
    times = []
    for _ in range(repeats):
        started, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(
            command,
            cwd=ROOT,
            env={**os.environ, **environment},
            capture_output=True,
            check=False,
            timeout=600,
        )
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        processor = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        times.append((time.perf_counter() - started, processor))
    return min(times)


def main() -> None:
    """Print one row a wait."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="once each, and no stage")
    arguments = parser.parse_args()
    repeats = 1 if arguments.quick else 3
    with tempfile.TemporaryDirectory() as scratch:
        store = {"MLFLOW_TRACKING_URI": f"sqlite:///{scratch}/mlflow.db"}
        _, stock = seconds((sys.executable, "-c", "import mlflow"), {}, repeats)
        print(f"{'wait for':<18}{'seconds':>9}{'processor':>11}{'bound':>7}{'of import mlflow':>18}")
        rows = [(name, (*SKIPPY, *words), {**store, **more}, bound) for name, words, more, bound in ROWS]
        if not arguments.quick:
            for _, words, _bound in DONE:
                subprocess.run((*SKIPPY, *words), cwd=ROOT, env={**os.environ, **store}, check=True)
            rows += [(name, (*SKIPPY, *words), store, bound) for name, words, bound in DONE]
        for name, command, environment, bound in rows:
            took, processor = seconds(command, environment, repeats)
            print(f"{name:<18}{took:>9.2f}{processor:>11.2f}{bound:>7.1f}{processor / stock:>18.0%}")


if __name__ == "__main__":
    main()

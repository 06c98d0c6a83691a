"""`make bench`: every figure that the docs claim, one table after the other, each in a process of its own."""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path


def main() -> None:
    """Run every `bench_*.py` beside this file; fail at the end if one did."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="scaled-down shapes, for a look")
    arguments = parser.parse_args()
    failed = []
    for path in sorted(Path(__file__).parent.glob("bench_*.py")):
        print(f"\n── {path.stem}", flush=True)
        command = [sys.executable, "-m", f"benchmarks.{path.stem}", *(["--quick"] if arguments.quick else [])]
        if subprocess.run(command, check=False).returncode:
            failed.append(path.stem)
    if failed:
        sys.exit("failed: " + ", ".join(failed))


if __name__ == "__main__":
    main()

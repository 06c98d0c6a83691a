"""How long a person waits for the champion: from `skippy serve` to the first token.

Every row is the lab on the CPU, in processes of its own. The wait is measured from the start of the process to the
first piece of text. Beside it stand the processor time of all that ran (on a busy machine only this means something)
and its ratio to what importing torch, transformers and mlflow alone takes here.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

ROOT = Path(__file__).parent.parent
BOUND_SECONDS = 15.0
QUESTION = {"messages": [{"role": "user", "content": "How are you today?"}], "stream": True, "seed": 1}
POLL_SECONDS = 0.05
PATIENCE_SECONDS = 300.0


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def first_token(port: int, model: str) -> float:
    """Seconds from a request to its first text; `inf` where the server does not answer yet."""
    body = json.dumps({"model": model, **QUESTION}).encode()
    asked = urllib.request.Request(f"http://127.0.0.1:{port}/v1/chat/completions", body)
    started = time.perf_counter()
    try:
        with urllib.request.urlopen(asked, timeout=60) as answer:
            for line in answer:
                if line.startswith(b"data: {") and json.loads(line[6:])["choices"][0]["delta"].get("content"):
                    return time.perf_counter() - started
    except OSError:
        pass
    return float("inf")


def serve(arms: str, scratch: str, repeats: int) -> tuple[float, float, float]:
    """Seconds from start to first token, the best of a few later first tokens, and processor time of it all."""
    before = processor_seconds()
    port, store = free_port(), f"sqlite:///{scratch}/mlflow.db"
    words = [sys.executable, "-m", "entrypoints.serve", "--arms", arms, "--port", str(port)]
    environment = {**os.environ, "MLFLOW_TRACKING_URI": store}
    started = time.perf_counter()
    process = subprocess.Popen(words, cwd=ROOT, env=environment, stderr=subprocess.DEVNULL)
    try:
        while first_token(port, "base") == float("inf"):
            if process.poll() is not None or time.perf_counter() - started > PATIENCE_SECONDS:
                sys.exit("serve did not come up")
            time.sleep(POLL_SECONDS)
        waited = time.perf_counter() - started
        later = min(first_token(port, "base") for _ in range(repeats))
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(60)
    return waited, later, processor_seconds() - before


def processor_seconds() -> float:
    """Processor time of the children that have ended, and of theirs."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main() -> None:
    """Print the wait."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one start")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        store = {**os.environ, "MLFLOW_TRACKING_URI": f"sqlite:///{scratch}/mlflow.db"}
        # The store is made once, as `make demo` did for whoever serves a champion.
        subprocess.run([sys.executable, "-m", "skippy.tracking.store"], cwd=ROOT, env=store, check=True)
        before = processor_seconds()
        subprocess.run([sys.executable, "-c", "import mlflow, torch, transformers"], check=True)
        imports = processor_seconds() - before
        print(f"{'lab on the CPU':<34}{'seconds':>9}{'processor':>11}{'bound':>7}{'of the imports':>16}")
        starts = [serve("base", scratch, 5) for _ in range(1 if arguments.quick else 3)]
        waited, later, processor = (min(values) for values in zip(*starts, strict=True))
        print(
            f"{'from serve to the first token':<34}{waited:>9.1f}{processor:>11.1f}{BOUND_SECONDS:>7.0f}"
            f"{processor / imports:>16.1f}"
        )
        print(f"{'first token of a later request':<34}{later:>9.3f}")


if __name__ == "__main__":
    main()

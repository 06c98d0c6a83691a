"""V4's training step against V3's, on the lab, in one process, step by step in turn.

    python -m benchmarks.bench_training            # 60 pairs of steps with the lab preset
    python -m benchmarks.bench_training --quick    # 8 pairs

Both trainers live in threads of which one runs at a time; who goes first changes from pair to pair. All
completions have the full length, so that both do the same work. Processor time is what counts on a machine
that has other work too; wall time stands beside it.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import TrainerCallback

from skippy.characters.loader import load_character
from skippy.core import rewards
from skippy.core.subspace import seed_of, top_singular_subspace
from skippy.lab.paths import LAB_CHECKPOINT
from skippy.models.targets import Target, find_targets
from skippy.stores.checkpoints import Checkpoint
from skippy.training.plan import PRESETS, TrainRequest
from skippy.training.setup import BuiltRun, build_run

K = 16
LIMIT = 1.05
WARM_UP = 2
DIGEST = "0" * 64


class Turns:
    """Hands the processor from one trainer to the other: a b, b a, a b, …"""

    def __init__(self, first: str, second: str) -> None:
        self.order = (first, second)
        self.taken = 0
        self.changed = threading.Condition()

    def take(self, name: str) -> None:
        """Wait until it is `name`'s turn."""
        with self.changed:
            self.changed.wait_for(lambda: self._next() == name)

    def give(self) -> None:
        """Let the next one run."""
        with self.changed:
            self.taken += 1
            self.changed.notify_all()

    def _next(self) -> str:
        pair, position = divmod(self.taken, 2)
        return self.order[(pair + position) % 2]


class Taking(TrainerCallback):
    """First in line: waits for its turn, then starts the clocks."""

    def __init__(self, name: str, turns: Turns) -> None:
        self.name, self.turns = name, turns
        self.steps: list[tuple[float, float]] = []
        self.started = (0.0, 0.0)

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Start."""
        self.turns.take(self.name)
        self.started = (time.perf_counter(), time.thread_time())


class Giving(TrainerCallback):
    """Last in line: stops the clocks, and gives the turn away once the step is logged."""

    def __init__(self, taking: Taking) -> None:
        self.taking = taking

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Stop."""
        wall, processor = self.taking.started
        self.taking.steps.append((time.perf_counter() - wall, time.thread_time() - processor))

    def on_log(self, args: Any, state: Any, control: Any, logs: dict | None = None, **kwargs: Any) -> None:
        """Give away; the closing summary is nobody's step."""
        if logs and "reward" in logs:
            self.taking.turns.give()


class Nowhere:
    """A run that keeps nothing."""

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Drop."""

    def log_table(self, rows: Sequence[Mapping[str, Any]], artifact_path: str) -> None:
        """Drop."""

    def log_folder(self, folder: Path, artifact_dir: str = "") -> None:
        """Drop."""


def lab_projectors(
    checkpoint: Checkpoint, targets: Sequence[Target]
) -> dict[str, tuple[Tensor, Tensor, Tensor]]:
    """Certified top-k triples of the lab."""
    found = {}
    for target in targets:
        subspace = top_singular_subspace(checkpoint.read(target.weight_key), K, seed=seed_of(target.name))
        found[target.name] = (subspace.U, subspace.S, subspace.V)
    return found


def build(variant: str, steps: int, folder: Path) -> BuiltRun:
    """A trainer of the lab preset that does nothing but train."""
    character = load_character("skippy")
    checkpoint = Checkpoint.open(LAB_CHECKPOINT)
    targets = find_targets(checkpoint.config, checkpoint.shapes)
    scores = (rewards.personality, rewards.coherence, rewards.identity)
    request = TrainRequest(
        base_path=LAB_CHECKPOINT,
        base_digest=DIGEST,
        variant=variant,
        prompts=[prompt.text for prompt in character.train_prompts],
        reward_functions=[partial(score, rules=character.rules) for score in scores],
        reward_names=("personality", "coherence", "identity"),
        settings=replace(PRESETS["lab"], max_steps=steps, save_steps=10**6),
        output_dir=folder / variant,
        k=K,
        projectors=lab_projectors(checkpoint, targets),
        projector_base_digest=DIGEST,
        device="cpu",
    )
    built = build_run(request, Nowhere(), targets)
    built.trainer.generation_config.min_new_tokens = request.settings.max_completion_length
    return built


def race(steps: int, folder: Path) -> dict[str, list[tuple[float, float]]]:
    """Wall and processor seconds of every step of both variants."""
    turns, takers, threads = Turns("v3", "v4"), {}, []
    for variant in turns.order:
        trainer = build(variant, steps, folder).trainer
        takers[variant] = Taking(variant, turns)
        trainer.callback_handler.callbacks.insert(0, takers[variant])
        trainer.add_callback(Giving(takers[variant]))
        threads.append(threading.Thread(target=trainer.train))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return {variant: taker.steps[WARM_UP:] for variant, taker in takers.items()}


def main() -> None:
    """Print the ratio beside its limit."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--quick", action="store_true", help="8 pairs of steps")
    arguments = parser.parse_args()
    pairs = 8 if arguments.quick else 60
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        seconds = race(pairs + WARM_UP, Path(folder))
    print(f"lab, 1 thread, {pairs} pairs of steps   v3 median   v4 median   median of v4/v3   limit")
    for position, clock in enumerate(("wall time", "processor time")):
        plain, exact = ([step[position] for step in seconds[variant]] for variant in ("v3", "v4"))
        ratio = statistics.median(b / a for a, b in zip(plain, exact, strict=True))
        print(
            f"{clock:35s} {statistics.median(plain) * 1e3:7.0f} ms {statistics.median(exact) * 1e3:8.0f} ms"
            f" {ratio:17.3f} {LIMIT:7.2f}"
        )


if __name__ == "__main__":
    main()

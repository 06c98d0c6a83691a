"""V4's training step against V3's, in one process, step by step in turn.

    python -m benchmarks.bench_training            # 60 pairs of steps of the lab with its preset, CPU
    python -m benchmarks.bench_training --quick    # 8 pairs
    python -m benchmarks.bench_training --shapes 8b --device cuda [--checkpoint DIR]    # the recipe at 8B's shapes

Both trainers live in threads of which one runs at a time; who goes first changes from pair to pair. All
completions have the full length, so that both do the same work. On a CPU processor time is what counts, on a
machine that has other work too; wall time stands beside it, and what V4's projections take of its own step, which
says more where steps vary by more than that. At 8B's shapes completions are 8 tokens in place of
256: the constraint costs the same whatever their length, so the ratio is larger than the recipe's, and what
varies from step to step, generation, is least.
"""

from __future__ import annotations

import argparse
import logging
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

from benchmarks.synthetic import write_checkpoint_8b
from skippy.characters.loader import load_character
from skippy.core.basis import Basis
from skippy.core.spectral.subspaces import seed_of, top_singular_subspace
from skippy.core.style import rewards
from skippy.core.target import Target
from skippy.lab.paths import LAB_CHECKPOINT
from skippy.models.targets import find_targets
from skippy.presets.reading import PRESETS
from skippy.presets.settings import GrpoSettings
from skippy.stores.checkpoints import Checkpoint
from skippy.stores.projectors import Projectors
from skippy.training.constraint_callback import ConstraintCallback
from skippy.training.plan import TrainRequest
from skippy.training.setup import BuiltRun, build_run

K = 16
LIMITS = {"lab": 1.05, "8b": 1.02}
PAIRS_8B = 50
COMPLETION_8B = 8
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
        self.started = read_clocks()


class Giving(TrainerCallback):
    """Last in line: stops the clocks, and gives the turn away once the step is logged."""

    def __init__(self, taking: Taking) -> None:
        self.taking = taking

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Stop."""
        (wall, processor), now = self.taking.started, read_clocks()
        self.taking.steps.append((now[0] - wall, now[1] - processor))

    def on_log(self, args: Any, state: Any, control: Any, logs: dict | None = None, **kwargs: Any) -> None:
        """Give away; the closing summary is nobody's step."""
        if logs and "reward" in logs:
            self.taking.turns.give()


def read_clocks() -> tuple[float, float]:
    """Wall and processor time, once the GPU, if there is one, has caught up."""
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
    return time.perf_counter(), time.thread_time()


class Stopwatch:
    """Wall seconds of every step that the constraint's three places of a step take."""

    PLACES = ("project_gradients", "on_pre_optimizer_step", "on_optimizer_step")

    def __init__(self, callback: ConstraintCallback) -> None:
        self.steps: list[float] = []
        self.running = 0.0
        for place in self.PLACES:
            setattr(callback, place, self._timed(getattr(callback, place), is_last=place == self.PLACES[-1]))

    def _timed(self, work: Callable[..., None], *, is_last: bool) -> Callable[..., None]:
        def timed(*args: Any, **kwargs: Any) -> None:
            start, _ = read_clocks()
            work(*args, **kwargs)
            self.running += read_clocks()[0] - start
            if is_last:
                self.steps.append(self.running)
                self.running = 0.0

        return timed


class Nowhere:
    """A run that keeps nothing."""

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Drop."""

    def log_table(self, rows: Sequence[Mapping[str, Any]], artifact_path: str) -> None:
        """Drop."""

    def log_folder(self, folder: Path, artifact_dir: str = "") -> None:
        """Drop."""


def projectors_of(checkpoint: Checkpoint, targets: Sequence[Target], device: str) -> dict[str, Basis]:
    """Certified top-k triples of every target, kept on the CPU."""
    found = {}
    for target in targets:
        weight = checkpoint.read(target.weight_key).to(device)
        subspace = top_singular_subspace(weight, K, seed=seed_of(target.name))
        found[target.name] = Basis(subspace.U.cpu(), subspace.S.cpu(), subspace.V.cpu())
    return found


def settings_for(shapes: str, steps: int) -> GrpoSettings:
    """The preset that belongs to the shapes, saving nothing."""
    settings = replace(PRESETS["lab" if shapes == "lab" else "recipe"], max_steps=steps, save_steps=10**6)
    return settings if shapes == "lab" else replace(settings, max_completion_length=COMPLETION_8B)


def race(
    base: Path, settings: GrpoSettings, device: str, folder: Path
) -> tuple[dict[str, list[tuple[float, float]]], list[float]]:
    """Wall and processor seconds of every step of both variants, and V4's projections in wall seconds."""
    checkpoint = Checkpoint.open(base)
    targets = find_targets(checkpoint.config, checkpoint.shapes)
    projectors = projectors_of(checkpoint, targets, device)

    def build(variant: str) -> BuiltRun:
        """A trainer that does nothing but train."""
        character = load_character("skippy")
        scores = (rewards.personality, rewards.coherence, rewards.identity)
        request = TrainRequest(
            base_path=base,
            base_digest=DIGEST,
            variant=variant,
            prompts=[prompt.text for prompt in character.train_prompts],
            reward_functions=[partial(score, rules=character.rules) for score in scores],
            reward_names=("personality", "coherence", "identity"),
            settings=settings,
            output_dir=folder / variant,
            k=K,
            projectors=Projectors(projectors, {"base_digest": DIGEST}, DIGEST),
            device=device,
        )
        built = build_run(request, Nowhere(), targets)
        built.trainer.generation_config.min_new_tokens = settings.max_completion_length
        return built

    turns, takers, watches, threads = Turns("v3", "v4"), {}, {}, []
    for variant in turns.order:
        trainer = build(variant).trainer
        takers[variant] = Taking(variant, turns)
        trainer.callback_handler.callbacks.insert(0, takers[variant])
        trainer.add_callback(Giving(takers[variant]))
        watches[variant] = Stopwatch(trainer.constraint)  # V3's too, so that both wait for the GPU as often
        threads.append(threading.Thread(target=trainer.train))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    steps = {variant: taker.steps[WARM_UP:] for variant, taker in takers.items()}
    return steps, watches["v4"].steps[WARM_UP:]


def main() -> None:
    """Print the ratio beside its limit."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="8 pairs of steps")
    parser.add_argument("--shapes", choices=tuple(LIMITS), default="lab", help="of the base")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--checkpoint", type=Path, help="8b: a checkpoint that bench_checkpoint --keep left")
    parser.add_argument("--pairs", type=int, default=0, help="pairs of steps; 0: 60 on the lab, 50 at 8b")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger("skippy").setLevel(logging.INFO)
    pairs = 8 if arguments.quick else arguments.pairs or (60 if arguments.shapes == "lab" else PAIRS_8B)
    if arguments.device == "cpu":
        torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        base = arguments.checkpoint or LAB_CHECKPOINT
        if arguments.shapes == "8b" and arguments.checkpoint is None:
            base = write_checkpoint_8b(Path(scratch) / "checkpoint", device=arguments.device)
        settings = settings_for(arguments.shapes, pairs + WARM_UP)
        seconds, projecting = race(base, settings, arguments.device, Path(scratch))
    limit = LIMITS[arguments.shapes]
    print(
        f"{arguments.shapes}, {arguments.device}, {pairs} pairs of steps   v3 median   v4 median   v4/v3   limit"
    )
    for position, clock in enumerate(("wall time", "processor time")):
        plain, exact = ([step[position] for step in seconds[variant]] for variant in ("v3", "v4"))
        ratios = sorted(b / a for a, b in zip(plain, exact, strict=True))
        print(
            f"{clock:35s} {statistics.median(plain) * 1e3:7.0f} ms {statistics.median(exact) * 1e3:8.0f} ms"
            f" {statistics.median(ratios):7.3f} {limit:7.2f}   (quartiles {ratios[len(ratios) // 4]:.3f} "
            f"to {ratios[3 * len(ratios) // 4]:.3f})"
        )
    whole = [wall for wall, _ in seconds["v4"]]
    share = statistics.median(part / step for part, step in zip(projecting, whole, strict=True))
    print(f"V4's projections take {statistics.median(projecting) * 1e3:.1f} ms, {share:.2%} of its step")


if __name__ == "__main__":
    main()

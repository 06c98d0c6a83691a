"""Character deltas of a whole model against the obvious way: form B·A, take its full SVD, target by target.

    python -m benchmarks.bench_deltas            # 252 targets of Qwen3-VL-8B's shapes; then the lab's training
    python -m benchmarks.bench_deltas --quick    # the same, every width an eighth, and fewer steps
    python -m benchmarks.bench_deltas --device cuda    # the targets alone

Ours is the whole measurement: energies, singular values, 200 random subspaces, every pooling. The obvious way
is timed on one target of each kind and multiplied by the layers; it yields the energies and singular values,
and gets its null for nothing.

On the lab, V3 trains with its preset, which measures at every tenth step, into a store of its own. A measurement is
everything that training waits for: activations on the probes, deltas, nulls, metrics and tables logged. It is
held against the same run's steps, in processor time of one thread. The exit status is 1 where a limit is missed.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import TrainerCallback

from benchmarks.bench_training import DIGEST, read_clocks
from skippy.characters.loader import load_character
from skippy.core.personality.measurement import measure_character
from skippy.core.personality.reference import (
    CharacterReference,
    HookReference,
    MeasuredTarget,
    TraitReference,
    prepare_gauge,
)
from skippy.core.personality.subspaces import persona_subspace
from skippy.core.spectral.lora import LoraFactors
from skippy.core.spectral.precision import full_float32
from skippy.core.style import rewards
from skippy.core.target import side_of
from skippy.lab.paths import LAB_CHECKPOINT
from skippy.models.activations import collect_reference
from skippy.models.loading import load_model, load_tokenizer
from skippy.models.targets import find_targets
from skippy.presets.reading import PRESETS
from skippy.stores.checkpoints import Checkpoint
from skippy.tracking.store import open_tracker
from skippy.training.character_callback import CharacterCallback
from skippy.training.plan import RunSink, TrainRequest
from skippy.training.setup import BuiltRun, build_run

LAYERS, RANK, PERSONAS, SKETCH_ROWS = 36, 16, 8, 128
SHAPES = {
    "q_proj": (4096, 4096),
    "k_proj": (1024, 4096),
    "v_proj": (1024, 4096),
    "o_proj": (4096, 4096),
    "gate_proj": (12288, 4096),
    "up_proj": (12288, 4096),
    "down_proj": (4096, 12288),
}
AGREEMENT = 1e-3
LEAST_RATIO = 100
LIMIT_SECONDS = {"cpu": 4.0, "cuda": 0.3}
LIMIT_SHARE = 0.02
LAB_STEPS, LAB_STEPS_QUICK, LAB_PROMPTS = 40, 20, 16
INPUTS = {
    "q_proj": "attention",
    "k_proj": "attention",
    "v_proj": "attention",
    "gate_proj": "mlp",
    "up_proj": "mlp",
}


def make_reference(shapes: dict[str, tuple[int, int]], layers: int) -> CharacterReference:
    """Random subspaces and sketches at 8B's hooks: 4 a layer."""
    width = shapes["q_proj"][1]
    generator = torch.Generator().manual_seed(0)

    def make_hook() -> HookReference:
        centroids = torch.randn(PERSONAS, width, generator=generator)
        sketch = torch.randn(SKETCH_ROWS, width, generator=generator)
        return HookReference(persona_subspace(centroids), sketch, 1.0, 1)

    targets, hooks = [], {}
    for layer in range(layers):
        for kind in shapes:
            hook = f"{layer}.{INPUTS.get(kind, kind)}"
            targets.append(MeasuredTarget(f"{layer}.{kind}", layer, kind, side_of(kind), hook))
            if hook not in hooks:
                hooks[hook] = make_hook()
    none = torch.zeros(1, 1, width)
    traits = TraitReference(("none",), ("0.attention",), none, (("", ""),), none, torch.ones(1))
    return CharacterReference("", "", layers, tuple(targets), hooks, traits)


def make_factors(
    reference: CharacterReference, shapes: dict[str, tuple[int, int]], device: str
) -> dict[str, LoraFactors]:
    """An adapter after some training: A and B are both full."""
    generator = torch.Generator().manual_seed(1)
    made = {}
    for target in reference.targets:
        out, in_ = shapes[target.kind]
        A = torch.randn(RANK, in_, generator=generator) / in_**0.5
        B = torch.randn(out, RANK, generator=generator) * 1e-3
        made[target.name] = LoraFactors(A.to(device), B.to(device), 2.0)
    return made


def measure_obviously(factors: LoraFactors, P: Tensor, side: str) -> tuple[float, Tensor]:
    """ΔW formed, decomposed whole, and projected: energy ratio and the character matrix's singular values."""
    with full_float32(P.device):
        delta = factors.scale * factors.B @ factors.A
        U, S, Vh = torch.linalg.svd(delta, full_matrices=False)
        seen = (P @ U) * S if side == "writes" else S[:, None] * (Vh @ P.T)
    return float(seen.square().sum() / S.square().sum()), torch.linalg.svdvals(seen)


def best_seconds(run: Callable[[], object], repeats: int, device: str) -> float:
    """Least of several times, waiting for the device."""
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        run()
        if device != "cpu":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - started)
    return min(times)


class StepClock(TrainerCallback):
    """First in line, so that it stops before anything is measured: (wall, processor) seconds of every step."""

    def __init__(self) -> None:
        self.steps: list[tuple[float, float]] = []
        self.measured: dict[int, tuple[float, float]] = {}
        self.started = (0.0, 0.0)

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Start."""
        self.started = read_clocks()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Stop."""
        self.steps.append(_since(self.started))

    def time_measurements(self, callback: CharacterCallback) -> None:
        """Clock its measurements; a second call at the same step does nothing and is not counted."""
        measure = callback.measure

        def timed(state: Any) -> None:
            started = read_clocks()
            measure(state)
            self.measured.setdefault(state.global_step, _since(started))

        callback.measure = timed  # type: ignore[method-assign]


def _since(started: tuple[float, float]) -> tuple[float, float]:
    now = read_clocks()
    return now[0] - started[0], now[1] - started[1]


def build_lab_run(steps: int, folder: Path, run: RunSink) -> BuiltRun:
    """V3 on the lab with its preset and a reference made from a few prompts: the cost does not depend on them."""
    character, checkpoint = load_character("skippy"), Checkpoint.open(LAB_CHECKPOINT)
    targets = find_targets(checkpoint.config, checkpoint.shapes)
    reference = collect_reference(
        load_model(LAB_CHECKPOINT, device="cpu"),
        load_tokenizer(LAB_CHECKPOINT),
        targets,
        character.personas,
        [prompt.text for prompt in character.subspace_prompts(LAB_PROMPTS)],
        character.traits,
        base_digest=DIGEST,
        character_digest=character.digest,
    )
    scores = (rewards.personality, rewards.coherence, rewards.identity)
    request = TrainRequest(
        base_path=LAB_CHECKPOINT,
        base_digest=DIGEST,
        variant="v3",
        prompts=[prompt.text for prompt in character.train_prompts],
        reward_functions=[partial(score, rules=character.rules) for score in scores],
        reward_names=tuple(score.__name__ for score in scores),
        settings=replace(PRESETS["lab"], max_steps=steps),
        output_dir=folder / "train",
        reference=reference,
        device="cpu",
    )
    return build_run(request, run, targets)


def share_of_training(steps: int) -> float:
    """Print what measuring costs on the lab; its share of the training's processor time."""
    torch.set_num_threads(1)
    clock = StepClock()
    with tempfile.TemporaryDirectory() as scratch:
        tracker = open_tracker(Path(scratch))
        with tracker.stage("train", name="bench", note="What measuring costs.", config={}) as run:
            trainer = build_lab_run(steps, Path(scratch), run).trainer
            callbacks = trainer.callback_handler.callbacks
            clock.time_measurements(next(c for c in callbacks if isinstance(c, CharacterCallback)))
            callbacks.insert(0, clock)
            trainer.train()
    every = PRESETS["lab"].character_steps
    print(f"lab, V3, {steps} steps, one thread, measured every {every} steps")
    shares = []
    for position, name in enumerate(("wall time", "processor time")):
        step = statistics.median(times[position] for times in clock.steps[1:])
        measurement = statistics.median(times[position] for times in clock.measured.values())
        shares.append(measurement / (every * step))
        print(
            f"  {name:14s}  step {step * 1e3:5.0f} ms, measurement {measurement * 1e3:4.0f} ms: "
            f"{measurement / step:.1%} of a measured step, {shares[-1]:.2%} of training"
        )
    return shares[-1]


def main() -> None:
    """Print both times, their ratio, and how far the two agree."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="every width an eighth of 8B's")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    arguments = parser.parse_args()
    divisor = 8 if arguments.quick else 1
    shapes = {kind: (out // divisor, in_ // divisor) for kind, (out, in_) in SHAPES.items()}
    reference = make_reference(shapes, LAYERS)
    factors = make_factors(reference, shapes, arguments.device)

    started = time.perf_counter()
    gauge = prepare_gauge(reference, device=arguments.device)
    prepared = time.perf_counter() - started
    measured = measure_character(factors, gauge)
    ours = best_seconds(lambda: measure_character(factors, gauge), 3, arguments.device)

    obvious, worst = 0.0, 0.0
    for row in measured.rows[: len(shapes)]:
        hook = next(target.hook for target in reference.targets if target.name == row.target)
        P = gauge.hooks[hook].P.float()
        started = time.perf_counter()
        ratio, singular = measure_obviously(factors[row.target], P, row.side)
        obvious += LAYERS * (time.perf_counter() - started)
        largest = row.singular_values[0]
        error = abs(float(singular[0]) - largest) / largest
        worst = max(worst, error, abs(ratio - row.ratio) / row.ratio)

    name = "Qwen3-VL-8B" if divisor == 1 else f"Qwen3-VL-8B / {divisor}"
    print(f"deltas, {len(factors)} targets of {name}, {arguments.device}, {torch.get_num_threads()} threads")
    print(f"  null prepared once     {prepared:8.2f} s")
    print(f"  ours, with the null    {ours:8.3f} s   z {measured.pooled.z:+.2f} for a random adapter")
    print(f"  B·A and full SVD       {obvious:8.1f} s   ({LAYERS} × one layer)")
    print(f"  ratio                  {obvious / ours:8.0f} ×")
    print(f"  largest disagreement   {worst:8.1e}   (the obvious way is float32)")
    missed = []
    if worst > AGREEMENT:
        missed.append("the two ways disagree")
    limit = LIMIT_SECONDS[torch.device(arguments.device).type]
    if divisor == 1 and obvious / ours < LEAST_RATIO:  # at an eighth of the widths the two are closer
        missed.append(f"{obvious / ours:.0f} times the obvious way, {LEAST_RATIO} wanted")
    if divisor == 1 and ours > limit:
        missed.append(f"{ours:.2f} s, {limit:g} s wanted")
    if arguments.device == "cpu":
        share = share_of_training(LAB_STEPS_QUICK if arguments.quick else LAB_STEPS)
        if share > LIMIT_SHARE:
            missed.append(f"{share:.1%} of training, {LIMIT_SHARE:.0%} wanted")
    if missed:
        raise SystemExit("missed: " + "; ".join(missed))


if __name__ == "__main__":
    main()

"""What a GRPO step of a small model is made of, sampled by transformers and by recorded steps, in one process.

    python -m benchmarks.bench_rollout                                   # the lab, CPU: the same code, not recorded
    python -m benchmarks.bench_rollout --device cuda --base DIRECTORY    # a small model on a GPU
    python -m benchmarks.bench_rollout --quick

Both trainers are the lab preset's, one after the other; medians over the steps after the first two, in which a
GPU warms up and the step is recorded. Completions end where the policy ends them, in both alike. The last lines
check that what is recorded at the first step samples from the weights of the last one: the same seeds give the
same tokens without recording.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

from benchmarks.bench_training import DIGEST, WARM_UP, Nowhere, read_clocks
from skippy.characters.loader import load_character
from skippy.core.style import rewards
from skippy.lab.paths import LAB_CHECKPOINT
from skippy.models.captured import SWITCH
from skippy.models.targets import find_targets
from skippy.presets.reading import PRESETS
from skippy.stores.checkpoints import Checkpoint
from skippy.training.plan import TrainRequest
from skippy.training.rollout import Rollout
from skippy.training.setup import BuiltRun, build_run

LEAST_RATIO = 2.0  # on a GPU
MOST_MOVED = 1  # float rounding may tip a rare choice
WAYS = ("transformers generate", "recorded steps")


class Timer:
    """Seconds of each call of a function."""

    def __init__(self, work: Callable[..., Any]) -> None:
        self.work, self.seconds = work, []

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call, wait for the GPU, keep the time."""
        started, _ = read_clocks()
        result = self.work(*args, **kwargs)
        self.seconds.append(read_clocks()[0] - started)
        return result


class Steps(TrainerCallback):
    """Seconds of each optimizer step, its completions included."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self._started = 0.0

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Start."""
        self._started, _ = read_clocks()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Stop."""
        self.seconds.append(read_clocks()[0] - self._started)


def build(base: Path, device: str, steps: int, folder: Path, *, bf16: bool, beta: float) -> BuiltRun:
    """A trainer of plain LoRA that does nothing but train."""
    checkpoint = Checkpoint.open(base)
    character = load_character("skippy")
    settings = replace(
        PRESETS["lab"], max_steps=steps, save_steps=10**6, max_prompt_length=160, bf16=bf16, beta=beta
    )
    scores = (rewards.personality, rewards.coherence, rewards.identity)
    request = TrainRequest(
        base_path=base,
        base_digest=DIGEST,
        variant="v3",
        prompts=[prompt.text for prompt in character.train_prompts],
        reward_functions=[partial(score, rules=character.rules) for score in scores],
        reward_names=("personality", "coherence", "identity"),
        settings=settings,
        output_dir=folder,
        device=device,
    )
    return build_run(request, Nowhere(), find_targets(checkpoint.config, checkpoint.shapes))


def measure(run: BuiltRun) -> dict[str, float]:
    """Milliseconds of a step and its parts, and tokens a second while sampling."""
    trainer, steps = run.trainer, Steps()
    sampling = trainer._generate_single_turn = Timer(trainer._generate_single_turn)
    scoring = trainer._generate_and_score_completions = Timer(trainer._generate_and_score_completions)
    trainer.add_callback(steps)
    began = time.perf_counter()
    trainer.train()
    seconds = time.perf_counter() - began
    made = run.tracking.completion_statistics()

    def middle(values: list[float]) -> float:
        return 1e3 * statistics.median(values[WARM_UP:])

    whole, sampled, scored = middle(steps.seconds), middle(sampling.seconds), middle(scoring.seconds)
    rows = trainer.args.per_device_train_batch_size * trainer.args.gradient_accumulation_steps
    return {
        "step": whole,
        "sampling": sampled,
        "scoring": scored - sampled,
        "learning": whole - scored,
        "first two": sum(steps.seconds[:WARM_UP]) * 1e3,
        "length, first": run.tracking.history[0]["train/completion_length_mean"],
        "length, last": made.mean_length,
        "reward, first": run.tracking.history[0]["train/reward"],
        "reward, last": run.tracking.history[-1]["train/reward"],
        "tokens/s": rows * made.mean_length / (sampled / 1e3),
        "run, s": seconds,
    }


def count_moved(run: BuiltRun) -> int:
    """Completions of 32 that differ between the trainer's recorded step and one that is not recorded.

    Which prompts they are does not matter here: token numbers that every vocabulary has.
    """
    trainer, settings = run.trainer, run.trainer.generation_config
    plain = Rollout(run.model, settings, merges=trainer._merges, records=False)
    prompts = [list(range(20 + row // 4, 50 + row // 4)) for row in range(32)]
    made = []
    for rollout in (trainer._rollout, plain):
        torch.manual_seed(7)
        # In the slots that were recorded: as many as the trainer's batches have.
        made.append([tokens for half in (prompts[:16], prompts[16:]) for tokens in rollout.complete(half)])
    return sum(one != other for one, other in zip(*made, strict=True))


def main() -> None:
    """Print both ways side by side; on a GPU fail where the step is not halved."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few steps")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--base", type=Path, default=LAB_CHECKPOINT, help="checkpoint to train")
    parser.add_argument("--bf16", action="store_true", help="base and activations in bfloat16")
    parser.add_argument("--beta", type=float, default=0.0, help="weight of the KL divergence")
    parser.add_argument("--steps", type=int, default=0, help="0: 24, quick 6")
    arguments = parser.parse_args()
    steps = (arguments.steps or (6 if arguments.quick else 24)) + WARM_UP
    if arguments.device == "cpu":
        torch.set_num_threads(1)
    found = {}
    for way in WAYS:
        os.environ[SWITCH] = "0" if way == WAYS[0] else "1"
        with tempfile.TemporaryDirectory() as scratch:
            run = build(
                arguments.base,
                arguments.device,
                steps,
                Path(scratch),
                bf16=arguments.bf16,
                beta=arguments.beta,
            )
            if arguments.device == "cpu" and way == WAYS[1]:
                run.trainer.sample_in_fixed_buffers()
            found[way] = measure(run)
    moved = count_moved(run)
    print(f"{arguments.device}, {'bf16' if arguments.bf16 else 'float32'}, 16 completions a step, median ms")
    print(f"{'':14s}" + "".join(f"{way:>24s}" for way in WAYS))
    for name in found[WAYS[0]]:
        print(f"{name:14s}" + "".join(f"{found[way][name]:24.1f}" for way in WAYS))
    ratio = found[WAYS[0]]["step"] / found[WAYS[1]]["step"]
    print(f"a step: {ratio:.2f} times as fast")
    print(f"recorded at the first step, sampled after the last: {moved} of 32 completions differ")
    if moved > MOST_MOVED:
        raise SystemExit("missed: a recorded step samples from other weights")
    if arguments.device == "cuda" and ratio < LEAST_RATIO:
        raise SystemExit(f"missed: {ratio:.2f}, {LEAST_RATIO:g} wanted")


if __name__ == "__main__":
    main()

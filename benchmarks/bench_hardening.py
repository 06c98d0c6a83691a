"""Training with naive rewards against training with hardened ones: who ends in repeated markers?

    python -m benchmarks.bench_hardening            # 120 steps of V3 on the lab for each arm, CPU, one thread
    python -m benchmarks.bench_hardening --quick    # 6 steps each, to see that it runs

Both arms have the same seed, prompts and steps, and no KL term, so that nothing but the reward holds the policy.
Both are read with the same rulers, the naive personality and the hardened total. The exit status is 1 when the
naive arm does not end with at least twice the hardened arm's repetition of one marker.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.bench_training import DIGEST, Nowhere
from skippy.characters.loader import load_character
from skippy.core.style import prose, rewards
from skippy.core.style.reward_rules import RewardRules
from skippy.lab.paths import LAB_CHECKPOINT
from skippy.presets.reading import PRESETS
from skippy.training.grpo import train_grpo
from skippy.training.plan import TrainRequest

SEED = 42
BETA = 0.0
STEPS, QUICK_STEPS = 120, 6
WINDOWS = 3
MIN_RATIO = 2.0
NEVER = 10**6
SCORES = (rewards.personality, rewards.coherence, rewards.identity)


@dataclass(frozen=True)
class Reading:
    """Means over the answers of one window of steps.

    Attributes:
        markers: found in an answer.
        same_marker: occurrences of the marker that the answer has most often.
        repeated_words: share of an answer's words that it has said before.
        naive_personality: under the naive rules.
        hardened_total: sum of the three rewards under the hardened rules.
    """

    markers: float
    same_marker: float
    repeated_words: float
    naive_personality: float
    hardened_total: float


def train_arm(hardened: bool, steps: int, folder: Path) -> list[dict[str, Any]]:
    """Train V3 under one kind of rules; every sampled answer, in the order of the steps."""
    character = load_character("skippy")
    rules = replace(character.rules, hardened=hardened)
    settings = replace(
        PRESETS["lab"], max_steps=steps, save_steps=NEVER, character_steps=NEVER, seed=SEED, beta=BETA
    )
    request = TrainRequest(
        base_path=LAB_CHECKPOINT,
        base_digest=DIGEST,
        variant="v3",
        prompts=[prompt.text for prompt in character.train_prompts],
        reward_functions=[partial(score, rules=rules) for score in SCORES],
        reward_names=tuple(score.__name__ for score in SCORES),
        settings=settings,
        output_dir=folder,
        device="cpu",
    )
    train_grpo(request, Nowhere())
    lines = (folder / "samples" / "training.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def read_window(samples: Sequence[dict[str, Any]], rules: RewardRules) -> Reading:
    """Measure one window with both rulers."""
    naive, hardened = (replace(rules, hardened=kind) for kind in (False, True))
    rows = []
    for sample in samples:
        text, prompt = sample["completion"], sample["prompt"]
        counts = [len(marker.pattern.findall(text)) for marker in rules.markers]
        words = prose.find_words(text)
        repeated = 1 - len(set(words)) / max(1, len(words))
        style = rewards.personality([text], [prompt], naive)[0] or 0.0
        total = sum(score([text], [prompt], hardened)[0] or 0.0 for score in SCORES)
        rows.append((sum(counts), max(counts), repeated, style, total))
    return Reading(*map(statistics.mean, zip(*rows, strict=True)))


def main() -> int:
    """Print the table and one last answer of each arm; 1 when the collapse is not there."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_STEPS} steps, no verdict")
    steps = QUICK_STEPS if parser.parse_args().quick else STEPS
    torch.set_num_threads(1)
    rules = load_character("skippy").rules
    arms = {}
    with tempfile.TemporaryDirectory() as scratch:
        for name in ("naive", "hardened"):
            arms[name] = train_arm(name == "hardened", steps, Path(scratch) / name)
    print(f"seed {SEED}, beta {BETA}, {steps} steps, torch {torch.__version__}")
    print("| steps | arm | markers | same marker | repeated words | naive personality | hardened total |")
    print("|---|---|---|---|---|---|---|")
    size, last = steps // WINDOWS, {}
    for begin in range(0, steps, size):
        for name, samples in arms.items():
            window = [sample for sample in samples if begin < sample["step"] <= begin + size]
            found = last[name] = read_window(window, rules)
            print(
                f"| {begin + 1}–{begin + size} | {name} | {found.markers:.1f} | {found.same_marker:.1f} "
                f"| {found.repeated_words:.2f} | {found.naive_personality:+.1f} | {found.hardened_total:+.1f} |"
            )
    for name, samples in arms.items():
        print(f"{name}: {samples[-1]['prompt']!r} -> {samples[-1]['completion']!r}")
    ratio = last["naive"].same_marker / max(last["hardened"].same_marker, 1e-9)
    print(f"same marker, naive / hardened, last window: {ratio:.1f} (at least {MIN_RATIO})")
    return int(steps == STEPS and ratio < MIN_RATIO)


if __name__ == "__main__":
    sys.exit(main())

"""A step of steering with the layers below the bias kept, against running the whole model, in one process by turns.

    python -m benchmarks.bench_steering                   # 20 layers of width 128, CPU
    python -m benchmarks.bench_steering --quick           # fewer turns
    python -m benchmarks.bench_steering --device cuda     # Qwen3-8B's shapes, random weights, bfloat16

Three steps on the same pairs, both signs and the gradient in each:

- kept: only the layers from the bias on run; the base's log-probabilities are known.
- whole: the whole model runs; the base's log-probabilities are known.
- stock: the whole model runs, and once more without the bias, as trainers of preferences do by default.

All three give the same gradient; how far they differ is printed too.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable

import torch
from torch import Tensor
from transformers import Qwen3Config, Qwen3ForCausalLM

from skippy.core.personality.steering import ROWS, bipo_losses, fold_gradient, signed_rows
from skippy.presets.steering import SteerSettings
from skippy.training.steered_model import Answered, SteeredModel, site_modules

LIMIT = 2.0
"""Stock over kept."""
PAIRS = {"cpu": 2, "cuda": 4}
PROMPT, ANSWER = 24, {"cpu": 60, "cuda": 100}
SHAPES = {
    "cpu": {"hidden_size": 128, "intermediate_size": 384, "num_hidden_layers": 20, "vocab_size": 512,
            "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32},
    "cuda": {"hidden_size": 4096, "intermediate_size": 12288, "num_hidden_layers": 36, "vocab_size": 151_936,
             "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128},
}  # fmt: skip


class Step:
    """One step in one of the three ways."""

    def __init__(self, model: Qwen3ForCausalLM, *, keep: bool, reference_each_step: bool) -> None:
        settings = SteerSettings()
        self._steered = SteeredModel(model, *site_modules(model, settings), keep_states=keep)
        self._each_step = reference_each_step
        generator = torch.Generator().manual_seed(0)
        vocabulary, device = model.config.vocab_size, self._steered.device.type
        texts = [
            torch.randint(vocabulary, (PROMPT + ANSWER[device],), generator=generator).tolist()
            for _ in range(2 * PAIRS[device])
        ]
        self._answers = self._steered.read([(text[:PROMPT], text[PROMPT:]) for text in texts], 0)
        self.vector = torch.randn(self._steered.width(self._steered.modules[0]), generator=generator)
        self.vector = 0.01 * self.vector.to(self._steered.device)
        self._reference = self._base()

    def __call__(self) -> Tensor:
        """The gradient of the bias."""
        with self._steered.listening():
            reference = self._base() if self._each_step else self._reference
            rows = signed_rows(self.vector).requires_grad_()
            policy = self._ask(self._answers * 2, rows).view(ROWS, -1)
            (found,) = torch.autograd.grad(bipo_losses(policy, reference, 0.1).mean(), rows)
        return fold_gradient(found)

    @torch.no_grad()
    def _base(self) -> Tensor:
        return self._ask(self._answers, None).view(2, -1)

    def _ask(self, answers: list[Answered], rows: Tensor | None) -> Tensor:
        given = {} if rows is None else {self._steered.modules[0]: rows}
        return self._steered.log_probabilities(answers, given, 0)


def timed(step: Callable[[], Tensor], device: str) -> tuple[float, Tensor]:
    """Seconds of one step, the GPU caught up."""
    if device == "cuda":
        torch.cuda.synchronize()
    began = time.perf_counter()
    found = step()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - began, found


def main() -> None:
    """Print the medians and their ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--quick", action="store_true")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    config = Qwen3Config(**SHAPES[arguments.device], tie_word_embeddings=False)
    with torch.device(arguments.device):
        torch.set_default_dtype(torch.bfloat16 if arguments.device == "cuda" else torch.float32)
        model = Qwen3ForCausalLM(config).eval().requires_grad_(False)
        torch.set_default_dtype(torch.float32)
    steps = {
        "kept": Step(model, keep=True, reference_each_step=False),
        "whole": Step(model, keep=False, reference_each_step=False),
        "stock": Step(model, keep=False, reference_each_step=True),
    }
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    gradients: dict[str, Tensor] = {}
    for turn in range(2 + (4 if arguments.quick else 15)):
        for name, step in steps.items():
            taken, gradients[name] = timed(step, arguments.device)
            if turn >= 2:
                seconds[name].append(taken)
    medians = {name: statistics.median(found) for name, found in seconds.items()}
    layers = config.num_hidden_layers
    print(
        f"{PAIRS[arguments.device]} pairs of {PROMPT}+{ANSWER} tokens, both signs, {layers} layers, {arguments.device}"
    )
    for name, median in medians.items():
        apart = float((gradients[name] - gradients["kept"]).norm() / gradients["kept"].norm())
        print(
            f"{name:6} {1000 * median:9.1f} ms   {median / medians['kept']:5.2f} × kept   gradient apart {apart:.1e}"
        )
    if not arguments.quick and medians["stock"] < LIMIT * medians["kept"]:
        sys.exit(f"less than {LIMIT} ×")


if __name__ == "__main__":
    main()

"""V5 on Qwen3-VL-8B's shapes: statistics of 2 × 128 answers and all masks, one layer in memory at a time.

    python -m benchmarks.bench_masks                    # the widths an eighth, 2 layers, fewer answers
    python -m benchmarks.bench_masks --device cuda      # full widths, 36 layers

Weights are drawn layer by layer; every layer multiplies 256 answers of 128 tokens through its seven projections, as
reading them does (attention itself is left out: it is a percent of it), while inputs are reduced to sums of squares;
then `survey_masks` makes mask, placebo, null and both halves of every target and hashes the mask. The stock way is
the same selection by a stable sort of every row. The exit status is 1 where a limit is missed or the two disagree.
"""

from __future__ import annotations

import argparse
import time

import torch
from torch import Tensor, nn

from benchmarks.spectra import LAYER_8B, LAYERS_8B, scaled
from skippy.core.spectral.masks import relative_contrast, smallest
from skippy.core.target import BLOCKS, Target, side_of
from skippy.models.hooks import Batch, Squares
from skippy.presets.methods import MaskSettings
from skippy.stores.answers import CHARACTER, PLAIN, PLAIN_B, PLAIN_C
from skippy.training.mask_statistics import input_of
from skippy.training.mask_survey import survey_masks

ANSWERS, TOKENS, AT_ONCE = 256, 128, 16
ANSWERS_ON_CPU = 96
LIMIT_SECONDS = 300.0
LIMIT_WEIGHTS = 14.0
"""Peak of GPU memory over the largest weight in bfloat16: float32 rows, scores and masks of one target, one layer."""
GROUPS = (f"{CHARACTER}/0", f"{CHARACTER}/1", f"{PLAIN}/0", f"{PLAIN}/1", PLAIN_B, PLAIN_C)


def make_layer(
    layer: int, shapes: dict[str, tuple[int, int]], device: str
) -> tuple[nn.Module, tuple[Target, ...]]:
    """A module that has one layer's weights under their names, and its targets."""
    root, targets = nn.Module(), []
    for kind, (out, in_) in shapes.items():
        name = f"layers_{layer}_{BLOCKS[kind]}.{kind}"
        block = root.get_submodule(name.split(".")[0]) if hasattr(root, name.split(".")[0]) else nn.Module()
        linear = nn.Linear(in_, out, bias=False, device=device, dtype=torch.bfloat16).requires_grad_(False)
        block.add_module(kind, linear)
        root.add_module(name.split(".")[0], block)
        targets.append(Target(name, layer, kind, out, in_, side_of(kind)))
    return root, tuple(targets)


@torch.no_grad()
def read_layer(
    root: nn.Module, targets: tuple[Target, ...], device: str, answers: int
) -> dict[str, dict[str, Tensor]]:
    """Statistics of every input, as `read_statistics` takes them."""
    sums = {input_of(target): Squares(len(GROUPS)) for target in targets}
    generator = torch.Generator(device).manual_seed(0)
    drives = {
        name: torch.rand(len(GROUPS), _width(targets, name), generator=generator, device=device) + 0.5
        for name in sums
    }
    for start in range(0, answers, AT_ONCE):
        group = start * len(GROUPS) // answers
        owners = torch.full((AT_ONCE * TOKENS,), group, device=device)
        batch = Batch(owners=owners)
        inputs = {}
        for name, squares in sums.items():
            drawn = torch.randn(len(owners), drives[name].shape[1], generator=generator, device=device)
            inputs[name] = (drawn * drives[name][group]).bfloat16()
            squares.add(inputs[name], batch)
        for target in targets:
            root.get_submodule(target.name)(inputs[input_of(target)])
    count = AT_ONCE * TOKENS * (answers // AT_ONCE / len(GROUPS))
    found = {
        group: {name: (squares.total[index] / count).sqrt().float() for name, squares in sums.items()}
        for index, group in enumerate(GROUPS)
    }
    return {**found, CHARACTER: found[f"{CHARACTER}/0"], PLAIN: found[f"{PLAIN}/0"]}


def _width(targets: tuple[Target, ...], name: str) -> int:
    return next(target.in_ for target in targets if input_of(target) == name)


def by_sorting(weight: Tensor, plus: Tensor, minus: Tensor, rho: float) -> Tensor:
    """c-relative by two stable sorts of every row."""
    magnitude = weight.float().abs()
    order = (magnitude * torch.minimum(plus, minus)).argsort(dim=1, stable=True)
    half = torch.zeros_like(magnitude, dtype=torch.bool).scatter_(1, order[:, : order.shape[1] // 2], True)
    key = torch.where(half, relative_contrast(plus, minus).expand_as(magnitude), torch.inf)
    chosen = key.argsort(dim=1, stable=True)[:, : int(rho * weight.shape[1])]
    return torch.zeros_like(half).scatter_(1, chosen, True)


def by_threshold(weight: Tensor, plus: Tensor, minus: Tensor, rho: float) -> Tensor:
    """c-relative as it is."""
    magnitude = weight.float().abs()
    half = smallest(magnitude * torch.minimum(plus, minus), magnitude.shape[1] // 2)
    key = torch.where(half, relative_contrast(plus, minus).expand_as(magnitude), torch.inf)
    return smallest(key, int(rho * weight.shape[1]))


def clock(device: str) -> float:
    """Seconds, with what was asked of the GPU done."""
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def main() -> None:
    """Time both parts, and the mask of the largest target both ways."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument(
        "--quick", action="store_true", help="widths an eighth and 2 layers, on a GPU as well"
    )
    arguments = parser.parse_args()
    is_full = arguments.device == "cuda" and not arguments.quick
    shapes = scaled(LAYER_8B, 1 if is_full else 8)
    answers = ANSWERS if is_full else ANSWERS_ON_CPU
    layers, settings = (LAYERS_8B if is_full else 2), MaskSettings()
    reading = masking = 0.0
    bare = torch.cuda.memory_allocated() if arguments.device == "cuda" else 0
    for layer in range(layers):
        root, targets = make_layer(layer, shapes, arguments.device)
        started = clock(arguments.device)
        statistics = read_layer(root, targets, arguments.device, answers)
        read = clock(arguments.device)
        survey = survey_masks(root, targets, statistics, settings, None)
        reading, masking = reading + read - started, masking + clock(arguments.device) - read
    largest = max(targets, key=lambda target: target.out * target.in_)
    weight = root.get_submodule(largest.name).weight
    a = [statistics[group][input_of(largest)] for group in (CHARACTER, PLAIN)]
    seconds, masks = {}, {}
    for name, make in (("threshold", by_threshold), ("sort", by_sorting)):
        make(weight, *a, settings.rho)
        started = clock(arguments.device)
        masks[name] = make(weight, *a, settings.rho)
        seconds[name] = clock(arguments.device) - started
    print(f"masks, {layers} layers of Qwen3-VL-8B{'' if is_full else ' / 8'}, {arguments.device}")
    print(f"  statistics, {answers} answers × {TOKENS} tokens  {reading:8.2f} s")
    print(
        f"  masks, placebos, halves, sha256    {masking:8.2f} s   {100 * survey.share:.1f} % of the weights go"
    )
    print(f"  one mask of {largest.kind}, by threshold {seconds['threshold']:8.4f} s")
    print(f"  the same by sorting its rows       {seconds['sort']:8.4f} s")
    print(f"  ratio                              {seconds['sort'] / seconds['threshold']:8.1f} ×")
    missed = [] if torch.equal(masks["threshold"], masks["sort"]) else ["the two masks differ"]
    if reading + masking > LIMIT_SECONDS:
        missed.append(f"{reading + masking:.0f} s, {LIMIT_SECONDS:.0f} s wanted")
    if arguments.device == "cuda":
        peak = (torch.cuda.max_memory_allocated() - bare) / (2 * weight.numel())
        print(f"  peak memory                        {peak:8.1f} × the largest weight in bfloat16")
        if is_full and peak > LIMIT_WEIGHTS + sum(out * in_ for out, in_ in shapes.values()) / weight.numel():
            missed.append(f"peak of {peak:.1f} weights")
    if missed:
        raise SystemExit("missed: " + "; ".join(missed))


if __name__ == "__main__":
    main()

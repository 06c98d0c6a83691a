"""Generation on the lab: batches whose rows come and go, against one sample at a time, and against transformers.

    python -m benchmarks.bench_generation            # 240 problems × 4 samples
    python -m benchmarks.bench_generation --quick    # 60 problems × 2 samples

One process, the same model, prompts and sampling. One by one and `generate` of transformers (padded batches
that wait for their longest row) are timed on a part of the samples and compared by tokens a second. The last
line is the check that a speed-up may not break: samples made in another order, in other batches, are the same.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import GenerationConfig

from skippy.core.sampling import PRESETS
from skippy.lab import problems
from skippy.lab.paths import LAB_CHECKPOINT
from skippy.models.generation import Completion, Request
from skippy.models.loading import load_model, load_tokenizer
from skippy.models.transformers_backend import MOST_SLOTS, TransformersBackend

SAMPLING = PRESETS["lab"]
ONE_BY_ONE = 40
STOCK_ROWS = 64
LEAST_RATIO = 5.0


def make_requests(count: int, samples: int) -> list[Request]:
    """`samples` requests for each of `count` held-out problems."""
    return [
        Request(
            f"{number}/{index}", ({"role": "user", "content": problem.question},), seed=1000 * number + index
        )
        for number, problem in enumerate(problems.evaluation_set(count=count, seed=0))
        for index in range(samples)
    ]


def time_backend(
    backend: TransformersBackend, batches: Sequence[Sequence[Request]]
) -> tuple[list[Completion], float]:
    """All completions, and tokens a second."""
    started = time.perf_counter()
    made = [completion for batch in batches for completion in backend.generate(batch, SAMPLING)]
    return made, sum(each.tokens for each in made) / (time.perf_counter() - started)


def time_transformers(model: torch.nn.Module, tokenizer, requests: Sequence[Request]) -> float:
    """Tokens a second of `model.generate` on batches of `STOCK_ROWS`, with its own sampling."""
    config = GenerationConfig(
        do_sample=True,
        temperature=SAMPLING.temperature,
        top_k=SAMPLING.top_k,
        top_p=SAMPLING.top_p,
        max_new_tokens=SAMPLING.max_tokens,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    count, started = 0, time.perf_counter()
    for start in range(0, len(requests), STOCK_ROWS):
        texts = [
            tokenizer.apply_chat_template(list(each.messages), add_generation_prompt=True, tokenize=False)
            for each in requests[start : start + STOCK_ROWS]
        ]
        inputs = tokenizer(texts, return_tensors="pt", padding=True, add_special_tokens=False)
        inputs.pop("token_type_ids", None)
        inputs = inputs.to(model.device)
        with torch.inference_mode():
            out = model.generate(**inputs, generation_config=config)
        count += int((out[:, inputs["input_ids"].shape[1] :] != tokenizer.pad_token_id).sum())
    return count / (time.perf_counter() - started)


def main() -> None:
    """Print the table; fail where the ratio or the agreement is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer problems and samples")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--base", type=Path, default=LAB_CHECKPOINT, help="checkpoint to sample from")
    arguments = parser.parse_args()
    requests = make_requests(60, 2) if arguments.quick else make_requests(240, 4)
    model = load_model(arguments.base, dtype=torch.float32, device=arguments.device)
    tokenizer = load_tokenizer(arguments.base)
    backend = TransformersBackend(model, tokenizer, fixed=False)
    step = max(1, len(requests) // ONE_BY_ONE)
    _, alone = time_backend(backend, [[request] for request in requests[::step]])
    stock = time_transformers(model, tokenizer, requests[: STOCK_ROWS * 4])
    made, together = time_backend(backend, [requests])
    again, _ = time_backend(TransformersBackend(model, tokenizer, 9000, fixed=False), [requests[::-1]])
    fixed = TransformersBackend(model, tokenizer, fixed=True)
    time_backend(fixed, [requests[:MOST_SLOTS]])  # recorded before it is timed
    in_slots, recorded = time_backend(fixed, [requests])
    print(f"{len(requests)} samples, {arguments.device}, preset {SAMPLING.name}")
    print(f"{'way':<44}{'tokens/s':>10}{'ratio':>8}")
    for way, speed in (
        ("one by one", alone),
        (f"transformers generate, batches of {STOCK_ROWS}", stock),
        ("skippy, rows come and go", together),
        ("skippy, fixed slots" + (", recorded" if arguments.device == "cuda" else ""), recorded),
    ):
        print(f"{way:<44}{speed:>10.0f}{speed / alone:>8.1f}")
    texts = {each.id: each.text for each in made}
    differing = sum(texts[each.id] != each.text for each in again)
    print(f"other batches, other order: {differing} of {len(requests)} samples differ")
    moved = sum(texts[each.id] != each.text for each in in_slots)
    print(f"fixed slots: {moved} of {len(requests)} samples differ")
    if together < LEAST_RATIO * alone:
        raise SystemExit(f"missed: {together / alone:.1f} times one by one, {LEAST_RATIO:g} wanted")
    if max(differing, moved) > len(requests) // 100:
        raise SystemExit("missed: samples depend on the batch")


if __name__ == "__main__":
    main()

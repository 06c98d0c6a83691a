"""Training of a base on the lab's examples: one pass over them, the loss on answers only."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import torch
from torch.nn import functional
from transformers import PreTrainedModel

from skippy.errors import TrainingError
from skippy.lab.corpus import Batch, Corpus, make_batches
from skippy.progress import Progress


@dataclass(frozen=True)
class Recipe:
    """How the base is trained; the shipped one had an hour for it and came to `steps` (see its manifest)."""

    steps: int = field(default=6750, metadata={"help": "optimizer steps, fewer if the corpus or time ends"})
    tokens_per_batch: int = field(default=768, metadata={"help": "padded tokens of one forward pass"})
    accumulation: int = field(default=4, metadata={"help": "forward passes per optimizer step"})
    workers: int = field(default=2, metadata={"help": "threads that share them; on CUDA always one"})
    learning_rate: float = field(default=3e-3, metadata={"help": "peak, after the warm-up"})
    warmup_steps: int = field(default=50, metadata={"help": "steps of linear warm-up"})
    final_share: float = field(default=0.02, metadata={"help": "share of the peak at the cosine's end"})
    weight_decay: float = field(default=0.05, metadata={"help": "AdamW, matrices only"})
    beta2: float = field(default=0.98, metadata={"help": "AdamW second moment"})
    clip: float = field(default=1.0, metadata={"help": "largest gradient norm"})
    minutes: float | None = field(default=None, metadata={"help": "the cosine ends by then, if sooner"})
    save_steps: int = field(default=500, metadata={"help": "steps between interim checkpoints"})


@dataclass(frozen=True)
class TrainingFigures:
    """What a training run did."""

    steps: int
    examples: int
    tokens: int
    seconds: float
    final_loss: float


def answer_loss(model: PreTrainedModel, batch: Batch, device: torch.device) -> torch.Tensor:
    """Mean cross-entropy of the answer tokens; the head runs on those positions alone."""
    inputs, targets, is_answer = (part.to(device) for part in (batch.inputs, batch.targets, batch.is_answer))
    parts: Any = model
    decoder = getattr(parts.model, "language_model", parts.model)
    hidden = decoder(input_ids=inputs, use_cache=False).last_hidden_state
    logits = parts.lm_head(hidden[is_answer])
    return functional.cross_entropy(logits.float(), targets[is_answer])


def learning_rate_share(progress: float, step: int, recipe: Recipe) -> float:
    """Linear warm-up by steps times a cosine in `progress` (0 to 1) down to `final_share`."""
    warm = min(1.0, (step + 1) / max(recipe.warmup_steps, 1))
    cosine = 0.5 * (1.0 + math.cos(math.pi * min(progress, 1.0)))
    return warm * (recipe.final_share + (1.0 - recipe.final_share) * cosine)


def pretrain(
    model: PreTrainedModel,
    corpus: Corpus,
    recipe: Recipe,
    seed: int,
    *,
    device: torch.device,
    save: Callable[[int], None] | None = None,
    is_enough: Callable[[int], bool] | None = None,
    label: str = "pretrain",
) -> TrainingFigures:
    """Train the parameters of `model` that require gradients, in place.

    Args:
        model: float32, on `device`; on CUDA the matrix products run in bfloat16.
        is_enough: asked with the step every `save_steps`; training ends where it says so.

    Raises:
        TrainingError: the loss is not finite, or the corpus holds no batch.
    """
    optimizer = _make_optimizer(model, recipe)
    pad = model.config.get_text_config().pad_token_id
    batches = make_batches(corpus, recipe.tokens_per_batch, seed, pad)
    model.train()
    step = examples = tokens = 0
    loss_average = float("nan")
    started = time.monotonic()
    workers = 1 if device.type == "cuda" else recipe.workers
    with ThreadPoolExecutor(workers) as pool, Progress(label, recipe.steps) as bar:
        while step < recipe.steps:
            spent = (time.monotonic() - started) / (60.0 * recipe.minutes) if recipe.minutes else 0.0
            micro = list(islice(batches, recipe.accumulation))
            if not micro or spent >= 1.0:
                break
            share = learning_rate_share(max(step / recipe.steps, spent), step, recipe)
            for group in optimizer.param_groups:
                group["lr"] = recipe.learning_rate * share
            loss = _train_step(model, micro, optimizer, pool, device, recipe.clip)
            if not math.isfinite(loss):
                raise TrainingError("the loss is not finite", where=f"step {step}", found=str(loss))
            step += 1
            examples += sum(len(batch.inputs) for batch in micro)
            tokens += sum(int((batch.targets != pad).sum()) for batch in micro)
            loss_average = loss if math.isnan(loss_average) else 0.98 * loss_average + 0.02 * loss
            speed = tokens / (time.monotonic() - started)
            bar.advance(1, loss=f"{loss_average:.4f}", tokens=tokens, tokens_per_second=f"{speed:.0f}")
            if step % recipe.save_steps == 0:
                if save is not None:
                    save(step)
                if is_enough is not None and is_enough(step):
                    break
    model.eval()
    if step == 0:
        raise TrainingError(
            "nothing to train on", where="corpus", expected="at least one batch", found="none"
        )
    return TrainingFigures(step, examples, tokens, time.monotonic() - started, loss_average)


def _make_optimizer(model: torch.nn.Module, recipe: Recipe) -> torch.optim.AdamW:
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim >= 2], "weight_decay": recipe.weight_decay},
        {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=recipe.learning_rate, betas=(0.9, recipe.beta2), fused=True)


def _train_step(
    model: PreTrainedModel,
    micro: list[Batch],
    optimizer: torch.optim.Optimizer,
    pool: ThreadPoolExecutor,
    device: torch.device,
    clip: float,
) -> float:
    """One step on the mean gradient of `micro`; each pass runs on one thread of the pool.

    Two threads with a pass each beat one pass on two threads: they meet once a step, not once an operation,
    which matters most where other programs want the same cores.
    """
    trained = [parameter for group in optimizer.param_groups for parameter in group["params"]]

    def differentiate(batch: Batch) -> tuple[float, tuple[torch.Tensor, ...]]:
        with torch.autocast("cuda", dtype=torch.bfloat16) if device.type == "cuda" else nullcontext():
            loss = answer_loss(model, batch, device)
        return float(loss.detach()), torch.autograd.grad(loss, trained)

    losses, gradients = zip(*pool.map(differentiate, micro), strict=True)
    for parameter, *parts in zip(trained, *gradients, strict=True):
        parameter.grad = torch.stack(parts).mean(0) if len(parts) > 1 else parts[0]
    torch.nn.utils.clip_grad_norm_(trained, clip)
    optimizer.step()
    return sum(losses) / len(losses)

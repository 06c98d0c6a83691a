"""Makers of biases: from pairs of the base's own answers, by preference optimisation or a difference of means."""

from __future__ import annotations

import importlib.util
import logging
import math
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from skippy.core.personality.pairs import Candidate, PairChoice, choose_pairs, whole_sentences
from skippy.models.loading import load_model, load_tokenizer
from skippy.presets.steering import SteerSettings
from skippy.resolve.bases import Base
from skippy.resolve.devices import pick_device
from skippy.stores.answers import CHARACTER, PLAIN, Answer
from skippy.stores.biases import Biases, require_place, write_biases
from skippy.stores.control_vectors import write_control_vector
from skippy.training.from_answers import SteerWork
from skippy.training.making import Made
from skippy.training.plan import RunSink
from skippy.training.steer_means import mean_difference, relative_shift
from skippy.training.steering import Steered, train_bias
from skippy.words import counted

logger = logging.getLogger(__name__)

ADAPTER_DIRECTORY = "adapter"
EXPORT_DIRECTORY = "export"


def make_bias(work: SteerWork, folder: Path, sink: RunSink) -> Made:
    """Find the biases and keep them."""
    tokenizer = load_tokenizer(work.base.path)
    choice = _choose_pairs(work, tokenizer)
    model = load_model(work.base.path, device=pick_device(work.device).type)
    steered = None
    if work.settings.objective == "bipo":
        steered = train_bias(model, tokenizer, choice.pairs, work.settings, sink)
    biases = steered.biases if steered else mean_difference(model, tokenizer, choice.pairs, work.settings)
    keep_biases(folder, sink, work.base, biases, work.variant, work.settings)
    prompts = list(dict.fromkeys(each.prompt for each in work.answers.of(PLAIN)))
    size = size_of(biases) | relative_shift(model, tokenizer, biases, prompts)
    return _describe(work.variant, choice, size, steered)


def _choose_pairs(work: SteerWork, tokenizer: Any) -> PairChoice:
    chosen, plain = (
        [_candidate(each, tokenizer) for each in work.answers.of(name)] for name in (CHARACTER, PLAIN)
    )
    settings = work.settings
    choice = choose_pairs(
        chosen,
        plain,
        work.rules,
        least_margin=settings.least_margin,
        fewest=settings.fewest_pairs,
        most=settings.most_pairs,
    )
    logger.info("train: %s", choice.describe())
    return choice


def keep_biases(
    folder: Path,
    sink: RunSink,
    base: Base,
    biases: Mapping[str, Tensor],
    variant: str,
    settings: SteerSettings,
) -> None:
    """Log `adapter/`, and a llama.cpp control vector where the package that writes one is installed.

    A family that has no place for such a bias is refused here, before anybody merges.
    """
    card = {
        "variant": variant,
        "base_digest": base.digest,
        "seed": settings.seed,
        "site": settings.site,
        "constraint": "none",
    }
    written = write_biases(folder / ADAPTER_DIRECTORY, biases, card)
    found = Biases(written, dict(biases), card)
    if settings.site != "block":
        require_place(found, base.checkpoint)
    sink.log_folder(written, ADAPTER_DIRECTORY)
    if importlib.util.find_spec("gguf") is None:
        logger.info("train: no llama.cpp control vector, as the package gguf is not installed")
        return
    write_control_vector(folder / EXPORT_DIRECTORY, found, base.checkpoint)
    sink.log_folder(folder / EXPORT_DIRECTORY, EXPORT_DIRECTORY)


def size_of(biases: Mapping[str, Tensor]) -> dict[str, float]:
    """How many numbers the biases are, and ‖·‖ of all together, as metrics."""
    norm = math.sqrt(sum(float(torch.sum(one.double() ** 2)) for one in biases.values()))
    return {"train/parameters": float(sum(one.numel() for one in biases.values())), "steer/norm": norm}


def _candidate(answer: Answer, tokenizer: Any) -> Candidate:
    text = answer.text if answer.is_complete else whole_sentences(answer.text)
    tokens = len(tokenizer(text, add_special_tokens=False)["input_ids"])
    return Candidate(answer.prompt, text, tokens, answer.is_complete)


def _describe(variant: str, choice: PairChoice, size: Mapping[str, float], steered: Steered | None) -> Made:
    metrics = {"steer/pairs": float(len(choice.pairs)), **size}
    sentence = f"{variant}, difference of means over {counted(len(choice.pairs), 'pair')}"
    if steered:
        metrics |= {
            "train/steps": float(steered.steps),
            "train/seconds": steered.seconds,
            "steer/best_epoch": float(steered.epoch),
            "steer/best_loss": steered.loss,
            "steer/best_told_apart": steered.told_apart,
        }
        sentence = (
            f"{variant}, {counted(steered.steps, 'step')} in {steered.seconds:.0f} s on "
            f"{counted(steered.train_pairs, 'pair')}, "
            f"loss {math.log(2):.3f} → {steered.loss:.3f} on {steered.held_out_pairs} held-out ones (epoch "
            f"{steered.epoch})"
        )
    counts = {name: value for name, value in asdict(choice).items() if name != "pairs"}
    return Made(sentence, metrics, {"steer/pairs.json": counts | {"pairs": len(choice.pairs)}})

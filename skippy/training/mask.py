"""A personality subnetwork: which weights go, from the base's own answers, without training.

Statistics are taken on the base's answers under the character's prompt and plainly, answer tokens only, each read as
an answer to the plain prompt: the model is to be the character without being asked. Then every target is looked at
once. Beside the mask stands a placebo, made in the same way from another plain phrasing in place of the character's
prompt, and the null: two plain phrasings. A mask that differs from its placebo no more than they differ from each
other is of no persona.

Source: arXiv 2602.07164. Departure: masks that spare what matters (`core.spectral.masks`), the placebo and its null.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from skippy.core.personality.measurement import measure_dense
from skippy.core.personality.reference import CharacterReference, prepare_gauge
from skippy.core.spectral.masks import cut_mask
from skippy.core.target import Target
from skippy.models.activations import mean_hidden
from skippy.models.loading import load_model, load_tokenizer
from skippy.models.targets import select_targets
from skippy.resolve.bases import Base
from skippy.resolve.devices import pick_device
from skippy.resolve.dial import apply_
from skippy.stores.answers import CHARACTER, PLAIN
from skippy.stores.mask_changes import MaskChange, write_mask
from skippy.training.from_answers import MaskWork
from skippy.training.making import Made
from skippy.training.mask_statistics import Statistics, input_of, read_statistics
from skippy.training.mask_survey import Survey, project_kept, survey_masks
from skippy.training.plan import RunSink

ADAPTER = "adapter"
FULL_DOSE = 100
"""Where curves over steps have the dose in percent."""


def make_mask(work: MaskWork, folder: Path, sink: RunSink) -> Made:
    """Statistics, masks, placebo, deltas."""
    began = time.perf_counter()
    where = pick_device(work.device).type
    model, tokenizer = load_model(work.base.path, device=where), load_tokenizer(work.base.path)
    targets = select_targets(work.base.targets, work.settings.targets)
    statistics = read_statistics(model, tokenizer, targets, work.answers, work.settings.seed)
    read = time.perf_counter()
    bases = work.projectors.bases if work.projectors else None
    survey = survey_masks(model, targets, statistics, work.settings, bases)
    change = _change(work, folder / ADAPTER, targets, statistics, survey)
    sink.log_folder(write_mask(change), ADAPTER)
    sink.log_table(survey.rows, "mask/targets.parquet")
    made = time.perf_counter()
    if work.reference is not None:
        _measure(work.reference.load(), work.base, model, tokenizer, change, sink)
    metrics = {
        **survey.metrics(),
        "train/parameters": float(survey.counts["cut"]),
        "train/seconds": time.perf_counter() - began,
        "mask/statistics_seconds": read - began,
        "mask/masks_seconds": made - read,
    }
    return Made(_sentence(work.variant.name, survey), metrics)


def _change(
    work: MaskWork, path: Path, targets: tuple[Target, ...], statistics: Statistics, survey: Survey
) -> MaskChange:
    stored = {
        f"{name}.{side}": statistics[group][name]
        for side, group in (("plus", CHARACTER), ("minus", PLAIN))
        for name in statistics[group]
    }
    kept = work.projectors.bases if work.projectors and work.settings.projected else {}
    triples = {
        f"{target.name}.{side}": getattr(kept[target.name], side)
        for target in targets
        if target.name in kept
        for side in ("U", "V")
    }
    card = {
        "update": "mask",
        "variant": work.variant.name,
        "base_digest": work.base.digest,
        "seed": work.settings.seed,
        "projector_digest": work.projector_digest if triples else "",
        **survey.metrics(),
    }
    masks = {
        target.name: {"input": input_of(target), "sha256": survey.hashes[target.name]} for target in targets
    }
    rule, rho = work.settings.rule, work.settings.rho
    return MaskChange(path, rule, rho, masks, statistics=stored, triples=triples, card=card)


@torch.no_grad()
def _measure(
    whole: CharacterReference, base: Base, model: nn.Module, tokenizer: Any, change: MaskChange, sink: RunSink
) -> None:
    """The character delta at full dose, as a training logs it at its last step."""
    reference = whole.of_targets(change.targets)
    gauge = prepare_gauge(reference, device=next(model.parameters()).device)
    weights = dict(model.named_parameters())
    kept = {
        name: (change.triples.get(f"{name}.U"), change.triples.get(f"{name}.V")) for name in change.targets
    }

    def deltas() -> Iterator[tuple[str, Tensor]]:
        for name, each in change.targets.items():
            weight = weights[f"{name}.weight"].float()
            sides = [change.statistics[f"{each['input']}.{side}"].to(weight) for side in ("plus", "minus")]
            cut = cut_mask(change.rule, weight, sides[0], sides[1], change.rho)
            yield name, project_kept(-torch.where(cut, weight, 0.0), *kept[name])

    plain = measure_dense(deltas(), gauge)
    apply_(weights, base.checkpoint, change, 1.0)
    hidden = mean_hidden(model, tokenizer, reference.traits)
    found = plain.with_traits(hidden, gauge)
    sink.log_metrics(found.metrics(), step=FULL_DOSE)
    sink.log_table([asdict(row) for row in found.rows], "character_deltas/step_000100.parquet")
    sink.log_table(found.pooled_rows(), "character_pooled/step_000100.parquet")
    sink.log_table(found.trait_rows(), "character_traits/step_000100.parquet")


def _sentence(variant: str, survey: Survey) -> str:
    word = "persona-specific" if survey.is_specific else "not persona-specific"
    return (
        f"{variant}, {100 * survey.share:.1f} % of the weights go; {100 * survey.placebo:.1f} % differ "
        f"from the placebo, {100 * survey.null:.1f} % between two plain phrasings: {word}"
    )

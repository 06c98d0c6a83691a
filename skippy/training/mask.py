"""A personality subnetwork: which weights go, from the base's own answers, without training.

Statistics are taken on the base's answers under the character's prompt and plainly, answer tokens only, each read as
an answer to the plain prompt: the model is to be the character without being asked. Then every target is looked at
once. Beside the mask stands a placebo, made in the same way from another plain phrasing in place of the character's
prompt, and the null: two plain phrasings. A mask that differs from its placebo no more than they differ from each
other is of no persona.

Source: arXiv 2602.07164. Departure: masks that spare what matters (`core.spectral.masks`), the placebo and its null.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from skippy.core.basis import Basis
from skippy.core.personality.measurement import measure_dense
from skippy.core.personality.reference import CharacterReference, prepare_gauge
from skippy.core.spectral.masks import cut_mask
from skippy.core.target import Target
from skippy.core.variants import Variant
from skippy.models.activations import mean_hidden
from skippy.models.loading import load_model, load_tokenizer
from skippy.models.targets import select_targets
from skippy.presets.methods import MaskSettings
from skippy.resolve.bases import Base
from skippy.resolve.devices import pick_device
from skippy.resolve.dial import apply_
from skippy.stores.answers import CHARACTER, PLAIN, Answers
from skippy.stores.mask_changes import MaskChange, write_mask
from skippy.training.making import Anew, Made, work_name
from skippy.training.mask_statistics import Statistics, input_of, read_statistics
from skippy.training.mask_survey import Survey, project_kept, survey_masks
from skippy.training.plan import RunSink

ADAPTER = "adapter"
FULL_DOSE = 100
"""Where curves over steps have the dose in percent."""


@dataclass(frozen=True, eq=False)
class MaskMaker(Anew):
    """Makes a mask; see `training.making.Maker`."""

    variant: Variant
    base: Base
    settings: MaskSettings
    answers: Answers
    bases: Mapping[str, Basis] | None
    projector_digest: str
    reference: CharacterReference | None
    device: str

    @property
    def identity(self) -> Mapping[str, Any]:
        """Base, settings, answers, and the directions kept or measured."""
        texts = [asdict(each) for name in self.answers.by_condition for each in self.answers.of(name)]
        return {
            "variant": self.variant.name,
            "base_digest": self.base.digest,
            "reading": self.base.reading,
            "settings": asdict(self.settings),
            "answers": hashlib.sha256(repr(texts).encode()).hexdigest(),
            "projector_digest": self.projector_digest,
        }

    def name_work(self) -> tuple[str, ...]:
        """The workspace."""
        return work_name(self.variant.name, self.base.digest, self.settings.seed, self.identity)

    def make(self, folder: Path, sink: RunSink, *, is_first: bool) -> Made | None:
        """Statistics, masks, placebo, deltas."""
        if not is_first:
            return None
        began = time.perf_counter()
        where = pick_device(self.device).type
        model, tokenizer = load_model(self.base.path, device=where), load_tokenizer(self.base.path)
        targets = select_targets(self.base.targets, self.settings.targets)
        statistics = read_statistics(model, tokenizer, targets, self.answers, self.settings.seed)
        read = time.perf_counter()
        survey = survey_masks(model, targets, statistics, self.settings, self.bases)
        change = self._change(folder / ADAPTER, targets, statistics, survey)
        sink.log_folder(write_mask(change), ADAPTER)
        sink.log_table(survey.rows, "mask/targets.parquet")
        made = time.perf_counter()
        if self.reference is not None:
            self._measure(model, tokenizer, change, sink)
        metrics = {
            **survey.metrics(),
            "train/parameters": float(survey.counts["cut"]),
            "train/seconds": time.perf_counter() - began,
            "mask/statistics_seconds": read - began,
            "mask/masks_seconds": made - read,
        }
        return Made(self._sentence(survey), metrics)

    def _change(
        self, path: Path, targets: tuple[Target, ...], statistics: Statistics, survey: Survey
    ) -> MaskChange:
        stored = {
            f"{name}.{side}": statistics[group][name]
            for side, group in (("plus", CHARACTER), ("minus", PLAIN))
            for name in statistics[group]
        }
        kept = (self.bases or {}) if self.settings.projected else {}
        triples = {
            f"{target.name}.{side}": getattr(kept[target.name], side)
            for target in targets
            if target.name in kept
            for side in ("U", "V")
        }
        card = {
            "update": "mask",
            "variant": self.variant.name,
            "base_digest": self.base.digest,
            "seed": self.settings.seed,
            "projector_digest": self.projector_digest if triples else "",
            **survey.metrics(),
        }
        masks = {
            target.name: {"input": input_of(target), "sha256": survey.hashes[target.name]}
            for target in targets
        }
        rule, rho = self.settings.rule, self.settings.rho
        return MaskChange(path, rule, rho, masks, statistics=stored, triples=triples, card=card)

    @torch.no_grad()
    def _measure(self, model: nn.Module, tokenizer: Any, change: MaskChange, sink: RunSink) -> None:
        """The character delta at full dose, as a training logs it at its last step."""
        assert self.reference is not None
        reference = self.reference.of_targets(change.targets)
        gauge = prepare_gauge(reference, device=next(model.parameters()).device)
        weights = dict(model.named_parameters())
        kept = {
            name: (change.triples.get(f"{name}.U"), change.triples.get(f"{name}.V"))
            for name in change.targets
        }

        def deltas() -> Iterator[tuple[str, Tensor]]:
            for name, each in change.targets.items():
                weight = weights[f"{name}.weight"].float()
                sides = [
                    change.statistics[f"{each['input']}.{side}"].to(weight) for side in ("plus", "minus")
                ]
                cut = cut_mask(change.rule, weight, sides[0], sides[1], change.rho)
                yield name, project_kept(-torch.where(cut, weight, 0.0), *kept[name])

        plain = measure_dense(deltas(), gauge)
        apply_(weights, self.base.checkpoint, change, 1.0)
        hidden = mean_hidden(model, tokenizer, reference.traits)
        found = plain.with_traits(hidden, gauge)
        sink.log_metrics(found.metrics(), step=FULL_DOSE)
        sink.log_table([asdict(row) for row in found.rows], "character_deltas/step_000100.parquet")
        sink.log_table(found.pooled_rows(), "character_pooled/step_000100.parquet")
        sink.log_table(found.trait_rows(), "character_traits/step_000100.parquet")

    def _sentence(self, survey: Survey) -> str:
        word = "persona-specific" if survey.is_specific else "not persona-specific"
        return (
            f"{self.variant.name}, {100 * survey.share:.1f} % of the weights go; {100 * survey.placebo:.1f} % differ "
            f"from the placebo, {100 * survey.null:.1f} % between two plain phrasings: {word}"
        )

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
import logging
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from skippy.core.basis import Basis
from skippy.core.personality.measurement import measure_dense
from skippy.core.personality.reference import CharacterReference, prepare_gauge
from skippy.core.spectral.masks import cut_mask, project_cut, require_contrast
from skippy.core.target import Target
from skippy.core.variants import Variant
from skippy.models.activations import mean_hidden
from skippy.models.answering import pad_id
from skippy.models.hooks import Hook, Reading, read_squares, reading_of
from skippy.models.loading import load_model, load_tokenizer
from skippy.models.prompts import conversation
from skippy.models.targets import select_targets
from skippy.presets.methods import MaskSettings
from skippy.resolve.bases import Base
from skippy.resolve.dial import apply_
from skippy.stores.answers import CHARACTER, PLAIN, PLAIN_B, PLAIN_C, Answer, Answers
from skippy.stores.mask_changes import MaskChange, mask_bytes, write_mask
from skippy.training.guards import choose_device
from skippy.training.making import Made
from skippy.training.plan import RunSink

logger = logging.getLogger(__name__)

ADAPTER = "adapter"
READ_AT_ONCE = 16
ROWS_AT_ONCE = 1024  # scores are float32 and several; masks are made by rows
SPECIFIC_EXCESS = 0.1
"""By how much of the null a mask must differ from its placebo more than the null, to be called persona-specific."""
FULL_DOSE = 100
"""Where curves over steps have the dose in percent."""
Statistics = Mapping[str, Mapping[str, Tensor]]
"""Group of answers → input of a module → a, (in,) float32."""


@dataclass(frozen=True, eq=False)
class MaskMaker:
    """Makes a mask; see `training.making.Maker`."""

    variant: Variant
    base: Base
    settings: MaskSettings
    answers: Answers
    bases: Mapping[str, Basis] | None
    projector_digest: str
    reference: CharacterReference | None
    device: str
    rewards_digest: str = ""

    @property
    def identity(self) -> Mapping[str, Any]:
        """Base, settings, answers, and the directions kept or measured."""
        texts = [asdict(each) for name in self.answers.by_condition for each in self.answers.of(name)]
        return {
            "variant": self.variant.name,
            "base_digest": self.base.digest,
            "settings": asdict(self.settings),
            "answers": hashlib.sha256(repr(texts).encode()).hexdigest(),
            "projector_digest": self.projector_digest,
        }

    def name_work(self) -> tuple[str, ...]:
        """The workspace."""
        digest = hashlib.sha256(repr(self.identity).encode()).hexdigest()
        return ("train", self.variant.name, self.base.digest[:16], digest[:16])

    def going_on(self, resume: bool) -> MaskMaker:
        """The same: it takes minutes, and begins anew."""
        return self

    def make(self, folder: Path, sink: RunSink, *, is_first: bool) -> Made | None:
        """Statistics, masks, placebo, deltas."""
        if not is_first:
            return None
        began = time.perf_counter()
        where = "cuda" if choose_device(self.device) else "cpu"
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
                yield name, _project(-torch.where(cut, weight, 0.0), *kept[name])

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


def input_of(target: Target) -> str:
    """The input that a target reads; q, k and v share one, as gate and up do."""
    return (target.name.rsplit(".", 1)[0] if target.side == "reads" else target.name) + ".input"


def read_statistics(
    model: nn.Module, tokenizer: Any, targets: tuple[Target, ...], answers: Answers, seed: int
) -> Statistics:
    """a_j = sqrt(mean_t x_tj²) of every input, by condition and for two halves of the character's and plain prompts.

    Args:
        answers: of the base; read without system prompt, answer tokens only.
        seed: of the split of the prompts into halves.

    Returns:
        The four conditions, and `character/0`, `character/1`, `plain/0`, `plain/1`; float32 on the model's device.
    """
    prompts = list(dict.fromkeys(each.prompt for each in answers.of(PLAIN)))
    order = torch.randperm(len(prompts), generator=torch.Generator().manual_seed(seed)).tolist()
    half = {prompts[index]: place % 2 for place, index in enumerate(order)}
    names = [f"{CHARACTER}/0", f"{CHARACTER}/1", f"{PLAIN}/0", f"{PLAIN}/1", PLAIN_B, PLAIN_C]

    def group(answer: Answer) -> int:
        split = f"{answer.condition}/{half[answer.prompt]}"
        return names.index(split if split in names else answer.condition)

    hooks = {input_of(target): Hook(input_of(target), target.name, "reads") for target in targets}
    readings = [
        _reading(tokenizer, each, group(each))
        for condition in answers.by_condition
        for each in answers.of(condition)
        if each.text.strip()
    ]
    squares, tokens = read_squares(
        *(model, readings, list(hooks.values())),
        groups=len(names),
        pad_id=pad_id(tokenizer),
        batch_size=READ_AT_ONCE,
        label="statistics",
    )
    device = next(model.parameters()).device
    members = {name: [index] for index, name in enumerate(names)}
    members |= {CHARACTER: [0, 1], PLAIN: [2, 3]}
    return {
        name: {
            hook: (total[rows].sum(0) / tokens[rows].sum()).sqrt().float().to(device)
            for hook, total in squares.items()
        }
        for name, rows in members.items()
    }


def _reading(tokenizer: Any, answer: Answer, group: int) -> Reading:
    """The answer after the plain prompt, whatever it was asked under."""
    return reading_of(tokenizer, conversation(answer.prompt), answer.text, group)


@dataclass
class Survey:
    """What one look at every target found; shares are of all weights looked at.

    Attributes:
        rows: a line a target.
        hashes: sha256 of each mask's bits.
        counts: weights, cut, and flips against the placebo, between plain phrasings, between half splits.
        energies: ‖W‖², ‖ΔW‖², and of ΔW inside the top-k directions on either side.
        chances: k/out and k/in, and how many targets have directions.
    """

    rows: list[dict[str, Any]] = field(default_factory=list)
    hashes: dict[str, str] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    energies: dict[str, float] = field(default_factory=dict)

    def add(self, name: str, counts: Mapping[str, int], energies: Mapping[str, float], sha256: str) -> None:
        """Take one target."""
        for key, count in counts.items():
            self.counts[key] = self.counts.get(key, 0) + count
        for key, energy in energies.items():
            self.energies[key] = self.energies.get(key, 0.0) + energy
        shares = {key: value / counts["weights"] for key, value in counts.items() if key != "weights"}
        self.rows.append({"target": name, "weights": counts["weights"], **shares, **energies})
        self.hashes[name] = sha256

    def _share(self, name: str) -> float:
        return self.counts[name] / self.counts["weights"]

    @property
    def share(self) -> float:
        """Of the weights that go."""
        return self._share("cut")

    @property
    def placebo(self) -> float:
        """Of the weights on which mask and placebo differ."""
        return self._share("placebo")

    @property
    def null(self) -> float:
        """Of the weights on which masks of two plain phrasings differ."""
        return self._share("null")

    @property
    def is_specific(self) -> bool:
        """Whether the mask differs from its placebo clearly more than plain phrasings do from each other."""
        return self.placebo > (1 + SPECIFIC_EXCESS) * self.null

    def metrics(self) -> dict[str, float]:
        """The figures under their names in the tracker."""
        energy = self.energies
        found = {
            "mask/cut": self.share,
            "mask/flips_placebo": self.placebo,
            "mask/flips_null": self.null,
            "mask/flips_halves": self._share("halves"),
            "mask/is_specific": float(self.is_specific),
            "delta/relative_norm": (energy["delta"] / energy["weight"]) ** 0.5,
        }
        if energy.get("leakable"):
            found |= {
                f"leakage/{figure}_{side}": energy[f"{figure}_{side}"] / energy["leakable"]
                for figure in ("rho", "chance")
                for side in ("left", "right")
            }
        return found


@torch.no_grad()
def survey_masks(
    model: nn.Module,
    targets: tuple[Target, ...],
    statistics: Statistics,
    settings: MaskSettings,
    bases: Mapping[str, Basis] | None,
) -> Survey:
    """Mask, placebo, null and half splits of every target, one target in float32 at a time.

    Raises:
        SubspaceError: an input has no contrast.
    """
    weights, survey = dict(model.named_parameters()), Survey()
    for target in targets:
        stored, name = weights[target.weight_key], input_of(target)
        a = {group: found[name] for group, found in statistics.items()}
        require_contrast(settings.rule, a[CHARACTER], a[PLAIN], target.name)

        def cut(plus: str, minus: str, W: Tensor = stored, a: Mapping[str, Tensor] = a) -> Tensor:
            parts = (
                cut_mask(settings.rule, rows, a[plus], a[minus], settings.rho)
                for rows in W.split(ROWS_AT_ONCE)
            )
            return torch.cat(list(parts))

        mask, placebo = cut(CHARACTER, PLAIN), cut(PLAIN_B, PLAIN)
        halves = [cut(f"{CHARACTER}/{half}", f"{PLAIN}/{half}") for half in (0, 1)]
        counts = {
            "weights": stored.numel(),
            "cut": int(mask.sum()),
            "placebo": int((mask ^ placebo).sum()),
            "null": int((cut(PLAIN_C, PLAIN) ^ placebo).sum()),
            "halves": int((halves[0] ^ halves[1]).sum()),
        }
        basis = (bases or {}).get(target.name)
        weight = stored.float()
        delta = -torch.where(mask, weight, 0.0)
        if settings.projected:
            assert basis is not None
            delta = _project(delta, basis.U, basis.V)
        energies = {"weight": _energy(weight), "delta": _energy(delta), **_leakage(delta, basis)}
        survey.add(target.name, counts, energies, hashlib.sha256(mask_bytes(mask)).hexdigest())
    return survey


def _project(delta: Tensor, U: Tensor | None, V: Tensor | None) -> Tensor:
    if U is None or V is None:
        return delta
    U, V = U.to(delta), V.to(delta)
    return project_cut(delta, U, V, U.mT @ delta)


def _leakage(delta: Tensor, basis: Basis | None) -> dict[str, float]:
    """‖UᵀΔW‖², ‖ΔWV‖² and what chance gives, weighted by the target's energy."""
    if basis is None:
        return {}
    U, V = basis.U.to(delta), basis.V.to(delta)
    energy, k = _energy(delta), U.shape[1]
    return {
        "leakable": energy,
        "rho_left": _energy(U.mT @ delta),
        "rho_right": _energy(delta @ V),
        "chance_left": energy * k / delta.shape[0],
        "chance_right": energy * k / delta.shape[1],
    }


def _energy(matrix: Tensor) -> float:
    return float(matrix.square().sum(dtype=torch.float64))

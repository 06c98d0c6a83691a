"""The character delta: what an adapter does to the personality, beside what chance would do.

`measure_character` reads an adapter against a gauge (`reference.py`) at any step of training, from the adapter's
factors alone; the trait profile (`traits.py`) also wants the adapted model's activations.

Source: MATH §5.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from skippy.core.personality.deltas import EnergyRatio, null_energies, pool_energies, residual_rows
from skippy.core.personality.reference import CharacterGauge, GaugedHook, MeasuredTarget, middle_layers
from skippy.core.personality.traits import TraitProfile, measure_traits
from skippy.core.spectral.lora import LoraFactors
from skippy.errors import AdapterError


@dataclass(frozen=True)
class TargetDelta:
    """One line of the per-target table; the null figures are of this target alone."""

    target: str
    layer: int
    kind: str
    side: str
    K: int
    delta_norm: float
    energy: float
    ratio: float
    chance: float
    null_mean: float
    null_sd: float
    null_low: float
    null_high: float
    z: float
    singular_values: tuple[float, ...]


@dataclass(frozen=True)
class CharacterMeasurement:
    """The character delta of one adapter at one step."""

    rows: tuple[TargetDelta, ...]  # one a target
    pooled: EnergyRatio  # `personality_energy_ratio`, Σ energy / Σ ‖ΔW‖² over all targets
    mean: EnergyRatio  # the seed's `mean_personality_energy_ratio` over `middle_layers`
    layers: Mapping[int, EnergyRatio]  # pooled within each layer
    kinds: Mapping[str, EnergyRatio]  # pooled within each module kind
    delta_norm: float  # ‖ΔW‖ over all targets
    traits: TraitProfile | None  # the trait profile, where activations were given

    def with_traits(self, hidden: Float[Tensor, "T L d"], gauge: CharacterGauge) -> CharacterMeasurement:
        """The same with the trait profile, for activations that were read after the deltas."""
        return replace(self, traits=measure_traits(hidden, gauge))

    def metrics(self) -> dict[str, float]:
        """Numbers by metric name. What is not finite is left out: an update that is zero has no ratio."""
        named = {
            "character/personality_energy_ratio": self.pooled.ratio,
            "character/chance": self.pooled.chance,
            "character/null_mean": self.pooled.null_mean,
            "character/null_low": self.pooled.null_low,
            "character/null_high": self.pooled.null_high,
            "character/null_z": self.pooled.z,
            "character/mean_personality_energy_ratio": self.mean.ratio,
            "character/mean_null_z": self.mean.z,
            "character/delta_norm": self.delta_norm,
        }
        if self.traits is not None:
            named |= {f"character/trait/{name}": value for name, value in self.traits.coordinates.items()}
            named |= {f"character/trait_null/{name}": reach for name, reach in self.traits.null_reach.items()}
            named |= {
                "character/trait_explained": self.traits.explained,
                "character/trait_condition": self.traits.condition,
                "character/activation_energy_ratio": self.traits.activation.ratio,
                "character/activation_null_z": self.traits.activation.z,
            }
        return {name: value for name, value in named.items() if math.isfinite(value)}

    def pooled_rows(self) -> list[dict[str, str | float]]:
        """The pooled ratios with their nulls as a table: one line a layer, then one a module kind."""
        groups = {("layer", str(layer)): ratio for layer, ratio in self.layers.items()}
        groups |= {("kind", kind): ratio for kind, ratio in self.kinds.items()}
        return [{"group": group, "name": name, **vars(ratio)} for (group, name), ratio in groups.items()]

    def trait_rows(self) -> list[dict[str, str | float]]:
        """The trait profile with its null as a table; empty where no activations were given."""
        if self.traits is None:
            return []
        return [
            {"trait": name, "value": value, "null_reach": self.traits.null_reach[name]}
            for name, value in self.traits.coordinates.items()
        ]


def measure_character(
    factors: Mapping[str, LoraFactors], gauge: CharacterGauge, hidden: Float[Tensor, "T L d"] | None = None
) -> CharacterMeasurement:
    """Read an adapter against the base's personality, its null and its traits.

    Args:
        factors: the adapter, one entry for every target of the reference.
        gauge: reference and null, on the factors' device.
        hidden: the adapted model's mean activations on the reference's probes; None leaves the traits out.

    Raises:
        AdapterError: targets missing, unknown, misshapen or not finite.
    """
    targets = gauge.reference.targets
    _check_targets(factors, targets)
    return _measure(*_energies(_rows_by_target(factors, targets), gauge), gauge, hidden)


def measure_dense(
    deltas: Iterable[tuple[str, Float[Tensor, "_out _in"]]], gauge: CharacterGauge
) -> CharacterMeasurement:
    """Read an update that is no product of factors, a target at a time: ΔW itself is never kept.

    Raises:
        AdapterError: targets missing, unknown or misshapen.
    """
    targets = {target.name: target for target in gauge.reference.targets}
    seen: dict[str, tuple[Tensor, Tensor, Tensor]] = {}
    for name, delta in deltas:
        if name in targets:
            hook = gauge.hooks[targets[name].hook]
            rows = (delta if targets[name].side == "reads" else delta.mT).double()
            _check_width(rows, hook, name)
            drawn = null_energies(rows, hook.sketch, hook.draws).sum(1)
            seen[name] = (rows @ hook.P.T, rows.square().sum().cpu(), drawn.cpu())
    _check_targets(seen, gauge.reference.targets)
    parts = [seen[target.name] for target in gauge.reference.targets]
    inside, totals, nulls = (list(each) for each in zip(*parts, strict=True))
    return _measure(inside, torch.stack(totals), torch.stack(nulls), gauge, None)


def _measure(
    inside: Sequence[Tensor],
    totals: Float[Tensor, " n"],
    nulls: Float[Tensor, "n count"],
    gauge: CharacterGauge,
    hidden: Float[Tensor, "T L d"] | None,
) -> CharacterMeasurement:
    """From Y Pᵀ, ‖Y‖² and the null energies of every target to the measurement."""
    targets = gauge.reference.targets
    energies = torch.stack([part.square().sum() for part in inside]).cpu()
    widths = [gauge.hooks[target.hook].P.shape for target in targets]
    chances = torch.tensor([K / d for K, d in widths], dtype=torch.float64)
    layers, kinds = _members(target.layer for target in targets), _members(target.kind for target in targets)
    mean = _seed_weights(targets, totals, gauge.reference.depth)
    each, everything = torch.eye(len(targets), dtype=torch.float64), torch.ones_like(mean)
    weights = torch.cat([each, *layers.values(), *kinds.values(), mean, everything])
    ratios = iter(pool_energies(energies, totals, chances, nulls, weights))
    return CharacterMeasurement(
        rows=_table(
            targets, widths, [next(ratios) for _ in targets], energies, totals, _singular_values(inside)
        ),
        layers={layer: next(ratios) for layer in layers},
        kinds={kind: next(ratios) for kind in kinds},
        mean=next(ratios),
        pooled=next(ratios),
        delta_norm=math.sqrt(float(totals.sum())),
        traits=None if hidden is None else measure_traits(hidden, gauge),
    )


def _check_targets(factors: Mapping[str, object], targets: Sequence[MeasuredTarget]) -> None:
    names = {target.name for target in targets}
    unknown, missing = sorted(set(factors) - names), sorted(names - set(factors))
    if unknown or missing:
        raise AdapterError(
            "The adapter and the character reference name different targets.",
            where=", ".join((unknown or missing)[:3]),
            expected=f"{len(names)} targets",
            found=f"{len(factors)}, of which {len(unknown)} unknown; {len(missing)} missing",
            next_step="measure the reference on the base that the adapter was trained on",
        )


def _rows_by_target(
    factors: Mapping[str, LoraFactors], targets: Sequence[MeasuredTarget]
) -> dict[str, Float[Tensor, "_r _d"]]:
    """Every target's `residual_rows`, computed in stacks of equal shape, side and scale."""
    stacks = defaultdict(list)
    for target in targets:
        one = factors[target.name]
        stacks[target.side, one.A.shape, one.B.shape, one.scale].append(target.name)
    rows: dict[str, Tensor] = {}
    for (side, _, _, scale), names in stacks.items():
        A = torch.stack([factors[name].A.detach() for name in names])
        B = torch.stack([factors[name].B.detach() for name in names])
        if not math.isfinite(float(A.sum()) + float(B.sum())):  # a sum carries what is not finite
            raise AdapterError(
                "The adapter holds values that are not finite.", where=f"one of {', '.join(names[:3])} …"
            )
        rows.update(zip(names, residual_rows(A, B, scale, side), strict=True))
    return rows


def _energies(
    rows: Mapping[str, Float[Tensor, "_r _d"]], gauge: CharacterGauge
) -> tuple[list[Tensor], Float[Tensor, " n"], Float[Tensor, "n count"]]:
    """Per target: Y Pᵀ, ‖Y‖² and the null energies; each hook's tensors are touched once."""
    targets = gauge.reference.targets
    inside: dict[str, Tensor] = {}
    nulls: dict[str, Tensor] = {}
    for name, group in _grouped(target.hook for target in targets).items():
        hook, names = gauge.hooks[name], [targets[i].name for i in group]
        for target in names:
            _check_width(rows[target], hook, target)
        stacked = torch.cat([rows[target] for target in names])
        sizes = [len(rows[target]) for target in names]
        inside.update(zip(names, (stacked @ hook.P.T).split(sizes), strict=True))
        drawn = null_energies(stacked, hook.sketch, hook.draws).split(sizes, dim=1)
        nulls.update((target, part.sum(1)) for target, part in zip(names, drawn, strict=True))
    totals = torch.stack([rows[target.name].square().sum() for target in targets]).cpu()
    drawn_all = torch.stack([nulls[target.name] for target in targets]).cpu()
    return [inside[target.name] for target in targets], totals, drawn_all


def _check_width(rows: Float[Tensor, "r d"], hook: GaugedHook, target: str) -> None:
    if rows.shape[1] != hook.P.shape[1]:
        raise AdapterError(
            "A target's residual side has another width than the reference.",
            where=target,
            expected=str(hook.P.shape[1]),
            found=str(rows.shape[1]),
        )


def _singular_values(inside: Sequence[Float[Tensor, "_r _K"]]) -> list[tuple[float, ...]]:
    """Singular values of each character matrix, descending, ≤ K; on the CPU, where tiny ones are quick."""
    values: dict[int, tuple[float, ...]] = {}
    for group in _grouped(part.shape for part in inside).values():
        stack = torch.stack([inside[i] for i in group]).cpu()
        values.update(zip(group, map(tuple, torch.linalg.svdvals(stack).tolist()), strict=True))
    return [values[i] for i in range(len(inside))]


def _members(keys: Iterable[Hashable]) -> dict[Hashable, Float[Tensor, "1 n"]]:
    """One row of zeros and ones a key: which targets are pooled under it."""
    listed = list(keys)
    return {
        key: torch.tensor([[float(other == key) for other in listed]], dtype=torch.float64)
        for key in dict.fromkeys(listed)
    }


def _seed_weights(
    targets: Sequence[MeasuredTarget], totals: Float[Tensor, " n"], depth: int
) -> Float[Tensor, "1 n"]:
    """Weights that turn pooling into the seed's mean: equal targets within a layer, then equal middle layers.

    A target whose update is zero has no ratio and does not take part.
    """
    middle = middle_layers(depth)
    chosen = [i for i, target in enumerate(targets) if target.layer in middle and float(totals[i]) > 0]
    sizes = {layer: len(group) for layer, group in _grouped(targets[i].layer for i in chosen).items()}
    weights = torch.zeros(1, len(targets), dtype=torch.float64)
    for i in chosen:
        weights[0, i] = 1.0 / (float(totals[i]) * sizes[targets[i].layer] * len(sizes))
    return weights


def _table(
    targets: Sequence[MeasuredTarget],
    widths: Sequence[Sequence[int]],
    ratios: Sequence[EnergyRatio],
    energies: Float[Tensor, " n"],
    totals: Float[Tensor, " n"],
    singular: Sequence[tuple[float, ...]],
) -> tuple[TargetDelta, ...]:
    return tuple(
        TargetDelta(
            target=target.name,
            layer=target.layer,
            kind=target.kind,
            side=target.side,
            K=widths[i][0],
            delta_norm=math.sqrt(float(totals[i])),
            energy=float(energies[i]),
            singular_values=singular[i],
            **vars(ratios[i]),
        )
        for i, target in enumerate(targets)
    )


def _grouped(keys: Iterable) -> dict:
    """Positions by key, in order of first appearance."""
    groups = defaultdict(list)
    for position, key in enumerate(keys):
        groups[key].append(position)
    return dict(groups)

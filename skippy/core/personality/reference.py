"""What is known of base and character before training: subspaces, traits, and the null to hold against them.

A `CharacterReference` is measured once on the base (skippy/models/activations.py) and kept
(skippy/stores/references.py). `prepare_gauge` draws its null; then any number of adapters can be read.

Source: MATH §5.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from skippy.core.personality.deltas import draw_coordinates
from skippy.core.personality.subspaces import PersonaSubspace
from skippy.errors import SubspaceError

FEWEST_DRAWS = 200


@dataclass(frozen=True)
class HookReference:
    """What the base does at one point of the residual stream."""

    subspace: PersonaSubspace  # the personality subspace P there
    sketch: Float[Tensor, "m d"]  # (m, d) samples of the activations' covariance, for the null
    held_out: float  # share of the energy of centroids on unseen prompts that P captures
    tokens: int  # answer tokens that were averaged


@dataclass(frozen=True)
class MeasuredTarget:
    """One target and the hook on its residual side."""

    name: str
    layer: int
    kind: str
    side: str
    hook: str


@dataclass(frozen=True)
class TraitReference:
    """The N-dimensional character space of the base, at L layers of the residual stream."""

    names: tuple[str, ...]  # the N traits
    hooks: tuple[str, ...]  # names of the L hooks, one a layer
    vectors: Float[Tensor, "L N d"]  # (L, N, d) trait vectors
    # (prompt, answer) pairs that are read teacher-forced at every measurement
    probes: tuple[tuple[str, str], ...]
    hidden: Float[Tensor, "T L d"]  # (T, L, d) the base's mean activation over each probe's answer tokens
    tokens: Float[Tensor, " T"]  # (T,) answer tokens of each probe


@dataclass(frozen=True)
class CharacterReference:
    """Everything about base and character that a measurement needs; stored by skippy/stores/references.py."""

    base_digest: str
    character_digest: str
    depth: int
    targets: tuple[MeasuredTarget, ...]
    hooks: Mapping[str, HookReference]
    traits: TraitReference

    def of_targets(self, names: Collection[str]) -> CharacterReference:
        """The same reference for an adapter on some of its targets only."""
        return replace(self, targets=tuple(target for target in self.targets if target.name in names))


@dataclass(frozen=True)
class GaugedHook:
    """A hook's tensors on the measuring device: P (K, d) float64, sketch (m, d) and draws (count, K, m)."""

    P: Float[Tensor, "K d"]
    sketch: Float[Tensor, "m d"]
    draws: Float[Tensor, "count K m"]


@dataclass(frozen=True)
class CharacterGauge:
    """A reference with its null drawn, ready to measure many adapters."""

    reference: CharacterReference
    hooks: Mapping[str, GaugedHook]
    count: int
    seed: int


def middle_layers(depth: int) -> range:
    """The middle half of the layers: 9–26 of 36, as the seed had it, and the same proportion elsewhere."""
    return range(depth // 4, -(-3 * depth // 4))


def prepare_gauge(
    reference: CharacterReference,
    *,
    count: int = FEWEST_DRAWS,
    seed: int = 0,
    device: str | torch.device = "cpu",
) -> CharacterGauge:
    """Draw the null: `count` mixtures of activations, the same ones at every hook.

    Args:
        count: random subspaces; a null of fewer than 200 is refused.
        seed: of the mixtures; the draws are the same on every device.

    Raises:
        SubspaceError: too few draws, or too few activations behind a hook.
    """
    if count < FEWEST_DRAWS:
        raise SubspaceError(
            "Too few random subspaces for a null.", expected=f"at least {FEWEST_DRAWS}", found=str(count)
        )
    most = max(hook.subspace.K for hook in reference.hooks.values())
    rows = max(hook.sketch.shape[0] for hook in reference.hooks.values())
    generator = torch.Generator().manual_seed(seed)
    normals = torch.randn(count, most, rows, generator=generator, dtype=torch.float64)
    hooks = {}
    for name, hook in reference.hooks.items():
        draws = draw_coordinates(hook.sketch, normals[:, : hook.subspace.K, : hook.sketch.shape[0]])
        hooks[name] = GaugedHook(
            hook.subspace.P.double().to(device), hook.sketch.float().to(device), draws.to(device)
        )
    return CharacterGauge(reference, hooks, count, seed)

"""A reference of a few narrow layers, and adapters for it: random, or confined to the subspace."""

import dataclasses
import math

import torch

from skippy.core.personality.reference import (
    CharacterReference,
    HookReference,
    MeasuredTarget,
    TraitReference,
    middle_layers,
)
from skippy.core.personality.subspaces import persona_subspace
from skippy.core.spectral.lora import LoraFactors
from skippy.core.target import side_of

WIDTH, RANK, PERSONAS, SAMPLES, DEPTH = 48, 4, 8, 96, 4
KINDS = {
    "q_proj": (48, 48),
    "k_proj": (16, 48),
    "o_proj": (48, 48),
    "up_proj": (80, 48),
    "down_proj": (48, 80),
}
SHARED = {"q_proj": "self_attn.input", "k_proj": "self_attn.input", "up_proj": "mlp.input"}


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def make_hook(seed, spread=1.0):
    """Activations with a decaying covariance; personas differ in five directions of their own."""
    scales = spread * torch.linspace(1.0, 0.2, WIDTH, dtype=torch.float64)
    sketch = normal(SAMPLES, WIDTH, seed=seed) * scales / math.sqrt(SAMPLES)
    centroids = normal(PERSONAS, 5, seed=seed + 1) @ normal(5, WIDTH, seed=seed + 2)
    return HookReference(persona_subspace(centroids), sketch.float(), 1.0, 1000)


def make_reference(depth=DEPTH):
    targets, hooks = [], {}
    for layer in range(depth):
        for position, kind in enumerate(KINDS):
            hook = f"layers.{layer}.{SHARED.get(kind, kind + '.output')}"
            targets.append(MeasuredTarget(f"layers.{layer}.{kind}", layer, kind, side_of(kind), hook))
            hooks.setdefault(hook, make_hook(1000 * layer + 10 * position))
    streams = tuple(f"layers.{layer}.output" for layer in middle_layers(depth))
    hooks |= {name: make_hook(90_000 + position) for position, name in enumerate(streams)}
    traits = TraitReference(
        names=("arrogant", "warm", "brief"),
        hooks=streams,
        vectors=normal(len(streams), 3, WIDTH, seed=5).float(),
        probes=tuple((f"prompt {i}", f"answer {i}") for i in range(6)),
        hidden=normal(6, len(streams), WIDTH, seed=6).float(),
        tokens=torch.tensor([3.0, 5.0, 8.0, 4.0, 4.0, 2.0]),
    )
    return CharacterReference("b" * 64, "c" * 64, depth, tuple(targets), hooks, traits)


def random_adapter(reference, seed=0, scale=2.0):
    """B is not zero, so that there is an update to measure."""
    made = {}
    for position, target in enumerate(reference.targets):
        out, in_ = KINDS[target.kind]
        A = normal(RANK, in_, seed=500_000 + seed + 2 * position).float()
        B = normal(out, RANK, seed=500_001 + seed + 2 * position).float()
        made[target.name] = LoraFactors(A, B, scale)
    return made


def confined(reference, factors, inside):
    """Move every update wholly inside (or outside) P on its residual side."""
    made = {}
    for target in reference.targets:
        one = factors[target.name]
        P = reference.hooks[target.hook].subspace.P.double()
        projector = P.T @ P if inside else torch.eye(WIDTH, dtype=torch.float64) - P.T @ P
        if target.side == "writes":
            made[target.name] = dataclasses.replace(one, B=projector @ one.B.double())
        else:
            made[target.name] = dataclasses.replace(one, A=one.A.double() @ projector)
    return made

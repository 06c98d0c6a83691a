"""How far the protected triples still are from no longer being the top k."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from peft.tuners.lora import LoraLayer

from skippy.core.basis import Basis
from skippy.core.spectral.lora import LoraFactors
from skippy.core.spectral.margin import top_margin
from skippy.core.spectral.subspaces import seed_of
from skippy.training.layers import base_weight
from skippy.training.plan import Margin


@torch.no_grad()
def spectral_margin(
    layers: Mapping[str, LoraLayer], factors: Mapping[str, LoraFactors], projectors: Mapping[str, Basis]
) -> Margin:
    """(σ_k − ‖W − U S Vᵀ + ΔW‖₂) / σ_k of every target, and the smallest of them.

    V4 keeps (W + ΔW) v_i = σ_i u_i for i ≤ k whatever happens; these are still the *top* k only while the
    margin is positive.

    Source: MATH §2. Departure: relative to σ_k, so that targets of different scale compare.
    """
    margins = {}
    for name, layer in layers.items():
        W = base_weight(layer).detach()
        U, S, V = (tensor.to(W.device, torch.float32) for tensor in projectors[name])
        smallest = float(S[-1])
        margin = top_margin(W, U, S, V, factors[name], seed=seed_of(name))
        margins[name] = margin / smallest if smallest > 0 else 0.0
    worst = min(margins, key=lambda name: margins[name])
    return Margin(
        worst=margins[worst],
        worst_target=worst,
        negative=sum(margin < 0 for margin in margins.values()),
        targets=len(margins),
        by_target=margins,
    )

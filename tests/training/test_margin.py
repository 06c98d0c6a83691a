"""Targets whose protected triples ΔW overtakes are counted and named."""

from __future__ import annotations

from pathlib import Path

from peft import LoraConfig, get_peft_model

from skippy.models.loading import load_model
from skippy.training.layers import all_factors, target_layers
from skippy.training.margin import spectral_margin


def test_overtaken_targets_are_counted(base: Path, projectors: dict) -> None:
    config = LoraConfig(r=2, target_modules=r".*language_model\.layers.*_proj")
    layers = target_layers(get_peft_model(load_model(base), config), list(projectors))
    factors = all_factors(layers)
    loud = set(list(factors)[:3])
    for name in loud:
        factors[name].B.data.fill_(9.0)
    found = spectral_margin(layers, factors, projectors)
    assert {name for name, margin in found.by_target.items() if margin < 0} == loud
    assert (found.negative, found.targets) == (3, 14)
    assert found.worst_target in loud

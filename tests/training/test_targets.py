"""An adapter on one block of every layer: set up, constrained, measured, checked and merged as any other."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from skippy.core.spectral.constraints import pooled_leakage
from skippy.errors import AdapterError
from skippy.models.loading import load_model
from skippy.models.targets import find_targets, select_targets
from skippy.presets.reading import PRESETS
from skippy.stores.adapters import read_adapter
from skippy.stores.checkpoints import Checkpoint
from skippy.stores.merging import merge_checkpoint
from skippy.training.grpo import train_grpo
from skippy.training.layers import target_layers
from skippy.training.setup import build_run
from tests.training.test_character_callback import make_reference
from tests.training.tiny_run import RecordingRun, make_request

KINDS = {
    "attention": {"q_proj", "k_proj", "v_proj", "o_proj"},
    "mlp": {"gate_proj", "up_proj", "down_proj"},
}


def all_targets(base: Path) -> tuple:
    checkpoint = Checkpoint.open(base)
    return find_targets(checkpoint.config, checkpoint.shapes)


@pytest.mark.parametrize(("which", "count"), [("attention", 8), ("mlp", 6), ("all", 14)])
def test_the_number_of_targets_is_the_one_asked_for(base, which, count) -> None:
    chosen = select_targets(all_targets(base), which)
    assert len(chosen) == count
    if which != "all":
        assert {target.kind for target in chosen} == KINDS[which]


@pytest.mark.parametrize("which", ["attention", "mlp"])
def test_a_run_on_one_block_is_exact_there_and_leaves_the_other_alone(
    base, projectors, tmp_path, which
) -> None:
    settings = replace(PRESETS["short"], max_steps=2, targets=which)
    request = make_request(base, projectors, tmp_path / "run", "v4", settings)
    run = RecordingRun()
    outcome = train_grpo(replace(request, reference=make_reference(base)), run)
    adapter = read_adapter(outcome.adapter_dir)
    names = {target.name for target in select_targets(all_targets(base), which)}
    assert set(adapter.factors) == names == set(outcome.margin.by_target)
    assert len(run.tables["character_deltas/step_000002.parquet"]) == len(names)
    items = [(one.A.double(), one.B.double(), projectors[name].U.double(), projectors[name].V.double())
             for name, one in adapter.factors.items()]  # fmt: skip
    leakage = pooled_leakage(items)
    assert max(leakage.rho_left, leakage.rho_right) <= 1e-12
    assert all(one.B.abs().max() > 0 for one in adapter.factors.values())
    checkpoint = Checkpoint.open(base)
    account = merge_checkpoint(checkpoint, outcome.adapter_dir, tmp_path / "merged", bases=projectors)
    assert account.targets == len(names)
    before, after = (dict(load_model(path).named_parameters()) for path in (base, tmp_path / "merged"))
    changed = {name.removesuffix(".weight") for name in before if not torch.equal(before[name], after[name])}
    assert changed == names


def test_an_adapter_on_other_targets_than_asked_for_is_refused(base, projectors, tmp_path) -> None:
    """The twin: the count is really looked at."""
    request = make_request(base, projectors, tmp_path, "v4")
    chosen = select_targets(all_targets(base), "mlp")
    built = build_run(request, RecordingRun(), chosen)
    with pytest.raises(AdapterError, match="exactly the targets") as refusal:
        target_layers(built.model, [target.name for target in all_targets(base)])
    assert "14 targets" in refusal.value.expected

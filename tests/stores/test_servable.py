"""What a server would leave out of an adapter is refused before one is started."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from benchmarks.adapter_files import write_adapter
from skippy.core.spectral.lora import LoraFactors
from skippy.errors import AdapterError
from skippy.stores.servable import require_servable

NAME = "model.language_model.layers.0.self_attn.q_proj"
OTHER = "model.language_model.layers.0.self_attn.v_proj"
SHAPES = {f"{NAME}.weight": (8, 6), f"{OTHER}.weight": (8, 6)}


def write(folder: Path, names=(NAME, OTHER), **config) -> Path:
    factors = {name: LoraFactors(A=torch.randn(2, 6), B=torch.randn(8, 2), scale=2.0) for name in names}
    path = write_adapter(folder / "adapter", factors)
    file = path / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | config))
    return path


def test_a_plain_adapter_passes(tmp_path):
    assert set(require_servable(write(tmp_path), SHAPES).factors) == {NAME, OTHER}


@pytest.mark.parametrize(
    ("config", "found"),
    [
        ({"alpha_pattern": {"v_proj": 8}}, f"rank 2 and scale 4 on {OTHER}"),
        ({"use_rslora": True}, None),
    ],
)
def test_one_scale_for_all_targets(tmp_path, config, found):
    """vLLM reads the scale of the config alone: a pattern would be ignored without a word."""
    path = write(tmp_path, **config)
    if found is None:
        require_servable(path, SHAPES)
        return
    with pytest.raises(AdapterError, match="would not apply this adapter as it is") as refusal:
        require_servable(path, SHAPES)
    assert refusal.value.found == found
    assert "merge" in refusal.value.next_step


def test_names_of_another_release_are_refused(tmp_path):
    """A merge renames them; a server loads them as nothing."""
    path = write(tmp_path, names=["model.layers.0.self_attn.q_proj"])
    with pytest.raises(AdapterError, match="would not apply") as refusal:
        require_servable(path, SHAPES)
    assert "would load as nothing" in refusal.value.found


def test_an_adapter_of_another_base_is_refused(tmp_path):
    with pytest.raises(AdapterError, match="does not fit the base"):
        require_servable(write(tmp_path), {f"{NAME}.weight": (9, 6), f"{OTHER}.weight": (8, 6)})

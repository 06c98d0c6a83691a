"""A bit that flipped in an adapter leaves a whole file of finite numbers; the seal beside it tells."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from benchmarks.adapter_files import write_adapter
from skippy.core.spectral.lora import LoraFactors
from skippy.errors import AdapterError
from skippy.stores.adapters import CARD_FILE
from skippy.stores.biases import write_biases
from skippy.stores.changes import read_change
from skippy.stores.seals import write_seal

CARD = {"variant": "v4"}


def adapter(folder: Path) -> Path:
    write_adapter(folder, {"a": LoraFactors(torch.ones(2, 4), torch.ones(6, 2), 0.1)})
    write_seal(folder, CARD)
    return folder


def biases(folder: Path) -> Path:
    return write_biases(folder, {"a": torch.ones(4)}, CARD)


@pytest.mark.parametrize("write", [adapter, biases])
def test_one_bit_is_seen_before_it_is_merged_or_asked(tmp_path: Path, write: Callable[[Path], Path]) -> None:
    folder = write(tmp_path / "adapter")
    assert read_change(folder).card["variant"] == "v4"
    weights = next(folder.glob("*.safetensors"))
    content = bytearray(weights.read_bytes())
    content[-2] ^= 1
    weights.chmod(0o644)
    weights.write_bytes(content)
    with pytest.raises(AdapterError, match="not what its training wrote") as refusal:
        read_change(folder)
    assert weights.name in refusal.value.found
    assert "train again" in refusal.value.next_step


@pytest.mark.parametrize("write", [adapter, biases])
def test_what_says_nothing_of_its_files_is_read(tmp_path: Path, write: Callable[[Path], Path]) -> None:
    """The twin: earlier versions and other tools sealed nothing, and an adapter may be changed on purpose."""
    folder = write(tmp_path / "adapter")
    (folder / CARD_FILE).unlink()
    (folder / CARD_FILE).write_text(json.dumps(CARD))
    weights = next(folder.glob("*.safetensors"))
    content = bytearray(weights.read_bytes())
    content[-2] ^= 1
    weights.chmod(0o644)
    weights.write_bytes(content)
    assert read_change(folder).card == CARD


def test_another_scale_is_another_adapter(tmp_path: Path) -> None:
    folder = adapter(tmp_path / "adapter")
    config = folder / "adapter_config.json"
    said = json.loads(config.read_text())
    config.write_text(json.dumps(said | {"lora_alpha": 64}))
    with pytest.raises(AdapterError, match="not what its training wrote"):
        read_change(folder)

"""What a base is, by what it declares: never by its size."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from skippy.errors import ConfigError
from skippy.lab.paths import LAB_ADAPTER, LAB_CHECKPOINT
from skippy.models.profiles import PROFILES
from skippy.models.targets import FAMILIES, Family
from skippy.resolve.bases import TUNED_CARD_FILE, Base, find_profile, open_base
from skippy.stores.adapters import CARD_FILE as ADAPTER_CARD_FILE
from skippy.stores.adapters import read_adapter
from skippy.stores.cards import CARD_FILE
from skippy.stores.checkpoints import Checkpoint
from skippy.stores.merging import merge_checkpoint
from tests.stages.tiny_checkpoint import HIDDEN, LAYERS, SHAPES

EXPECTED = {
    **{"qwen3_vl": "qwen3-vl", "qwen3": "qwen3", "qwen2": "qwen2", "llama": "llama", "mistral": "mistral"},
    **{"gemma": "gemma", "gemma2": "gemma", "gemma3": "gemma", "gemma3_text": "gemma", "phi3": "phi3"},
}


def write_family(folder: Path, family: Family) -> Path:
    """A checkpoint of this family that is narrower than the lab."""
    folder.mkdir(parents=True)
    tensors = {
        f"{family.layers}.{layer}.{name}.weight": torch.zeros(shape)
        for layer in range(LAYERS)
        for name, shape in SHAPES.items()
    }
    sizes = {"num_hidden_layers": LAYERS, "hidden_size": HIDDEN}
    own = {family.text_config: sizes} if family.text_config else sizes
    config = {"model_type": family.model_type, "architectures": [family.architecture], **own}
    (folder / "config.json").write_text(json.dumps(config))
    save_file(tensors, folder / "model.safetensors")
    return folder


@pytest.mark.parametrize("family", ["qwen3_vl", "qwen3", "qwen2", "llama", "mistral"])
def test_a_small_base_of_any_family_is_no_lab_and_its_profile_is_printed(
    tracker, tmp_path, caplog, family: str
) -> None:
    folder = write_family(tmp_path / "small", FAMILIES[family])
    with caplog.at_level(logging.INFO):
        base = open_base(str(folder), tracker)
    assert base.profile is PROFILES[EXPECTED[family]]
    assert (base.lineage, base.profile.training, base.profile.prompt_style) == ("", "recipe", "boxed")
    assert f"{folder} has {base.profile}" in caplog.text
    assert find_profile(str(folder), tracker) is base.profile


def test_every_family_has_a_profile_of_its_own() -> None:
    assert {family for family in FAMILIES if family not in EXPECTED} == set()
    assert set(EXPECTED.values()) <= set(PROFILES)


def test_the_lab_is_known_by_its_bytes_wherever_it_lies(tracker, tmp_path) -> None:
    shutil.copytree(LAB_CHECKPOINT, tmp_path / "copy")
    for name in ("lab", str(tmp_path / "copy")):
        assert open_base(name, tracker).profile is PROFILES["lab"]


def test_weights_of_the_labs_shape_are_not_the_lab(tracker, tmp_path) -> None:
    """The twin: one other number, and it is a Qwen3-VL like any other."""
    copy = tmp_path / "copy"
    shutil.copytree(LAB_CHECKPOINT, copy)
    tensors = load_file(copy / "model.safetensors")
    tensors["model.language_model.norm.weight"] += 1
    save_file(tensors, copy / "model.safetensors", metadata={"format": "pt"})
    assert Checkpoint.open(copy).nbytes == Checkpoint.open(LAB_CHECKPOINT).nbytes
    assert open_base(str(copy), tracker).profile is PROFILES["qwen3-vl"]


def merged(base: Base, destination: Path, tmp_path: Path) -> Path:
    """The lab's adapter in a base, as the merge stage would write it."""
    adapter = tmp_path / f"adapter of {destination.name}"
    shutil.copytree(LAB_ADAPTER, adapter)
    (adapter / ADAPTER_CARD_FILE).unlink(missing_ok=True)
    assert read_adapter(adapter).factors
    merge_checkpoint(base.checkpoint, adapter, destination, alpha=0.1, lineage=base.lineage)
    return destination


def test_what_was_merged_from_the_lab_stays_the_lab_over_generations(tracker, tmp_path) -> None:
    first = open_base(str(merged(open_base("lab", tracker), tmp_path / "delta", tmp_path)), tracker)
    second = open_base(str(merged(first, tmp_path / "again", tmp_path)), tracker)
    assert first.digest != second.digest
    assert first.profile is second.profile is PROFILES["lab"]


def test_a_merge_made_before_there_was_a_lineage_names_its_base(tracker, tmp_path) -> None:
    folder = merged(open_base("lab", tracker), tmp_path / "delta", tmp_path)
    card = json.loads((folder / CARD_FILE).read_text())
    del card["lineage"]
    (folder / CARD_FILE).chmod(0o644)
    (folder / CARD_FILE).write_text(json.dumps(card))
    assert open_base(str(folder), tracker).profile is PROFILES["lab"]
    (folder / CARD_FILE).write_text(json.dumps({**card, "base_digest": "0" * 64}))
    assert open_base(str(folder), tracker).profile is PROFILES["qwen3-vl"]


def test_a_base_tuned_to_the_labs_problems_says_so(tracker, tmp_path) -> None:
    folder = write_family(tmp_path / "tuned", FAMILIES["llama"])
    (folder / TUNED_CARD_FILE).write_text(json.dumps({"lineage": "lab-tuned"}))
    base = open_base(str(folder), tracker)
    assert (base.lineage, base.profile) == ("lab-tuned", PROFILES["lab-tuned"])
    assert base.profile.prompt_style == "plain"


@pytest.mark.parametrize("card", ["{", "[]", '{"lineage": "elsewhere"}'])
def test_a_card_that_says_nothing_we_know_changes_nothing(tracker, tmp_path, card: str) -> None:
    folder = write_family(tmp_path / "base", FAMILIES["llama"])
    (folder / CARD_FILE).write_text(card)
    assert open_base(str(folder), tracker).profile is PROFILES["llama"]


@pytest.mark.parametrize("family", ["qwen3_vl", "qwen3"])
def test_a_thinking_model_is_known_by_its_name(tracker, tmp_path, family: str) -> None:
    folder = write_family(tmp_path / "Qwen3-8B-Thinking-2507", FAMILIES[family])
    assert open_base(str(folder), tracker).profile.name == f"{EXPECTED[family]}-thinking"


def test_a_person_has_the_last_word(tracker, tmp_path) -> None:
    folder = str(write_family(tmp_path / "base", FAMILIES["llama"]))
    assert open_base(folder, tracker, "qwen3").profile is PROFILES["qwen3"]
    with pytest.raises(ConfigError, match="no such profile") as refusal:
        open_base(folder, tracker, "qwen9")
    assert "llama" in refusal.value.expected

"""A reference in the place of weights: verified like a checkpoint, and nothing is copied."""

from __future__ import annotations

import json

import pytest

from skippy.errors import CheckpointError
from skippy.lab.paths import LAB_CHECKPOINT
from skippy.stores.cards import verify_checkpoint
from skippy.stores.checkpoints import Checkpoint
from skippy.stores.prompted import Prompted, read_prompted, write_prompted

BASE = Checkpoint.open(LAB_CHECKPOINT)
PROMPTED = Prompted("lab", BASE.digest(), "keeper", "c" * 64, "You are a keeper.", 9)


def test_it_is_read_as_written_and_holds_no_weight(tmp_path) -> None:
    write_prompted(BASE, PROMPTED, tmp_path / "one", "lab")
    assert read_prompted(tmp_path / "one") == PROMPTED
    card = verify_checkpoint(tmp_path / "one")
    assert (card["digest"], card["base_digest"], card["lineage"]) == (PROMPTED.digest, BASE.digest(), "lab")
    assert not list((tmp_path / "one").glob("*.safetensors"))
    assert sum(file.stat().st_size for file in (tmp_path / "one").iterdir()) < BASE.nbytes / 4
    assert read_prompted(LAB_CHECKPOINT) is None


def test_another_prompt_is_another_model(tmp_path) -> None:
    other = Prompted("lab", BASE.digest(), "keeper", "c" * 64, "You are a pirate.", 9)
    assert other.digest != PROMPTED.digest


def test_an_altered_prompt_is_refused(tmp_path) -> None:
    write_prompted(BASE, PROMPTED, tmp_path / "one")
    path = tmp_path / "one" / "prompt.json"
    entry = json.loads(path.read_text())
    path.write_text(json.dumps({**entry, "system_prompt": "You are a pirate."}))
    with pytest.raises(CheckpointError, match="is not what was written"):
        verify_checkpoint(tmp_path / "one")
    path.write_text(json.dumps({"system_prompt": "You are a pirate."}))
    with pytest.raises(CheckpointError, match="cannot be read") as refused:
        read_prompted(tmp_path / "one")
    assert "variant=prompt" in refused.value.next_step

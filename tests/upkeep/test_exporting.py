"""export: a model leaves the store whole, or not at all."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from entrypoints.__main__ import cli
from skippy.errors import CheckpointError, MissingRunError
from skippy.stores.adapters import read_adapter
from skippy.stores.cards import verify_checkpoint
from skippy.upkeep.exporting import export_model


def test_weights_adapter_and_card_are_there_and_are_those_of_the_version(
    tracker, version, trained, tmp_path
) -> None:
    run_id, digest = trained
    made = version(adapter_digest=digest, train_run=run_id)
    tracker.models.write_card(made.uri, "# A card")
    done = export_model(tracker, made.uri, tmp_path / "out")
    assert (done.uri, done.digest, done.adapter) == ("models:/skippy/1", "d1", "adapter")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        *("MODEL_CARD.md", "adapter", "export.json", "weights"),
    ]
    assert verify_checkpoint(tmp_path / "out" / "weights")["digest"] == "d1"
    assert read_adapter(tmp_path / "out" / "adapter").digest() == digest
    assert (tmp_path / "out" / "MODEL_CARD.md").read_text() == "# A card"
    assert json.loads((tmp_path / "out" / "export.json").read_text())["adapter_digest"] == digest


def test_a_directory_with_something_in_it_is_refused(opened, version, tmp_path) -> None:
    version()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "precious").write_text("")
    said = CliRunner().invoke(cli, ["export", "models:/skippy/1", str(tmp_path / "out")])
    assert said.exit_code == 1
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["precious"]
    with pytest.raises(CheckpointError, match="already taken"):
        export_model(opened, "models:/skippy/1", tmp_path / "out")


def test_altered_weights_are_refused_and_nothing_is_left(tracker, version, tmp_path) -> None:
    made = version()
    (tracker.models.resolve(made.uri).path / "model.safetensors").write_bytes(b"?")
    with pytest.raises(CheckpointError, match=r"not what was written(.|\n)*model\.safetensors"):
        export_model(tracker, made.uri, tmp_path / "out")
    assert not [path for path in tmp_path.glob("*out*")]


def test_an_adapter_that_was_not_the_one_merged_is_refused(tracker, version, trained, tmp_path) -> None:
    made = version(adapter_digest="another", train_run=trained[0])
    with pytest.raises(CheckpointError, match="The adapter is not the one that was merged"):
        export_model(tracker, made.uri, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_without_an_adapter_the_reason_is_told(tracker, version, tmp_path) -> None:
    assert "outside the store" in export_model(tracker, version().uri, tmp_path / "out").adapter


def test_no_such_alias(tracker, version, tmp_path) -> None:
    version()
    with pytest.raises(MissingRunError, match="no alias champion"):
        export_model(tracker, "models:/skippy@champion", tmp_path / "out")

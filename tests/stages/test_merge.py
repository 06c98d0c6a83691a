"""Merging: the training of the right character is taken, and what is registered says whose it is."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from skippy.characters.loader import load_character
from skippy.config import MergeConfig
from skippy.core.lora import LoraFactors
from skippy.errors import MissingRunError
from skippy.models.targets import find_targets
from skippy.stages import merge
from skippy.stages.inputs import CHARACTER_DIGEST, find_subject, open_base
from skippy.stores.adapters import write_adapter
from skippy.stores.checkpoints import Checkpoint
from tests.stages.tiny_checkpoint import write_checkpoint


class Scene:
    """A tiny base and hand-made trainings of it, one after another."""

    def __init__(self, tracker, tmp_path: Path) -> None:
        self.tracker = tracker
        self.folder = tmp_path
        self.path = write_checkpoint(tmp_path / "base")
        self.base = open_base(str(self.path), tracker)

    def train(self, character: str, variant: str = "v4") -> str:
        checkpoint = Checkpoint.open(self.path)
        generator = torch.Generator().manual_seed(len(character))
        factors = {
            t.name: LoraFactors(
                torch.randn(2, t.in_, generator=generator), torch.randn(t.out, 2, generator=generator), 0.1
            )
            for t in find_targets(checkpoint.config, checkpoint.shapes)
        }
        adapter = write_adapter(self.folder / character, factors)
        about = {"variant": variant, "base_digest": self.base.digest, "character": character}
        with self.tracker.stage("train", name=character, note="", config={}, **about) as stage:
            stage.set_tags({CHARACTER_DIGEST: load_character(character).digest, "skippy.seed": "42"})
            stage.log_folder(adapter, "adapter")
        return stage.run_id

    def merge(self, **values: str) -> tuple[dict[str, str], dict[str, str]]:
        """Tags of the merge run and of the version it registers."""
        result = merge.run(MergeConfig(base_model=str(self.path), **values), self.tracker)
        return self.tracker.get(result.run_id).tags, self.tracker.resolve_model(result.model_uri).tags


@pytest.fixture
def scene(tracker, tmp_path: Path) -> Scene:
    return Scene(tracker, tmp_path)


@pytest.mark.parametrize("character", ["skippy", "keeper"])
def test_the_training_of_the_character_is_merged_not_the_newest(scene: Scene, character: str) -> None:
    trained = {name: scene.train(name) for name in ("skippy", "keeper")}
    run, version = scene.merge(character=character)
    digest = load_character(character).digest
    assert run["skippy.train_run"] == version["train_run"] == trained[character]
    assert run[CHARACTER_DIGEST] == version["character_digest"] == digest
    assert run["skippy.character"] == version["character"] == character


def test_without_a_training_of_the_character_the_command_to_make_one_is_named(scene: Scene) -> None:
    scene.train("keeper")
    with pytest.raises(MissingRunError, match="character=skippy"):
        scene.merge()


def test_a_training_named_by_id_wins_and_keeps_its_own_character_and_variant(scene: Scene) -> None:
    keeper = scene.train("keeper", variant="v3")
    run, version = scene.merge(train_run=keeper, character="skippy", variant="v4")
    assert run[CHARACTER_DIGEST] == version["character_digest"] == load_character("keeper").digest
    assert run["skippy.variant"] == version["variant"] == "v3"


def test_a_variant_means_the_merge_of_the_character_asked_for(scene: Scene) -> None:
    trained = {name: scene.train(name) for name in ("skippy", "keeper")}
    for name in trained:
        scene.merge(character=name)
    for name, train_run in trained.items():
        digest = load_character(name).digest
        subject = find_subject("v4", str(scene.path), scene.base, scene.tracker, character_digest=digest)
        assert subject.train_run == train_run
    newest = find_subject("v4", str(scene.path), scene.base, scene.tracker)
    assert newest.train_run == trained["keeper"]

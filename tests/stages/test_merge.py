"""Merging: the training of the right character is taken, and what is registered says whose it is."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from benchmarks.adapter_files import write_adapter
from skippy.characters.loader import load_character
from skippy.config import MergeConfig, SvdConfig
from skippy.core.spectral.lora import LoraFactors
from skippy.errors import AdapterError, ConfigError, MissingRunError
from skippy.models import hub
from skippy.models.targets import find_targets
from skippy.resolve.bases import open_base
from skippy.resolve.projectors import load_projectors
from skippy.resolve.subjects import find_subject
from skippy.stages import merge, svd
from skippy.stores.adapters import read_adapter
from skippy.stores.cards import verify_checkpoint
from skippy.stores.checkpoints import Checkpoint
from skippy.stores.samples import Sample
from skippy.studies.matching import matched_step
from skippy.tracking.tags import Tag
from tests.core.spectral.single_target import dense_delta
from tests.stages.tiny_checkpoint import write_checkpoint


class Scene:
    """A tiny base and hand-made trainings of it, one after another."""

    def __init__(self, tracker, tmp_path: Path) -> None:
        self.tracker = tracker
        self.folder = tmp_path
        self.path = write_checkpoint(tmp_path / "base")
        self.base = open_base(str(self.path), tracker)

    def train(self, character: str, variant: str = "v4", card: dict | None = None, links=None) -> str:
        checkpoint = Checkpoint.open(self.path)
        generator = torch.Generator().manual_seed(len(character))
        factors = {
            t.name: LoraFactors(
                torch.randn(2, t.in_, generator=generator), torch.randn(t.out, 2, generator=generator), 0.1
            )
            for t in find_targets(checkpoint.config, checkpoint.shapes)
        }
        adapter = write_adapter(self.folder / character, factors, card=card)
        about = {
            "links": links or {},
            "variant": variant,
            "base_digest": self.base.digest,
            "character": character,
        }
        with self.tracker.stage("train", name=character, note="", config={}, **about) as stage:
            stage.set_tags({Tag.CHARACTER_DIGEST: load_character(character).digest, "skippy.seed": "42"})
            stage.log_folder(adapter, "adapter")
        return stage.run_id

    def merge(self, **values: str) -> tuple[dict[str, str], dict[str, str]]:
        """Tags of the merge run and of the version it registers."""
        result = merge.run(MergeConfig(base_model=str(self.path), **values), self.tracker)
        return self.tracker.runs.get(result.run_id).tags, self.tracker.models.resolve(result.model_uri).tags


@pytest.fixture
def scene(tracker, tmp_path: Path) -> Scene:
    return Scene(tracker, tmp_path)


@pytest.mark.parametrize("character", ["skippy", "keeper"])
def test_the_training_of_the_character_is_merged_not_the_newest(scene: Scene, character: str) -> None:
    trained = {name: scene.train(name) for name in ("skippy", "keeper")}
    run, version = scene.merge(character=character)
    digest = load_character(character).digest
    assert run["skippy.train_run"] == version["train_run"] == trained[character]
    assert run[Tag.CHARACTER_DIGEST] == version["character_digest"] == digest
    assert run["skippy.character"] == version["character"] == character


def test_lineage_is_walked_by_links_in_both_directions(scene: Scene) -> None:
    train = scene.train("skippy")
    run, _ = scene.merge()
    made = scene.tracker.runs.find("merge")
    text = scene.tracker.client.get_model_version("skippy", "1").description
    page = scene.tracker.store.run_page
    for role, run_id in (("merge", made.run_id), ("train", train)):
        assert f"- {role} run [{run_id}]({page.replace('{run}', run_id)})" in text
    assert f"- base {made.base_digest}" in text
    assert run["mlflow.note.content"].endswith(
        "It is [models:/skippy/1](http://127.0.0.1:5000/#/models/skippy/versions/1)."
    )


def test_without_a_training_of_the_character_the_command_to_make_one_is_named(scene: Scene) -> None:
    scene.train("keeper")
    with pytest.raises(MissingRunError, match="character=skippy"):
        scene.merge()


def test_a_training_named_by_id_keeps_its_own_character_and_variant(scene: Scene) -> None:
    keeper = scene.train("keeper", variant="v3")
    run, version = scene.merge(train_run=keeper[:12])
    assert run[Tag.CHARACTER_DIGEST] == version["character_digest"] == load_character("keeper").digest
    assert run["skippy.variant"] == version["variant"] == "v3"


@pytest.mark.parametrize(
    "named",
    [{"variant": "v3"}, {"character": "detective"}, {"variant": "v3", "character": "detective"}],
    ids=str,
)
def test_what_contradicts_the_training_named_is_refused(scene: Scene, named: dict[str, str]) -> None:
    """`merge variant=v3 train_run=<of v4>` registered V4 without a word."""
    keeper = scene.train("keeper", variant="v4")
    with pytest.raises(ConfigError, match=" and ".join(named)) as refusal:
        scene.merge(train_run=keeper, **named)
    assert keeper in refusal.value.where
    assert scene.tracker.registry.versions("skippy") == []
    assert scene.tracker.runs.find_all("merge", finished=False) == []
    scene.merge(train_run=keeper, variant="v4", character="keeper")


def test_the_same_merge_is_taken_where_asked_and_only_while_its_weights_are_whole(scene: Scene) -> None:
    scene.train("skippy")
    first = merge.run(MergeConfig(base_model=str(scene.path)), scene.tracker)
    asked = MergeConfig(base_model=str(scene.path), reuse=True)
    again = merge.run(asked, scene.tracker)
    assert (again.run_id, again.model_uri) == (first.run_id, first.model_uri)
    assert len(scene.tracker.registry.versions("skippy")) == 1
    half = merge.run(replace(asked, alpha=0.5), scene.tracker)
    assert half.model_uri != first.model_uri, "another scale is another merge"
    weights = scene.tracker.models.resolve(first.model_uri).path / "model.safetensors"
    weights.chmod(0o644)
    weights.chmod(0o644)
    weights.write_bytes(weights.read_bytes()[:-1] + b"\0")
    assert merge.run(asked, scene.tracker).model_uri not in (first.model_uri, half.model_uri)


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


def test_an_adapter_of_another_base_is_refused(scene: Scene) -> None:
    scene.train("skippy", card={"base_digest": "0" * 64})
    with pytest.raises(AdapterError, match="trained on another base") as refusal:
        scene.merge()
    assert scene.base.digest in refusal.value.expected
    assert scene.tracker.registry.versions("skippy") == []
    scene.train("keeper", card={"base_digest": scene.base.digest})
    scene.merge(character="keeper")


@pytest.mark.parametrize("alpha", [1.0, 0.5])
def test_what_was_stored_is_held_against_the_projectors_of_the_training(scene: Scene, alpha: float) -> None:
    """Its leakage is that of the dense difference of the two checkpoints, at any α."""
    result = svd.run(SvdConfig(base_model=str(scene.path), k="4", device="cpu"), scene.tracker)
    scene.train("skippy", links={"svd": result.run_id})
    merged = merge.run(MergeConfig(base_model=str(scene.path), alpha=alpha), scene.tracker)
    bases = load_projectors(scene.tracker, result.run_id, scene.base).bases
    after = Checkpoint.open(scene.tracker.models.resolve(merged.model_uri).path)
    left = right = total = 0.0
    for name, basis in bases.items():
        key = f"{name}.weight"
        delta = after.read(key).double() - scene.base.checkpoint.read(key).double()
        left += float((basis.U.double().mT @ delta).square().sum())
        right += float((delta @ basis.V.double()).square().sum())
        total += float(delta.square().sum())
    metrics = scene.tracker.runs.get(merged.run_id).metrics
    assert metrics["merge/rho_left"] == pytest.approx(left / total)
    assert metrics["merge/rho_right"] == pytest.approx(right / total)
    assert metrics["merge/alpha"] == alpha
    assert metrics["merge/delta_error"] < 0.1, "against α·ΔW"


def walked(folder: Path, personas: dict[int, float]) -> None:
    lines = [
        Sample(f"b@{step}", "banal", "plain/0", "h", 0, 1, "lab", "p", "c", 1, "stop", None, "scored", score)
        for step, score in personas.items()
    ]
    folder.write_text("".join(line.to_line() for line in lines))


@pytest.mark.parametrize("order", ["ours,theirs", "theirs,ours"])
def test_the_step_merged_is_the_one_of_this_training_that_matches_the_other(
    tmp_path: Path, order: str
) -> None:
    walked(tmp_path / "ours", {10: 0.3, 20: 0.8})
    walked(tmp_path / "theirs", {30: 0.1, 40: 0.3})
    trains = {"ours": "t4", "theirs": "t3"}
    tracker = SimpleNamespace(artifacts=SimpleNamespace(path=lambda run_id, path: tmp_path / run_id))

    def matched(names: str, train: str) -> int:
        walks = [
            SimpleNamespace(variant="v3", run_id=name, link=lambda _, name=name: trains[name])
            for name in names.split(",")
        ]
        return matched_step(walks, SimpleNamespace(run_id=train), tracker)

    assert matched(order, "t4") == 10
    assert matched(order, "t3") == 40
    walked(tmp_path / "flat", {0: 0.04, 50: 0.05, 100: 0.06})
    trains["flat"] = "t5"
    assert [matched(f"{order},flat", train) for train in ("t4", "t3", "t5")] == [10, 40, 100], (
        "an arm that never comes to a character holds nobody down, and gives its best"
    )
    del trains["flat"]
    for wrong in ("ours", "ours,ours", "theirs,theirs", "ours,theirs,theirs"):
        with pytest.raises(ConfigError, match="not this training's and others'") as refusal:
            matched(wrong, "t4")
        assert "model=checkpoints" in refusal.value.next_step


def outside(scene: Scene, name: str, size: float = 0.1, base_model: str = "") -> Path:
    """An adapter that somebody brings, on the same base."""
    generator = torch.Generator().manual_seed(len(name))
    factors = {
        t.name: LoraFactors(
            torch.randn(2, t.in_, generator=generator) * size, torch.randn(t.out, 2, generator=generator), 1.0
        )
        for t in scene.base.targets
    }
    return write_adapter(scene.folder / name, factors, base_model=base_model)


def test_what_is_odd_about_an_adapter_is_logged_and_written_beside_the_weights(
    scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    brought = outside(scene, "brought", size=0.0, base_model="somebody/another-8b")
    result = merge.run(MergeConfig(base_model=str(scene.path), adapter=str(brought)), scene.tracker)
    notes = verify_checkpoint(scene.tracker.models.resolve(result.model_uri).path)["notes"]
    assert notes == [
        f"the adapter names somebody/another-8b as its base, and was merged into {scene.path}",
        "ΔW of the adapter brought is zero",
    ]
    assert all(f"merge: {note}" in caplog.text for note in notes)
    same = outside(scene, "same", base_model=f"somebody/{scene.path.name}")
    quiet = merge.run(MergeConfig(base_model=str(scene.path), adapter=str(same)), scene.tracker)
    assert quiet.account.notes == ()


def test_several_adapters_are_merged_with_their_weights(scene: Scene) -> None:
    one, two = outside(scene, "a1"), outside(scene, "b22")
    config = {"base_model": str(scene.path), "adapter": f"{one}, {two}"}
    result = merge.run(MergeConfig(**config, adapter_weights="0.5,-1", dtype="float32"), scene.tracker)
    merged = Checkpoint.open(scene.tracker.models.resolve(result.model_uri).path)
    deltas = [read_adapter(path).factors for path in (one, two)]
    for target in scene.base.targets:
        before = scene.base.checkpoint.read(target.weight_key).float()
        wanted = 0.5 * dense_delta(deltas[0][target.name]) - dense_delta(deltas[1][target.name])
        torch.testing.assert_close(merged.read(target.weight_key), before + wanted)
    for weights in ("1", "1,2,3", "1,x", "1,nan"):
        with pytest.raises(ConfigError, match=r"weights are not those(.*\n)*.*2 numbers"):
            merge.run(MergeConfig(**config, adapter_weights=weights), scene.tracker)


def test_an_adapter_may_be_an_id_of_the_hub(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    brought, asked = outside(scene, "brought"), []

    def download(name: str, **patterns: object) -> str:
        asked.append((name, patterns["allow_patterns"]))
        return str(brought)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    merge.run(MergeConfig(base_model=str(scene.path), adapter="somebody/an-adapter"), scene.tracker)
    assert asked == [("somebody/an-adapter", list(hub.ADAPTER_PATTERNS))]
    assert not [pattern for pattern in hub.ADAPTER_PATTERNS if pattern.endswith((".bin", "*"))]

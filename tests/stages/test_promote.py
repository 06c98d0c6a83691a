"""Promotion: the gate, and that version, digests, evaluation and report belong together."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from benchmarks.adapter_files import write_adapter
from skippy.config import MergeConfig, PromoteConfig
from skippy.core.spectral.lora import LoraFactors
from skippy.errors import CheckpointError, MissingRunError, PromotionRefused, RegistryError
from skippy.evaluation.provenance import promotion_state
from skippy.models.targets import find_targets
from skippy.report.conclusions import VariantVerdict
from skippy.report.record import ArmEntry, EvaluationEntry, ReportRecord, WinnerEntry
from skippy.results import PromotionState
from skippy.stages import merge, promote
from skippy.stores.checkpoints import Checkpoint
from skippy.tracking.stage_run import StageRun
from tests.stages.tiny_checkpoint import write_checkpoint

REASON = "every step of the promotion order passed"


class Scene:
    """A tiny base, versions merged from hand-made adapters, and evaluations and reports about them."""

    def __init__(self, tracker, tmp_path: Path) -> None:
        self.tracker = tracker
        self.base = write_checkpoint(tmp_path / "base")
        self.folder = tmp_path

    def version(self, seed: int) -> merge.MergeResult:
        checkpoint = Checkpoint.open(self.base)
        generator = torch.Generator().manual_seed(seed)
        factors = {
            t.name: LoraFactors(
                torch.randn(2, t.in_, generator=generator), torch.randn(t.out, 2, generator=generator), 0.1
            )
            for t in find_targets(checkpoint.config, checkpoint.shapes)
        }
        adapter = write_adapter(self.folder / f"adapter{seed}", factors)
        config = MergeConfig(base_model=str(self.base), adapter=str(adapter))
        result = merge.run(config, self.tracker)
        version = result.model_uri.rsplit("/", 1)[1]
        self.tracker.client.set_model_version_tag("skippy", version, "variant", "v4")
        return result

    def report(
        self, merged: merge.MergeResult, winner: str | None = "v4", digest: str = "", score: float = 0.5
    ) -> str:
        base_digest = Checkpoint.open(self.base).digest()
        with self.tracker.stage(
            "eval", name="e", note="", config={}, variant="v4", base_digest=base_digest
        ) as run:
            run.set_tags({
                "skippy.model_uri": merged.model_uri,
                "skippy.model_digest": digest or merged.account.digest,
            })  # fmt: skip
            run.log_text("{}\n", "samples/aime.jsonl")
            run.log_metrics({"banal/score": score})
        with self.tracker.stage("compare", name="c", note="", config={}, base_digest=base_digest) as compare:
            entry = EvaluationEntry({"eval": run.run_id}, digest or merged.account.digest)
            record = ReportRecord(
                WinnerEntry(winner, REASON if winner else "equality is not shown"),
                {"v4": VariantVerdict("v4", "preserved", "", mean_difference=0.0)},
                {"v4": ArmEntry((entry,))},
            )
            self.write_report(compare, json.loads(record.to_json()))
            compare.set_tags({"skippy.eval_runs": run.run_id, "skippy.winner": winner or ""})
        return compare.run_id

    def write_report(self, compare: StageRun, content: dict) -> None:
        text = json.dumps(content)
        compare.log_text(text, "report/report.json")
        compare.set_tags({"skippy.report_sha256": hashlib.sha256(text.encode()).hexdigest()})

    def edit_report(self, run_id: str, change: Callable[[dict], object], *, is_signed: bool = False) -> None:
        """Alter report.json in the store; with `is_signed` its digest too, as a forger would."""
        path = self.tracker.artifacts.path(run_id, "report/report.json")
        content = json.loads(path.read_text())
        change(content)
        path.write_text(json.dumps(content))
        if is_signed:
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            self.tracker.client.set_tag(run_id, "skippy.report_sha256", digest)

    def promote(self, **changes) -> promote.PromoteResult:
        return promote.run(PromoteConfig(base_model=str(self.base), **changes), self.tracker)

    def champion(self) -> int | None:
        found = self.tracker.registry.alias("skippy", "champion")
        return found.version if found else None


@pytest.fixture
def scene(tracker, tmp_path) -> Scene:
    return Scene(tracker, tmp_path)


def test_a_winner_is_promoted_once_and_says_why(scene):
    scene.report(scene.version(1))
    result = scene.promote(by="me")
    assert result.state == "promoted"
    assert scene.champion() == result.champion
    event = scene.tracker.promotions.history("skippy")[-1]
    assert event.by == "me"
    assert event.reason == REASON
    assert event.report_uri.endswith("report/index.html")
    told = promotion_state("skippy", scene.tracker)
    assert told == PromotionState(str(result.champion), "", "me", event.at, REASON), (
        "the next report names it"
    )
    with pytest.raises(RegistryError, match="champion already"):
        scene.promote()


def test_the_one_before_becomes_previous_and_rollback_gives_it_back(scene):
    scene.report(scene.version(1))
    first = scene.promote().champion
    scene.report(scene.version(2))
    second = scene.promote().champion
    assert second != first
    assert promotion_state("skippy", scene.tracker).previous == str(first)
    assert scene.promote(rollback=True).champion == first
    assert scene.tracker.registry.alias("skippy", "previous").version == second


def test_a_shut_gate_is_refused_and_leaves_the_alias(scene):
    scene.report(scene.version(1))
    champion = scene.promote().champion
    scene.report(scene.version(2), winner=None)
    with pytest.raises(PromotionRefused, match="gate did not open"):
        scene.promote()
    assert scene.tracker.runs.find_all("promote", finished=False)[0].status == "FAILED"
    assert scene.promote(unresolved="leave").state == "unresolved"
    assert scene.champion() == champion


def test_a_promotion_by_hand_is_marked_as_such_for_ever(scene):
    scene.report(scene.version(1), winner=None)
    newest = scene.tracker.registry.versions("skippy")[0].version
    with pytest.raises(PromotionRefused, match="gate did not open") as refusal:
        scene.promote()
    assert 'override="WHY"' in refusal.value.next_step
    result = scene.promote(version=newest, override="the demo needs one")
    assert (result.state, result.champion) == ("promoted", newest)
    (event,) = scene.tracker.promotions.history("skippy")
    assert event.figures["override"] == "the demo needs one"
    assert event.reason == "override, by hand and not by the gate: the demo needs one"
    tags = scene.tracker.registry.alias("skippy", "champion").tags
    assert tags["promotion_reason"].startswith("override")
    assert "override" in scene.tracker.runs.get(result.run_id).tags["skippy.promotion"]
    with pytest.raises(MissingRunError, match="version 99"):
        scene.promote(version=99, override="why not")


def test_weights_other_than_those_evaluated_are_refused(scene):
    scene.report(scene.version(1), digest="0" * 64)
    assert promotion_state("skippy", scene.tracker) == PromotionState(), "no champion, nobody to name"
    with pytest.raises(RegistryError, match="disagree on the weights digest"):
        scene.promote()
    assert scene.champion() is None


def test_altered_weights_are_refused(scene):
    merged = scene.version(1)
    scene.report(merged)
    weights = scene.tracker.models.resolve(merged.model_uri).path / "model.safetensors"
    weights.chmod(0o644)
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x00")
    with pytest.raises(CheckpointError, match=r"model\.safetensors|altered"):
        scene.promote()
    assert scene.champion() is None


def test_a_report_of_another_base_is_not_found(scene, tmp_path):
    scene.report(scene.version(1))
    other = write_checkpoint(tmp_path / "other", seed=5)
    with pytest.raises(MissingRunError, match="no finished compare run"):
        promote.run(PromoteConfig(base_model=str(other)), scene.tracker)


def test_an_empty_registry_says_which_command_comes_first(scene):
    config = PromoteConfig(base_model=str(scene.base), registered_model="nobody")
    with pytest.raises(MissingRunError) as refusal:
        promote.run(config, scene.tracker)
    assert "mlflow run" in refusal.value.next_step


def crown(content: dict) -> None:
    content["winner"] = {"variant": "v4", "reason": REASON}


def rename_evaluation(content: dict) -> None:
    content["arms"]["v4"]["evaluations"][0]["runs"]["eval"] = "f" * 32


def change_digest(content: dict) -> None:
    content["arms"]["v4"]["evaluations"][0]["model_digest"] = "0" * 64


def test_a_winner_written_in_by_hand_is_refused(scene):
    run_id = scene.report(scene.version(1), winner=None)
    scene.edit_report(run_id, crown)
    with pytest.raises(RegistryError, match="not the one that compare wrote") as refusal:
        scene.promote()
    assert run_id in refusal.value.where
    assert refusal.value.next_step
    assert scene.champion() is None


@pytest.mark.parametrize(
    ("winner", "change", "words"),
    [
        (None, crown, "disagree on the winner"),
        ("v4", rename_evaluation, "name different evaluations"),
        ("v4", change_digest, "disagree on the model"),
    ],
)
def test_a_report_that_contradicts_its_runs_is_refused(scene, winner, change, words):
    run_id = scene.report(scene.version(1), winner=winner)
    scene.edit_report(run_id, change, is_signed=True)
    with pytest.raises(RegistryError, match=words) as refusal:
        scene.promote()
    assert refusal.value.expected != refusal.value.found
    assert scene.champion() is None


@pytest.mark.parametrize(
    ("tags", "registered", "words"),
    [
        ({}, "other", "disagree on the registered model"),
        ({"variant": "v3"}, "skippy", "disagree on the variant"),
        ({"base_digest": "0" * 64}, "skippy", "disagree on the base digest"),
    ],
)
def test_a_version_that_is_not_the_reports_is_refused(scene, tags, registered, words):
    merged = scene.version(1)
    scene.report(merged)
    for key, value in tags.items():
        scene.tracker.client.set_model_version_tag("skippy", merged.model_uri.rsplit("/", 1)[1], key, value)
    if registered != "skippy":
        model_id = scene.tracker.models.resolve(merged.model_uri).model_id
        scene.tracker.registry.create_version(registered, model_id, merged.run_id, {})
    with pytest.raises(RegistryError, match=words) as refusal:
        scene.promote(registered_model=registered)
    assert merged.model_uri in refusal.value.where
    assert scene.champion() is None
    assert scene.tracker.registry.alias(registered, "champion") is None


def test_a_winner_that_nobody_evaluated_is_refused(scene):
    run_id = scene.report(scene.version(1))
    scene.edit_report(run_id, lambda content: content["winner"].update(variant="v3"), is_signed=True)
    scene.tracker.client.set_tag(run_id, "skippy.winner", "v3")
    with pytest.raises(RegistryError, match="names no evaluation of its winner"):
        scene.promote()
    assert scene.champion() is None


def test_of_several_seeds_the_one_most_in_character_is_promoted(scene):
    """By persona alone; the first report's evaluation is named by the second as well."""
    scores = {scene.version(seed).model_uri: score for seed, score in ((1, 0.2), (2, 0.9), (3, 0.4))}
    runs = []
    for uri, score in scores.items():
        digest = scene.tracker.models.resolve(uri).path / "skippy.json"
        account = SimpleNamespace(digest=json.loads(digest.read_text())["digest"])
        run_id = scene.report(SimpleNamespace(model_uri=uri, account=account), score=score)
        runs.append((scene.tracker.runs.read(run_id).tags["skippy.eval_runs"], account.digest))
    named = [{"model_digest": digest, "runs": {"eval": run}} for run, digest in runs]
    scene.edit_report(run_id, lambda content: content["arms"]["v4"].update(evaluations=named), is_signed=True)
    scene.tracker.client.set_tag(run_id, "skippy.eval_runs", ",".join(run for run, _ in runs))
    assert scene.promote().champion == 2


def test_a_report_without_its_samples_is_refused(scene):
    run_id = scene.report(scene.version(1))
    evaluation = scene.tracker.runs.read(run_id).tags["skippy.eval_runs"]
    scene.tracker.artifacts.path(evaluation, "samples/aime.jsonl").unlink()
    with pytest.raises(RegistryError, match="samples that the report rests on are gone"):
        scene.promote()
    assert scene.champion() is None


class Interrupted(Exception):
    pass


@pytest.mark.parametrize("alias", ["champion", "previous"])
@pytest.mark.parametrize("is_rollback", [False, True])
def test_a_move_cut_in_half_is_whole_after_the_next_one(scene, monkeypatch, alias, is_rollback):
    """Whichever alias was not set any more, asking again ends with both, and with one line of history."""
    for seed in (1, 2) if is_rollback else (1, 2, 3):
        scene.report(scene.version(seed))
        if seed < 3:
            scene.promote()
    with monkeypatch.context() as patch:
        client = scene.tracker.store.client
        set_alias = client.set_registered_model_alias

        def set_or_die(name, found, version):
            if found == alias:
                raise Interrupted
            set_alias(name, found, version)

        patch.setattr(client, "set_registered_model_alias", set_or_die)
        with pytest.raises(Interrupted):
            scene.promote(rollback=is_rollback)
    champion, previous = (1, 2) if is_rollback else (3, 2)
    assert scene.promote(rollback=is_rollback).champion == champion
    assert scene.tracker.registry.alias("skippy", "previous").version == previous
    moves = [(event.version, event.replaced) for event in scene.tracker.promotions.history("skippy")]
    assert moves == [(1, None), (2, 1), (champion, previous)]

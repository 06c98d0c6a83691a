"""What stages are given: the earlier run that holds it, the base that was meant, the device there is."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from benchmarks.adapter_files import write_adapter
from skippy.characters.loader import load_character
from skippy.config import SubspaceConfig
from skippy.core.spectral.lora import LoraFactors
from skippy.errors import CheckpointError, ConfigError, MissingRunError
from skippy.resolve.bases import open_base
from skippy.resolve.devices import pick_device
from skippy.resolve.runs import find_run
from skippy.resolve.subjects import find_subject
from skippy.resolve.work import take_over
from skippy.stages import subspace
from skippy.stores.merging import merge_checkpoint
from skippy.tracking.tags import NOTE_TAG, Tag
from tests.stages.tiny_checkpoint import write_checkpoint


@pytest.fixture
def base(tracker, tmp_path):
    return open_base(str(write_checkpoint(tmp_path / "base")), tracker)


def finished(tracker, stage: str, **tags: str) -> str:
    with tracker.stage(stage, name="s", note="", config={}) as run:
        run.set_tags(tags)
        run.log_text("kept", "reference/manifest.json")
    return run.run_id


@pytest.mark.parametrize("is_named", [True, False])
def test_a_run_that_reused_another_leads_to_it(tracker, is_named: bool) -> None:
    first = finished(tracker, "svd")
    second = finished(tracker, "svd", **{Tag.REUSES: first})
    third = finished(tracker, "svd", **{Tag.REUSES: second})
    assert find_run(tracker, "svd", third if is_named else "").run_id == first


def test_a_run_that_took_over_another_leads_there_and_counts_nothing_twice(tracker) -> None:
    """Its description has the link and the figures; metrics it has none, which MLflow would group with the other's."""
    with tracker.stage("train", name="train v4 seed 42", note="", config={}) as first:
        first.log_metrics({"train/reward": 1.0}, step=1)
        first.log_metrics({"train/reward": 4.25}, step=2)
    with tracker.stage("train", name="train v4 seed 42", note="", config={}) as second:
        take_over(tracker.runs.get(first.run_id), second, tracker)
    again = tracker.runs.get(second.run_id)
    page = f"/#/experiments/{tracker.store.experiment_id}/runs/{first.run_id}"
    page += "?workflowType=machine_learning"
    assert f"[train v4 seed 42 ({first.run_id})](http://127.0.0.1:5000{page})" in again.tags[NOTE_TAG]
    assert "| train/reward | 4.25 |" in again.tags[NOTE_TAG]
    assert again.metrics == {}
    assert [record.run_id for record in tracker.runs.find_all("train")] == [first.run_id]


def test_the_command_shown_is_for_the_base_that_was_meant(tracker, base) -> None:
    with pytest.raises(MissingRunError) as refusal:
        find_run(tracker, "svd", base=base, make_with={"k": "4"})
    assert refusal.value.next_step.endswith(f"-e svd --env-manager local -P base_model={base.name} -P k=4")


def test_a_directory_is_called_by_its_digest_in_what_is_published(base) -> None:
    assert base.public_name == base.digest
    assert replace(base, name="owner/model").public_name == "owner/model"


def test_a_merge_of_another_base_is_not_the_variant_meant(tracker, base) -> None:
    finished(tracker, "merge", **{"skippy.variant": "v4", "skippy.base_digest": "0" * 64})
    with pytest.raises(MissingRunError, match="no finished merge run"):
        find_subject("v4", base.name, base, tracker)


def test_a_gpu_that_is_not_there_is_refused_and_auto_does_without(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert pick_device("auto") == pick_device("cpu") == torch.device("cpu")
    with pytest.raises(ConfigError, match="no GPU here"):
        pick_device("cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert pick_device("auto") == pick_device("cuda") == torch.device("cuda:3")


class Measured(Exception):
    """The base would have been measured again."""


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"base_answers": True},
        {"prompts": 8},
        {"seed": 1},
        {"character": "keeper"},
        {"profile": "lab"},
        {"force": True},
    ],
    ids=str,
)
def test_a_reference_is_reused_where_all_that_decides_it_is_the_same(
    tracker, base, monkeypatch: pytest.MonkeyPatch, change: dict
) -> None:
    config = SubspaceConfig(base_model=base.name, prompts=4, base_answers=False, device="cpu")
    identity = {"skippy.base_digest": base.digest, Tag.CHARACTER_DIGEST: load_character("skippy").digest}
    made = finished(
        tracker,
        "subspace",
        **identity,
        **{"skippy.prompts": "4", "skippy.subspace_seed": str(config.seed)},
        **{"skippy.answer_tokens": "128", Tag.READING: base.reading},
    )

    def measure(*_):
        raise Measured

    monkeypatch.setattr(subspace, "_measure", measure)
    monkeypatch.setattr(subspace, "find_reference", lambda *_: None)
    if change:
        with pytest.raises(Measured):
            subspace.run(replace(config, **change), tracker)
    else:
        assert subspace.run(config, tracker).run_id == made


def test_a_reference_that_is_gone_is_measured_again(tracker, base, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its run says that it is there; what counts is whether it can be read."""
    config = SubspaceConfig(base_model=base.name, prompts=4, base_answers=False, device="cpu")
    identity = {"skippy.base_digest": base.digest, Tag.CHARACTER_DIGEST: load_character("skippy").digest}
    finished(
        tracker, "subspace", **identity, **{"skippy.prompts": "4", "skippy.subspace_seed": str(config.seed)}
    )
    assert subspace.resolve(config, tracker).finished is None


def test_a_deleted_run_is_refused_by_name(tracker) -> None:
    """An evaluation that was deleted was regraded as if it were there."""
    run_id = finished(tracker, "eval")
    tracker.client.delete_run(run_id)
    with pytest.raises(MissingRunError, match="The run is deleted") as refusal:
        find_run(tracker, "eval", run_id)
    assert f"mlflow runs restore --run-id {run_id}" in refusal.value.next_step
    tracker.client.restore_run(run_id)
    assert find_run(tracker, "eval", run_id).run_id == run_id


def test_a_version_whose_bytes_are_not_those_written_is_not_evaluated(tracker, base, tmp_path) -> None:
    with tracker.stage("merge", name="m", note="", config={}) as run:
        with tracker.models.draft(run, "v4") as draft:
            account = merge_checkpoint(base.checkpoint, _adapter_of(base, tmp_path), draft.weights_dir)
        version = draft.register("skippy", {"variant": "v4"})
    assert find_subject(version.uri, base.name, base, tracker).digest == account.digest
    weights = tracker.models.resolve(version.uri).path / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.chmod(0o644)
    weights.chmod(0o644)
    weights.write_bytes(content)
    with pytest.raises(CheckpointError, match="not what was written"):
        find_subject(version.uri, base.name, base, tracker)


def _adapter_of(base, tmp_path):
    factors = {
        target.name: LoraFactors(torch.ones(2, target.in_), torch.ones(target.out, 2), 0.1)
        for target in base.targets
    }
    return write_adapter(tmp_path / "adapter", factors)

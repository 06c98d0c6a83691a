import multiprocessing
import shutil
from pathlib import Path

import mlflow
import pandas as pd
import pytest
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import PERMISSION_DENIED
from transformers import AutoModelForCausalLM, AutoTokenizer

from skippy.errors import MissingRunError, RegistryError, TrackingError
from skippy.tracking.lifecycle import mark_dead
from skippy.tracking.orphans import find_orphans, scratch_directory, sweep_orphans
from skippy.tracking.pyfunc_loader import TextGenerator
from skippy.tracking.registry import ModelReference, check_model_name, parse_model_uri
from skippy.tracking.store import open_tracker


def merge(tracker, checkpoint, variant="v4", base_digest="d1", name="skippy"):
    """A version of a registered model, as the merge stage makes it."""
    with (
        tracker.stage("merge", name=f"merge {variant}", note="n", variant=variant, config={}) as run,
        tracker.models.draft(run, variant, model_type="checkpoint", tags={"variant": variant}) as draft,
    ):
        shutil.copytree(checkpoint, draft.weights_dir)
        return draft.register(name, {"variant": variant, "base_digest": base_digest, "alpha": 1.0})


def size_of(folder):
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


# Drafts


def test_weights_exist_once_and_load_everywhere(tracker, project, checkpoint):
    version = merge(tracker, checkpoint)
    weights = list((project / "mlartifacts").rglob("*.safetensors"))
    assert len(weights) == 1
    assert size_of(project / "mlartifacts") < 1.5 * size_of(checkpoint)
    resolved = tracker.models.resolve(version.uri)
    assert resolved.path == weights[0].parent
    assert AutoModelForCausalLM.from_pretrained(resolved.path).config.hidden_size == 16
    generator = mlflow.pyfunc.load_model(version.uri)
    answers = generator.predict(["one two", "two"], params={"max_new_tokens": 3})
    assert len(answers) == 2
    assert all(isinstance(answer, str) for answer in answers)
    table = pd.DataFrame({"prompt": ["one two", "two"]})
    assert generator.predict(table, params={"max_new_tokens": 3}) == answers
    chat = [{"role": "user", "content": "one two"}]
    said = [
        generator.predict(asked, params={"max_new_tokens": 3})
        for asked in (chat, {"messages": chat}, [{"messages": chat}], pd.DataFrame({"messages": [chat]}))
    ]
    completion = {"choices": [{"index": 0, "message": {"role": "assistant", "content": answers[0]}}]}
    assert said == [completion, completion, [completion], [completion]]
    # Loading neither copied nor touched the weights.
    assert len(list((project / "mlartifacts").rglob("*.safetensors"))) == 1


@pytest.mark.parametrize("count", [1, 7])
def test_an_answer_is_what_the_model_adds_to_its_prompt_whoever_is_asked_beside(checkpoint, count):
    model, tokenizer = (
        AutoModelForCausalLM.from_pretrained(checkpoint),
        AutoTokenizer.from_pretrained(checkpoint),
    )
    prompts = ["one two one two two", "two", "one one"]
    expected = []
    for prompt in prompts:
        ids = tokenizer(prompt, return_tensors="pt")["input_ids"]
        added = model.generate(ids, max_new_tokens=count, do_sample=False)[0, ids.shape[1] :]
        expected.append(tokenizer.decode(added, skip_special_tokens=True))
    assert all(len(answer.split()) == count for answer in expected)
    generator = TextGenerator(str(checkpoint))
    assert generator.predict(prompts, {"max_new_tokens": count}) == expected
    assert generator.predict(prompts[0], {"max_new_tokens": count}) == expected[:1]
    assert generator.predict({"other": [0] * 3, "prompt": prompts}, {"max_new_tokens": count}) == expected


def test_version_and_logged_model_say_where_they_come_from(tracker, checkpoint):
    version = merge(tracker, checkpoint)
    assert (version.name, version.version, version.uri) == ("skippy", 1, "models:/skippy/1")
    assert version.tags == {"variant": "v4", "base_digest": "d1", "alpha": "1.0"}
    logged = tracker.client.get_logged_model(version.model_id)
    assert (logged.status, logged.name, logged.source_run_id) == ("READY", "v4", version.run_id)
    (output,) = tracker.client.get_run(version.run_id).outputs.model_outputs
    assert output.model_id == version.model_id


def test_metrics_of_a_model_on_a_dataset(tracker, checkpoint):
    """What the Models tab of the UI shows."""
    version = merge(tracker, checkpoint)
    with tracker.stage("eval", name="eval", note="n", config={}) as run:
        dataset = run.log_dataset("lab", "e" * 64, "lab", "evaluation")
        run.log_metrics({"aime/avg_at_k": 0.5}, model_id=version.model_id, dataset=dataset)
    (metric,) = tracker.client.get_logged_model(version.model_id).metrics
    assert (metric.key, metric.value, metric.run_id) == ("aime/avg_at_k", 0.5, run.run_id)
    assert (metric.dataset_name, metric.dataset_digest) == ("lab", "e" * 36)
    found = tracker.client.search_logged_models(
        [tracker.store.experiment_id], "metrics.`aime/avg_at_k` > 0.4", datasets=[{"dataset_name": "lab"}]
    )
    assert [model.model_id for model in found] == [version.model_id]


@pytest.mark.parametrize("register_first", [False, True])
def test_failure_leaves_no_file_and_no_version(tracker, project, checkpoint, register_first):
    drafts = []

    def break_off():
        with (
            tracker.stage("merge", name="m", note="n", config={}) as run,
            tracker.models.draft(run, "v4") as draft,
        ):
            drafts.append(draft)
            shutil.copytree(checkpoint, draft.weights_dir)
            if register_first:
                draft.register("skippy", {"variant": "v4"})
            raise ValueError("digest differs")

    with pytest.raises(ValueError, match="digest differs"):
        break_off()
    (draft,) = drafts
    assert list((project / "mlartifacts").rglob("*.safetensors")) == []
    assert tracker.registry.versions("skippy") == []
    assert tracker.client.get_logged_model(draft.model_id).status == "FAILED"
    with pytest.raises(RegistryError, match="never finished"):
        tracker.models.resolve(draft.uri)


def test_empty_draft_is_refused(tracker):
    with (
        tracker.stage("merge", name="m", note="n", config={}) as run,
        pytest.raises(TrackingError) as error,
        tracker.models.draft(run, "v4"),
    ):
        pass
    assert "has no weights" in str(error.value)
    assert "config.json" in str(error.value)
    assert tracker.registry.versions("skippy") == []


def test_half_written_draft_of_a_dead_process_is_dropped(tracker, project, checkpoint):
    run = tracker.client.create_run(tracker.store.experiment_id)
    logged = tracker.client.create_logged_model(
        tracker.store.experiment_id, name="v4", source_run_id=run.info.run_id
    )
    shutil.copytree(
        checkpoint, project / "mlartifacts" / "models" / logged.model_id / "artifacts" / "weights"
    )
    mark_dead(tracker.store, run.info.run_id, "killed by SIGKILL")
    assert list((project / "mlartifacts").rglob("*.safetensors")) == []
    assert tracker.client.get_logged_model(logged.model_id).status == "FAILED"
    record = tracker.runs.read(run.info.run_id)
    assert record.status == "KILLED"
    assert record.tags["skippy.error"] == "killed by SIGKILL"


def test_a_finished_model_outlives_the_run_that_made_it(tracker, checkpoint):
    version = merge(tracker, checkpoint)
    mark_dead(tracker.store, version.run_id, "killed by SIGKILL")
    assert (tracker.models.resolve(version.uri).path / "model.safetensors").is_file()
    assert str(tracker.client.get_logged_model(version.model_id).status) == "READY"


# Weights outside the store


def test_one_logged_model_stands_for_one_digest(tracker):
    model_id = tracker.models.external("base Qwen/Qwen3-VL-8B", "a" * 64)
    assert tracker.models.external("base by another name", "a" * 64) == model_id
    assert tracker.models.external("base", "b" * 64) != model_id
    logged = tracker.client.get_logged_model(model_id)
    assert (logged.name, str(logged.status)) == ("base Qwen_Qwen3-VL-8B", "READY")
    assert logged.tags["skippy.model_digest"] == "a" * 64
    with tracker.stage("eval", name="eval", note="n", config={}) as run:
        dataset = run.log_dataset("lab", "e" * 64, "lab", "evaluation")
        run.log_metrics({"aime/avg_at_k": 0.5}, model_id=model_id, dataset=dataset)
    (metric,) = tracker.client.get_logged_model(model_id).metrics
    assert (metric.key, metric.run_id, metric.dataset_name) == ("aime/avg_at_k", run.run_id, "lab")


def test_an_external_model_that_was_never_finished_is_not_taken(tracker):
    """The twin: its digest alone does not make it one; its maker may be dead."""
    half = tracker.client.create_logged_model(
        tracker.store.experiment_id, name="base", tags={"skippy.model_digest": "a" * 64}
    )
    assert tracker.models.external("base", "a" * 64) != half.model_id


def name_in_process(root, results):
    results.put(open_tracker(root).models.external("base", "a" * 64))


def test_two_evaluations_of_one_base_at_once_share_its_model(tracker, project):
    forked = multiprocessing.get_context("fork")
    results = forked.Queue()
    racers = [forked.Process(target=name_in_process, args=(project, results)) for _ in range(3)]
    for racer in racers:
        racer.start()
    found = {results.get(timeout=60) for _ in racers}
    for racer in racers:
        racer.join()
    assert len(found) == 1
    assert len(tracker.client.search_logged_models([tracker.store.experiment_id])) == 1


# Finding


def test_uris():
    assert parse_model_uri("models:/skippy/3") == ModelReference(name="skippy", version=3)
    assert parse_model_uri("models:/skippy@champion") == ModelReference(name="skippy", alias="champion")
    assert parse_model_uri("models:/m-0a1b") == ModelReference(model_id="m-0a1b")
    for wrong in ("skippy", "models:/skippy", "models:/skippy/latest", "runs:/1/model", "models:/a/b/1", ""):
        with pytest.raises(MissingRunError, match="not the URI of a model") as error:
            parse_model_uri(wrong)
        assert "models:/NAME@ALIAS" in str(error.value)


def test_resolves_by_version_alias_and_logged_model(tracker, checkpoint):
    merge(tracker, checkpoint, "v3")
    version = merge(tracker, checkpoint)
    tracker.client.set_registered_model_alias("skippy", "champion", "2")
    by_number, by_alias = (
        tracker.models.resolve("models:/skippy/2"),
        tracker.models.resolve("models:/skippy@champion"),
    )
    assert by_number == by_alias
    assert (by_number.name, by_number.version, by_number.run_id) == ("skippy", 2, version.run_id)
    assert by_number.tags["variant"] == "v4"
    bare = tracker.models.resolve(f"models:/{version.model_id}")
    assert bare.path == by_number.path
    assert (bare.name, bare.version) == (None, None)
    assert bare.tags["variant"] == "v4"


def test_missing_versions_and_aliases_list_what_there_is(tracker, checkpoint):
    with pytest.raises(MissingRunError, match="no registered model 'skippy'") as error:
        tracker.models.resolve("models:/skippy/1")
    assert "next: make one with the whole experiment: mlflow run ." in str(error.value)
    merge(tracker, checkpoint)
    for uri, what in (("models:/skippy/9", "version 9"), ("models:/skippy@champion", "alias champion")):
        with pytest.raises(MissingRunError, match=what) as error:
            tracker.models.resolve(uri)
        assert "versions 1 (v4); aliases none" in str(error.value)
    with pytest.raises(MissingRunError, match="no such logged model"):
        tracker.models.resolve("models:/m-0000")


def test_weights_that_are_gone_are_missed(tracker, checkpoint):
    version = merge(tracker, checkpoint)
    shutil.rmtree(tracker.models.resolve(version.uri).path)
    with pytest.raises(MissingRunError, match="weights of a model are gone"):
        tracker.models.resolve(version.uri)
    with pytest.raises(MissingRunError, match="weights of a model are gone"):
        tracker.promotions.promote("skippy", 1, reason="", report_uri="", figures={}, expected_champion=None)
    assert tracker.registry.alias("skippy", "champion") is None


def test_versions_are_listed_newest_first(tracker, checkpoint):
    for variant, base in (("v4", "d1"), ("v3", "d1"), ("v4", "d2")):
        merge(tracker, checkpoint, variant, base)
    assert [record.version for record in tracker.registry.versions("skippy")] == [3, 2, 1]
    assert tracker.registry.versions("nothing") == []
    assert tracker.registry.alias("nothing", "champion") is None


# The champion


def promote(tracker, version, expected):
    return tracker.promotions.promote(
        "skippy", version, reason="V4 preserved AIME.", by="ada", report_uri="runs:/r/report/index.html",
        figures={"mean_difference": -0.01, "n": 240}, expected_champion=expected,
    )  # fmt: skip


@pytest.fixture
def two_versions(tracker, checkpoint):
    merge(tracker, checkpoint, "v3")
    merge(tracker, checkpoint, "v4")
    return tracker


def test_promotion_moves_both_aliases_and_writes_down_why(two_versions):
    first = promote(two_versions, 1, None)
    assert first.aliases == ("champion",)
    assert two_versions.registry.alias("skippy", "previous") is None
    champion = promote(two_versions, 2, 1)
    assert (champion.version, champion.aliases) == (2, ("champion",))
    assert two_versions.registry.alias("skippy", "previous").version == 1
    tags = champion.tags
    assert (tags["promoted_by"], tags["promotion_reason"], tags["promoted_over"]) == (
        "ada",
        "V4 preserved AIME.",
        "1",
    )
    assert tags["promotion_report"] == "runs:/r/report/index.html"
    assert '"n": 240' in tags["promotion_figures"]
    assert [
        (event.action, event.version, event.replaced) for event in two_versions.promotions.history("skippy")
    ] == [
        ("promote", 1, None),
        ("promote", 2, 1),
    ]


def test_promotion_decided_on_an_old_champion_is_refused(two_versions):
    promote(two_versions, 1, None)
    with pytest.raises(RegistryError, match="champion changed while") as error:
        promote(two_versions, 2, None)
    assert "no champion" in str(error.value)
    assert "version 1" in str(error.value)
    assert two_versions.registry.alias("skippy", "champion").version == 1


def test_second_promotion_of_the_same_version_is_refused(two_versions):
    promote(two_versions, 1, None)
    with pytest.raises(RegistryError, match="champion already"):
        promote(two_versions, 1, 1)
    with pytest.raises(MissingRunError, match="no version 7"):
        promote(two_versions, 7, 1)
    assert len(two_versions.promotions.history("skippy")) == 1


def promote_in_process(root, version, results):
    try:
        results.put(promote(open_tracker(root), version, None).version)
    except RegistryError as error:
        results.put(error.what)


def test_two_promotions_at_once_one_wins_the_other_is_told(two_versions, project):
    forked = multiprocessing.get_context("fork")
    results = forked.Queue()
    racers = [forked.Process(target=promote_in_process, args=(project, number, results)) for number in (1, 2)]
    for racer in racers:
        racer.start()
    said = [results.get(timeout=60) for _ in racers]
    for racer in racers:
        racer.join()
    (winner,) = [answer for answer in said if isinstance(answer, int)]
    assert "The champion changed while this promotion was decided." in said
    assert two_versions.registry.alias("skippy", "champion").version == winner
    assert len(two_versions.promotions.history("skippy")) == 1


def test_rollback_changes_places_and_can_be_undone(two_versions):
    promote(two_versions, 1, None)
    with pytest.raises(RegistryError, match="no champion to go back to") as error:
        two_versions.promotions.rollback("skippy", reason="regret")
    assert error.value.found == "champion version 1, previous not set"
    assert error.value.next_step.endswith(
        'promote a version by hand: skippy promote --version N --override "WHY"'
    )
    promote(two_versions, 2, 1)
    assert two_versions.promotions.rollback("skippy", reason="regret").version == 1
    assert two_versions.registry.alias("skippy", "previous").version == 2
    assert two_versions.promotions.rollback("skippy", reason="second thought").version == 2
    assert [event.action for event in two_versions.promotions.history("skippy")] == ["promote"] * 2 + [
        "rollback"
    ] * 2
    assert two_versions.promotions.history("skippy")[2].reason == "regret"


class Cut(Exception):
    """Stands for a process that dies at this call."""


@pytest.mark.parametrize("calls", range(1, 14))
def test_a_promotion_cut_anywhere_is_finished_or_undone_by_the_next_one(
    two_versions, checkpoint, monkeypatch, calls
):
    """Versions 1 → 2 were promoted; 3 over 2 is cut after so many writes, and asked for again."""
    merge(two_versions, checkpoint, "v4")
    promote(two_versions, 1, None)
    promote(two_versions, 2, 1)
    client, left = two_versions.client, [calls]
    with monkeypatch.context() as patch:
        for name in WRITES:
            patch.setattr(client, name, dying(getattr(client, name), left))
        try:
            promote(two_versions, 3, 2)
            was_cut = False
        except Cut:
            was_cut = True
    before = two_versions.registry.alias("skippy", "champion").version
    if was_cut:
        assert promote(two_versions, 3, before).version == 3
    aliases = {name: two_versions.registry.alias("skippy", name).version for name in ("champion", "previous")}
    assert aliases == {"champion": 3, "previous": 2}
    assert [(e.version, e.replaced) for e in two_versions.promotions.history("skippy")] == [
        (1, None),
        (2, 1),
        (3, 2),
    ]
    assert "promotion.intent" not in client.get_registered_model("skippy").tags
    assert two_versions.promotions.rollback("skippy", reason="regret").version == 2


WRITES = (
    "set_registered_model_alias",
    "set_registered_model_tag",
    "set_model_version_tag",
    "delete_registered_model_tag",
)


def dying(write, left):
    def attempt(*given, **named):
        left[0] -= 1
        if left[0] < 0:
            raise Cut
        return write(*given, **named)

    return attempt


def test_a_rollback_after_a_cut_promotion_crowns_the_one_that_was_replaced(
    two_versions, checkpoint, monkeypatch
):
    merge(two_versions, checkpoint, "v4")
    promote(two_versions, 1, None)
    promote(two_versions, 2, 1)
    client = two_versions.client
    with monkeypatch.context() as patch:
        patch.setattr(client, "set_registered_model_alias", dying(client.set_registered_model_alias, [1]))
        with pytest.raises(Cut):
            promote(two_versions, 3, 2)
    assert two_versions.registry.alias("skippy", "champion").version == 3
    assert two_versions.promotions.rollback("skippy", reason="regret").version == 2
    assert two_versions.registry.alias("skippy", "previous").version == 3


def test_an_alias_that_somebody_else_moves_at_the_same_moment_is_told(two_versions, monkeypatch):
    promote(two_versions, 1, None)
    client = two_versions.client
    move = client.set_registered_model_alias

    def lose(name, alias, version):
        move(name, alias, version)
        move(name, alias, "1")

    monkeypatch.setattr(client, "set_registered_model_alias", lose)
    with pytest.raises(RegistryError, match="Somebody else moved an alias") as error:
        promote(two_versions, 2, 1)
    assert "version 2" in error.value.expected
    assert len(two_versions.promotions.history("skippy")) == 1


@pytest.mark.parametrize(
    "name", ["a@b", "", " ", "a/b", "a:b", "a?b", "a#b", "a%b", "o'b", 'a"b', "x ", "-a", "m" * 201]
)
def test_a_name_that_could_not_be_found_again_is_refused_before_anything_is_made(tracker, name):
    with pytest.raises(RegistryError, match="cannot be the name of a registered model") as error:
        check_model_name(name)
    assert repr(name) in error.value.found
    if name:
        with (
            tracker.stage("merge", name="m", note="n", config={}) as run,
            pytest.raises(RegistryError),
            tracker.models.draft(run, "v4", registered_model=name),
        ):
            pytest.fail("drafted")
        assert list(tracker.client.search_logged_models([tracker.store.experiment_id])) == []


@pytest.mark.parametrize("name", ["skippy", "Skippy 2.1-beta_x", "méchant"])
def test_a_plain_name_is_taken_and_found_again(tracker, checkpoint, name):
    """The twin."""
    merge(tracker, checkpoint, name=name)
    assert tracker.models.resolve(f"models:/{name}/1").version == 1


# Orphans


def leave(tracker, checkpoint, status, run_status):
    """A logged model of a run that ended so; returns its id."""
    run = tracker.client.create_run(tracker.store.experiment_id).info.run_id
    logged = tracker.client.create_logged_model(tracker.store.experiment_id, name="v4", source_run_id=run)
    folder = Path(logged.artifact_location)
    shutil.copytree(checkpoint, folder / "weights")
    if status != "PENDING":
        tracker.client.finalize_logged_model(logged.model_id, status)
    if run_status != "RUNNING":
        tracker.client.set_terminated(run, run_status)
    return logged.model_id, folder


@pytest.mark.parametrize(
    ("status", "run_status", "is_orphan"),
    [
        ("PENDING", "KILLED", True),
        ("PENDING", "FINISHED", True),
        ("READY", "KILLED", True),
        ("READY", "FAILED", True),
        ("FAILED", "FAILED", True),
        ("READY", "FINISHED", False),
        ("PENDING", "RUNNING", False),
        ("READY", "RUNNING", False),
    ],
)
def test_weights_that_nothing_leads_to_are_found_and_swept_by_the_next_merge(
    tracker, checkpoint, status, run_status, is_orphan
):
    model_id, folder = leave(tracker, checkpoint, status, run_status)
    found = find_orphans(tracker.store)
    assert [orphan.model_id for orphan in found] == ([model_id] if is_orphan else [])
    if found:
        assert found[0].nbytes == size_of(folder)
        assert run_status in found[0].what
    merge(tracker, checkpoint)
    assert folder.exists() == (not is_orphan)
    assert find_orphans(tracker.store) == []


def test_what_a_version_refers_to_is_never_an_orphan(tracker, checkpoint):
    version = merge(tracker, checkpoint)
    tracker.client.set_terminated(version.run_id, "KILLED")
    tracker.models.external("base", "a" * 64)
    assert find_orphans(tracker.store) == []


def test_a_scratch_copy_is_swept_once_its_process_is_gone(tracker):
    with scratch_directory(tracker.store, "m-1") as folder:
        (folder / "weights").write_bytes(b"x" * 9)
        assert find_orphans(tracker.store) == [], "it is being written"
    assert not folder.exists()
    folder.mkdir(parents=True)
    (folder / "weights").write_bytes(b"x" * 9)
    (orphan,) = find_orphans(tracker.store)
    assert (orphan.where, orphan.nbytes, orphan.is_safe) == (str(folder), 9, True)
    assert sweep_orphans(tracker.store) == [orphan]
    assert not folder.exists()


def test_weights_that_cannot_be_registered_do_not_stay(tracker, project, checkpoint, monkeypatch):
    def refuse(*given, **named):
        raise MlflowException("Permission denied", PERMISSION_DENIED)

    monkeypatch.setattr(tracker.client, "create_model_version", refuse)
    with pytest.raises(TrackingError, match="does not permit this"):
        merge(tracker, checkpoint)
    assert list((project / "mlartifacts").rglob("*.safetensors")) == []

"""Runs, models and one run in the terminal: short ids, tables and JSON."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from entrypoints.__main__ import cli
from skippy.errors import MissingRunError
from skippy.resolve.runs import find_run
from skippy.terminal.listing import describe_run, list_models, list_runs
from skippy.tracking.tags import Tag

ROOT = Path(__file__).parents[2]


@pytest.fixture
def finished(tracker):
    """Make a finished run of a stage."""

    def make(stage: str, metrics: dict[str, float] | None = None, **tags: str) -> str:
        with tracker.stage(stage, name=f"a {stage}", note="A note.", config={"k": "16"}) as run:
            run.set_tags({f"skippy.{name}": value for name, value in tags.items()})
            run.log_metrics(metrics or {})
        return run.run_id

    return make


def test_a_run_id_may_be_shortened_wherever_one_is_asked_for(tracker, finished) -> None:
    run_id = finished("svd")
    assert find_run(tracker, "svd", run_id[:8]).run_id == run_id
    assert describe_run(tracker, run_id[:6])["run"] == run_id


def test_nobody_reads_a_run_past_the_finder() -> None:
    """Every parameter that asks for a run goes through `find_run` or `runs.read`, which take shortened ids."""
    rooms = ("stages", "evaluation", "resolve", "studies", "training", "terminal", "upkeep")
    sources = [path for room in rooms for path in (ROOT / "skippy" / room).glob("*.py")]
    assert sources
    assert not [path for path in sources if "client.get_run(" in path.read_text()]


def test_digits_that_several_runs_share_are_refused_with_those_runs(tracker, finished, monkeypatch) -> None:
    first, second = finished("svd"), finished("svd")
    search = tracker.client.search_runs
    monkeypatch.setattr(
        tracker.client,
        "search_runs",
        lambda ids, clause, **kw: search(ids, clause.replace("abcd%", "%"), **kw),
    )
    with pytest.raises(MissingRunError, match="Several runs begin") as refusal:
        tracker.runs.read("abcd")
    assert first in refusal.value.found
    assert second in refusal.value.found


def test_digits_of_no_run_are_refused(tracker) -> None:
    with pytest.raises(MissingRunError, match="There is no such run"):
        tracker.runs.read("abcdef")


def test_runs_are_listed_newest_first_of_one_stage_or_all(tracker, finished) -> None:
    older, other, newer = finished("svd"), finished("train", {"train/reward_last": 1.5}), finished("svd")
    assert [row["run"] for row in list_runs(tracker, "svd", 10)] == [newer, older]
    assert [row["run"] for row in list_runs(tracker, "", 2)] == [newer, other]
    (row,) = list_runs(tracker, "train", 1)
    assert row["figures"] == {"train/reward_last": 1.5}
    assert (row["status"], row["stage"], row["name"]) == ("FINISHED", "train", "a train")


def test_one_run_says_what_it_was_given_built_on_and_kept(tracker, finished) -> None:
    svd = finished("svd")
    train = finished("train", {"train/steps": 4.0}, svd_run=svd)
    facts = describe_run(tracker, train)
    assert facts["links"] == {"svd": svd}
    assert facts["parameters"] == {"k": "16"}
    assert facts["metrics"]["train/steps"] == 4.0
    assert facts["artifacts"] == ["config.json"]
    assert facts["note"] == "A note."


def test_models_show_aliases_figures_and_the_verdict_on_them(tracker, finished, tmp_path) -> None:
    with tracker.stage("merge", name="m", note="", config={}) as run:
        with tracker.models.draft(run, "v4") as draft:
            draft.weights_dir.mkdir()
            (draft.weights_dir / "config.json").write_text("{}")
        version = draft.register("skippy", {"variant": "v4", "seed": "42", "alpha": "1"})
    tracker.client.set_registered_model_alias("skippy", "champion", str(version.version))
    evaluation = finished("eval", {"aime/avg_at_k": 0.5, "banal/score": 0.9})
    tracker.client.set_tag(evaluation, Tag.MODEL_URI, version.uri)
    later = finished("eval")
    tracker.client.set_tag(later, Tag.MODEL_URI, version.uri)
    tracker.client.set_tag(later, "skippy.reuses", evaluation)
    report = {
        "verdicts": {"v4": {"verdict": "preserved"}},
        "arms": {"v4": {"evaluations": [{"runs": {"eval": evaluation}}]}},
    }
    with tracker.stage("compare", name="c", note="", config={}) as compare:
        compare.log_json(report, "report/report.json")
    (row,) = list_models(tracker, "skippy")
    assert (row["model"], row["aliases"], row["variant"]) == (version.uri, ["champion"], "v4")
    assert (row["score"], row["persona"], row["verdict"]) == (0.5, 0.9, "preserved")
    assert row["runs"]["eval"] == evaluation


def test_a_champion_made_by_hand_is_marked_for_ever(tracker) -> None:
    for number in (1, 2):
        with (
            tracker.stage("merge", name="m", note="", config={}) as run,
            tracker.models.draft(run, "v4") as draft,
        ):
            draft.weights_dir.mkdir()
            (draft.weights_dir / "config.json").write_text("{}")
            draft.register("skippy", {"variant": "v4"})
        tracker.promotions.promote(
            "skippy", number, reason="r", report_uri="u", expected_champion=number - 1 or None, by="ada",
            figures={"override": "the jury liked it"} if number == 1 else {},
        )  # fmt: skip
    assert [row["by hand"] for row in list_models(tracker, "skippy")] == ["", "the jury liked it"]
    tracker.promotions.rollback("skippy", reason="rollback asked for")
    assert [row["by hand"] for row in list_models(tracker, "skippy")] == ["", "the jury liked it"]


def test_a_model_without_versions_is_refused(tracker) -> None:
    with pytest.raises(MissingRunError, match="There is no registered model 'nobody' with a version"):
        list_models(tracker, "nobody")


def test_the_commands_print_a_table_or_json(tracker, finished, monkeypatch) -> None:
    run_id = finished("svd", {"svd/worst_residual": 1e-9})
    monkeypatch.setattr("skippy.tracking.store.open_tracker", lambda: tracker)
    store, *table = CliRunner().invoke(cli, ["runs"]).output.splitlines()
    assert store == f"store {tracker.store.uri}"
    assert table[0].split()[:3] == ["run", "stage", "name"]
    assert table[1].startswith(run_id[:8] + "  svd")
    assert json.loads(CliRunner().invoke(cli, ["runs", "svd", "--json"]).output)[0]["run"] == run_id
    shown = CliRunner().invoke(cli, ["show", run_id[:8]]).output
    assert "  svd/worst_residual: 1e-09" in shown
    assert json.loads(CliRunner().invoke(cli, ["show", run_id[:8], "--json"]).output)["run"] == run_id
    assert CliRunner().invoke(cli, ["show", "ffff00"]).exit_code == 1


def test_a_list_that_is_cut_says_so_and_one_that_took_over_names_the_other(
    tracker, finished, monkeypatch
) -> None:
    monkeypatch.setattr("skippy.tracking.store.open_tracker", lambda: tracker)
    empty = CliRunner().invoke(cli, ["runs", "svd"]).output.splitlines()
    assert empty == [f"store {tracker.store.uri}", "no svd run yet: skippy svd makes one"]
    first = finished("svd")
    finished("svd", reuses=first)
    whole = CliRunner().invoke(cli, ["runs", "--limit", "2"]).output
    assert f"as run {first[:8]}" in whole
    assert "older" not in whole
    cut = CliRunner().invoke(cli, ["runs", "--limit", "1"]).output.splitlines()
    assert cut[-1] == "there are older ones: --limit 2 shows more"
    assert list_runs(tracker, "", 1)[0]["as"] == first


def test_what_is_no_run_id_is_told_where_ids_are(tracker, finished) -> None:
    with pytest.raises(MissingRunError) as refusal:
        describe_run(tracker, "zz")
    assert refusal.value.expected == f"a run id, or its first digits (at least 4), in {tracker.store.uri}"
    assert refusal.value.found.startswith("no run that begins so")
    assert refusal.value.next_step == "skippy runs lists the ids, skippy models the versions"


def test_a_version_is_shown_by_the_run_that_merged_it(tracker) -> None:
    with pytest.raises(MissingRunError, match="There is no registered model 'skippy'") as refusal:
        describe_run(tracker, "models:/skippy/1")
    assert refusal.value.found == "no registered model at all"
    assert refusal.value.next_step == "make one with the whole experiment: mlflow run . --env-manager local"
    with (
        tracker.stage("merge", name="m", note="", config={}) as run,
        tracker.models.draft(run, "v4") as draft,
    ):
        draft.weights_dir.mkdir()
        (draft.weights_dir / "config.json").write_text("{}")
        draft.register("skippy", {"variant": "v4"})
    assert describe_run(tracker, "models:/skippy/1")["run"] == run.run_id
    with pytest.raises(MissingRunError) as refusal:
        describe_run(tracker, "models:/other/1")
    assert refusal.value.found == "registered: skippy"
    assert "choose one of these, or merge into it" in refusal.value.next_step

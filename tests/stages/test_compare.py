"""compare: which evaluations it takes, what it refuses, and that the page leads back to their samples."""

from __future__ import annotations

import hashlib
import json
import shlex
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest

from skippy.config import MainConfig
from skippy.core.answers import extract_integer
from skippy.core.variants import VARIANTS
from skippy.errors import ConfigError, MissingRunError, ReportError
from skippy.evaluation import gathering
from skippy.evaluation.metrics import problem_scores
from skippy.evaluation.provenance import command, read_licence
from skippy.evaluation.suites import BANAL, LAB
from skippy.report import page
from skippy.report.conclusions import GateStep
from skippy.results import LeakageFacts
from skippy.stages import compare
from skippy.stores.samples import read_samples
from skippy.tracking.tags import PARENT_TAG
from skippy.tracking.tracker import Tracker
from tests.stages.compare_scene import CHARACTER, PROBLEMS, K, N, Scene, chatted, solved


@pytest.fixture
def scene(tracker: Tracker, tmp_path: Path) -> Scene:
    return Scene(tracker, tmp_path)


def test_a_flip_leads_to_the_very_lines_of_its_samples(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """By hand from the coordinates that the page prints; and the verdicts are computed once."""
    runs = {"base": scene.evaluate("base"), "v3": scene.evaluate("v3", "42", right=1)}
    runs["v4"] = scene.evaluate("v4", "42")
    judged, judge = [], compare.judge
    monkeypatch.setattr(compare, "judge", lambda facts: judged.append(facts) or judge(facts))
    shown = []
    sides_of = page.sides_of
    monkeypatch.setattr(
        page, "sides_of", lambda facts, flip: shown.append(sides_of(facts, flip)) or shown[-1]
    )
    record, _ = scene.compare()
    assert len(judged) == 1
    assert len(shown) == N
    folder = scene.artifact(record.run_id, "report/index.html").parent
    gold = PROBLEMS.gold
    for base, v3 in shown:
        for side, is_right in ((base, True), (v3, False)):
            assert side.run_id == runs[side.name]
            lines = list(read_samples(folder / side.path_from_report))
            sample = lines[side.excerpt.line - 1]
            assert sample.problem_hash == side.score.key
            assert sample.sample_index == side.excerpt.index == 0
            assert (extract_integer(sample.completion).value == gold[sample.problem_hash]) == is_right


def test_the_report_says_how_to_make_it_again(scene: Scene) -> None:
    """Stage by stage: one command a run, in order; what differs from the defaults and nothing else."""
    runs = {arm: scene.evaluate(arm, seed) for arm, seed in (("base", ""), ("v3", "42"), ("v4", "42"))}
    _, report = scene.compare(margin=0.1)
    facts = report["provenance"]
    assert (facts["problem_source"], facts["problem_digest"], facts["problem_count"]) == (
        LAB,
        PROBLEMS.digest,
        N,
    )
    stages = [shlex.split(line)[4] for line in facts["commands"]]
    assert stages == ["train", "train", "eval", "eval", "eval"]
    words = shlex.split(facts["commands"][2])
    assert f"base_model={scene.base}" in words, "quoted: its path has a space"
    assert {"limit=8"} < set(words)
    assert not any(word.startswith(("samples=", "suite=")) for word in words), "defaults"
    again = shlex.split(facts["comparison_command"])
    assert {"runs=" + ",".join(runs.values()), "margin=0.1"} <= set(again)


def test_tags_and_metrics_say_what_the_report_says(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """`promote` believes a report whose bytes, winner and evaluations are those of its run's tags."""
    v3, v4 = (
        [scene.evaluate(arm, seed, right=right) for seed in "12"] for arm, right in (("v3", 1), ("v4", 3))
    )
    base = scene.evaluate("base")
    judge = compare.judge

    def decide(facts):
        found = judge(facts)
        wide = tuple(
            replace(v, interval=(v.mean_difference - 1, v.mean_difference + 2)) for v in found.variants
        )
        steps = tuple(GateStep(name, True, "so") for name in found.gate.order)
        return replace(found, variants=wide, gate=replace(found.gate, steps=steps))

    monkeypatch.setattr(compare, "judge", decide)
    record, report = scene.compare(runs=",".join([*v3, *v4]), margin=0.3, registered_model="other")
    content = scene.artifact(record.run_id, "report/report.json").read_bytes()
    assert record.tags["skippy.report_sha256"] == hashlib.sha256(content).hexdigest()
    assert record.tags["skippy.winner"] == report["winner"]["variant"] == "v4"
    assert set(record.tags["skippy.eval_runs"].split(",")) == {base, *v3, *v4}
    for arm, verdict in report["verdicts"].items():
        told = {
            name: record.metrics[f"compare/{arm}/{name}_points"]
            for name in ("difference", "lower_bound", "upper_bound")
        }
        assert tuple(told.values()) == (verdict["mean_difference"], *verdict["interval"])
        assert record.metrics[f"compare/{arm}/avg_at_k"] == report["arms"][arm]["avg_at_k"]
        assert [item["seed"] for item in report["arms"][arm]["evaluations"]] == [1, 2]
        assert [item["model_version"] for item in report["arms"][arm]["evaluations"]] == ["1", "2"]
    assert {verdict["margin"] for verdict in report["verdicts"].values()} == {30.0}
    assert report["promotion"]["registered_model"] == "other"


def test_the_parameters_and_the_character_reach_the_facts(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And prompts are held out whole where a classifier tells arms apart, in whatever mode they were asked."""
    judged, judge = [], compare.judge
    monkeypatch.setattr(compare, "judge", lambda facts: judged.append(facts) or judge(facts))
    told_apart: list[tuple] = []
    monkeypatch.setattr(gathering, "distinguishability", lambda *given: told_apart.append(given) or 0.75)
    for arm, seed in (("base", ""), ("v3", "42"), ("v4", "42")):
        train = scene.tracker.runs.read(scene.evaluate(arm, seed, metrics={"aime/persona": 0.125})).link(
            "train"
        )
        if train:
            scene.tracker.client.set_tag(train, "skippy.k", "8")
    scene.compare()
    (facts,) = judged
    assert facts.floors == asdict(CHARACTER.floors)
    assert facts.protected_k == "8"
    assert [arm.evaluations[0].banal.base_auc for arm in facts.arms] == [None, 0.75, 0.75]
    assert {arm.evaluations[0].banal.problem_score for arm in facts.arms} == {0.125}
    assert [groups for *_, first, second in told_apart for groups in (first, second)] == [["0", "1", "2"]] * 4


def test_the_newest_evaluation_of_the_right_kind_is_taken(scene: Scene) -> None:
    """A walk over checkpoints and another character's evaluation are newer, and not it."""
    scene.evaluate("base")
    runs = {arm: scene.evaluate(arm, "42") for arm in ("v3", "v4")}
    scene.evaluate("v3", "43", **{"skippy.subject": "checkpoints"})
    scene.evaluate("v4", "43", **{"skippy.character_digest": "0" * 64})
    _, report = scene.compare()
    assert {arm: report["arms"][arm]["evaluations"][0]["runs"]["eval"] for arm in runs} == runs


@pytest.mark.parametrize("missing", ["base", "v3", "v4"])
def test_a_missing_arm_is_named_with_the_command_that_makes_it(scene: Scene, missing: str) -> None:
    for arm, seed in (("base", ""), ("v3", "42"), ("v4", "42")):
        if arm != missing:
            scene.evaluate(arm, seed)
    with pytest.raises(MissingRunError) as refusal:
        scene.compare(arms="v3,v4")
    assert f"-e eval --env-manager local -P model={missing}" in str(refusal.value.next_step)
    assert f"-P base_model={scene.base}" in str(refusal.value.next_step)


def test_without_any_variant_there_is_nothing_to_compare(scene: Scene) -> None:
    scene.evaluate("base")
    with pytest.raises(MissingRunError, match="No variant of this base") as refusal:
        scene.compare()
    assert f"-P model=v3 -P base_model={scene.base}" in refusal.value.next_step


def test_problems_that_changed_since_they_were_asked_are_refused(scene: Scene) -> None:
    scene.evaluate("base", **{"skippy.problems_digest": "0" * 16})
    for arm in ("v3", "v4"):
        scene.evaluate(arm, "42")
    with pytest.raises(ReportError, match="not the ones that were asked") as refusal:
        scene.compare()
    assert (refusal.value.expected, refusal.value.found) == (
        f"digest {'0' * 16}",
        f"digest {PROBLEMS.digest}",
    )


def test_leakage_is_the_adapters_and_that_of_what_was_stored() -> None:
    names = ("rho_left", "rho_right", "chance_left", "chance_right")
    train = SimpleNamespace(metrics={f"leakage/{name}": float(n) for n, name in enumerate(names, start=1)})
    after = {"merge/rho_left": 5.0, "merge/rho_right": 6.0, "merge/delta_error": 7.0}
    assert gathering._leakage(train, SimpleNamespace(metrics=after)) == LeakageFacts(*range(1, 8))
    assert gathering._leakage(train, None) == LeakageFacts(1, 2, 3, 4)
    assert gathering._leakage(None, None) is None


def test_the_frontier_is_of_the_training_behind_the_merge(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A merge rests on the walks of both arms; each arm's frontier shows its own."""

    def run(run_id: str, train: str, **tags: str) -> SimpleNamespace:
        return SimpleNamespace(run_id=run_id, tags=tags, link=lambda stage: train)

    for walk, score in (("ours", 0.25), ("theirs", 0.75)):
        samples = [*solved(K), *chatted()]
        lines = [
            replace(s, model_digest="b@20", score=score if s.suite == BANAL else s.score).to_line()
            for s in samples
        ]
        (tmp_path / walk).write_text("".join(lines))
    walks = {"ours": run("ours", "t4"), "theirs": run("theirs", "t3")}
    tracker = SimpleNamespace(
        runs=SimpleNamespace(read=walks.get),
        artifacts=SimpleNamespace(path=lambda run_id, path: tmp_path / run_id),
    )
    merge = run("m", "t4", **{"skippy.walk_runs": "theirs,ours", "skippy.step": "20"})
    base = problem_scores(solved(1), PROBLEMS)
    (point,) = gathering._frontier(tracker, merge, base, PROBLEMS)
    assert (point.step, point.persona, point.is_chosen) == (20, 0.25, True)
    assert point.accuracy == pytest.approx(1.0)
    assert gathering._frontier(tracker, run("m", "t4"), base, PROBLEMS) == (), "not matched, nothing walked"


def test_under_main_one_command_makes_it_again(scene: Scene) -> None:
    config = asdict(MainConfig(problems="a file.jsonl", seeds=3, cross_check=True))
    with scene.tracker.stage("main", name="m", note="", config=config) as parent:
        pass
    for arm, seed in (("base", ""), ("v3", "42"), ("v4", "42")):
        scene.evaluate(arm, seed, **{PARENT_TAG: parent.run_id})
    _, report = scene.compare()
    assert report["provenance"]["commands"] == [
        "mlflow run . --env-manager local -P seeds=3 -P 'problems=a file.jsonl' -P cross_check=true"
    ]


def test_a_command_without_changes_has_no_parameters() -> None:
    assert command("main", asdict(MainConfig())) == "mlflow run . --env-manager local"
    assert command("eval", {"gone": 1}) == "mlflow run . -e eval --env-manager local", "of an older version"


def test_how_samples_were_drawn_reaches_the_verdict(scene: Scene) -> None:
    scene.evaluate("base")
    v3 = scene.evaluate("v3", "42", **{"skippy.prompt_style": "boxed"})
    v4 = scene.evaluate("v4", "42", **{"skippy.sampling_seed": "7"})
    _, report = scene.compare(runs=f"{v3},{v4}")
    reasons = {name: (v["verdict"], v["reason"]) for name, v in report["verdicts"].items()}
    assert reasons == {
        "v3": ("not_comparable", "V3, seed 42: asked in prompt style 'boxed' and not 'plain'"),
        "v4": ("not_comparable", "V4, seed 42: sampled with seed 7 and not 0"),
    }
    arm = report["arms"]["v4"]["evaluations"][0]
    assert (arm["sampling_seed"], arm["prompt_style"], arm["backend"]) == (7, "plain", "transformers")


def test_figures_of_others_are_means_over_seeds_and_never_over_some(scene: Scene) -> None:
    task, agreement = "lm_eval/gsm8k/exact_match", "banal/judge_agreement"
    scene.evaluate("base", metrics={task: 0.5, f"{task}_stderr": 0.01, agreement: 0.8, "aime/avg_at_k": 0.9},
                   **{"skippy.judge": "ada"})  # fmt: skip
    v3 = [scene.evaluate("v3", seed, metrics={task: value}) for seed, value in (("1", 0.25), ("2", 0.5))]
    v4 = [scene.evaluate("v4", "1", metrics={task: 0.5}), scene.evaluate("v4", "2")]
    _, report = scene.compare(runs=",".join([*v3, *v4]))
    assert report["figures_of_others"] == {
        f"{agreement} (ada)": {"base": 0.8},
        task: {"base": 0.5, "v3": 0.375},
    }


def test_several_seeds_named_are_several_seeds(scene: Scene) -> None:
    """The twin of the refusals below."""
    scene.evaluate("base")
    v3, v4 = (",".join(scene.evaluate(arm, seed) for seed in ("1", "2")) for arm in ("v3", "v4"))
    _, report = scene.compare(runs=f"{v3},{v4}")
    assert [len(report["verdicts"][arm]["seed_means"]) for arm in ("v3", "v4")] == [2, 2]


def test_the_base_is_one_run(scene: Scene) -> None:
    runs = [scene.evaluate("base"), scene.evaluate("base")]
    with pytest.raises(ConfigError, match="base is evaluated once") as refusal:
        scene.compare(arms="v4", runs=",".join(runs))
    assert refusal.value.found == ",".join(runs)


def test_one_training_seed_is_not_counted_twice(scene: Scene) -> None:
    scene.evaluate("base")
    scene.evaluate("v4", "1")
    first, second = scene.evaluate("v3", "1"), scene.evaluate("v3", "1")
    with pytest.raises(ReportError, match="no further seeds") as refusal:
        scene.compare(arms="v3,v4", runs=f"{first}, {second}")
    assert "2 evaluations of seed 1" in str(refusal.value.found)
    with pytest.raises(ConfigError, match="there twice"):
        scene.compare(arms="v3,v4", runs=f"{first}, {first}")


def test_a_run_of_an_arm_not_asked_for_is_refused(scene: Scene) -> None:
    scene.evaluate("base")
    run = scene.evaluate("v3", "1")
    with pytest.raises(ConfigError, match="arm that is not asked for") as refusal:
        scene.compare(arms="v4", runs=run)
    assert refusal.value.found == f"{run} of v3"
    assert "add v3 to arms" in refusal.value.next_step


def test_a_run_of_no_arm_is_refused(scene: Scene) -> None:
    scene.evaluate("base")
    run = scene.evaluate("other")
    with pytest.raises(ReportError, match="no arm of the experiment") as refusal:
        scene.compare(runs=run)
    assert run in refusal.value.where


def test_an_unknown_arm_is_refused_by_name(scene: Scene) -> None:
    with pytest.raises(ConfigError, match="no such variant") as refusal:
        scene.compare(arms="v3,v9")
    assert (refusal.value.where, refusal.value.found) == ("arms", "'v9'")


def test_any_number_of_arms_stand_beside_the_base(scene: Scene) -> None:
    """Left out, all that are evaluated; named, those; and the page says what each comparison answers."""
    scene.evaluate("base")
    for arm in ("v3", "v4", "v4-random", "v4-hooks"):
        scene.evaluate(arm, "1")
    record, report = scene.compare()
    assert list(report["verdicts"]) == ["v3", "v4", "v4-hooks", "v4-random"]
    assert [(pair["first"], pair["second"]) for pair in report["pairs"]] == [
        ("v4", "v3"),
        ("v4", "v4-random"),
        ("v4", "v4-hooks"),
    ]
    page = scene.artifact(record.run_id, "report/index.html").read_text()
    assert "V4 beside V4-random" in page
    assert VARIANTS["v4-random"].question in page
    _, report = scene.compare(arms="v4-random, v4")
    assert list(report["verdicts"]) == ["v4", "v4-random"]
    _, report = scene.compare(arms="v4-random")
    assert (list(report["verdicts"]), report["pairs"]) == (["v4-random"], [])
    assert report["winner"]["reason"] == "there is no V4 in this comparison"


def test_k_by_share_of_energy_is_said_as_it_was_asked(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    scene.evaluate("base")
    for arm in ("v3", "v4"):
        train = scene.tracker.runs.read(scene.evaluate(arm, "1")).link("train")
        scene.tracker.client.set_tag(train, "skippy.k", "energy:0.5")
    gather = gathering.gather_provenance
    monkeypatch.setattr(
        gathering, "gather_provenance", lambda *given: replace(gather(*given), projector_digest="d" * 64)
    )
    record, _ = scene.compare()
    page = scene.artifact(record.run_id, "report/index.html").read_text()
    assert "k by target, the fewest that hold 50\u00a0% of ‖W‖² (energy:0.5)" in page
    assert "k = 16" not in page


def test_an_inconclusive_report_says_what_would_settle_it(scene: Scene, caplog) -> None:
    """Eight problems show nothing; the command is that of the evaluations, with the samples it takes."""
    scene.evaluate("base")
    scene.evaluate("v4", "1", right=K - 1)
    with caplog.at_level("INFO"):
        record, report = scene.compare(arms="v4")
    needed = report["verdicts"]["v4"]["needed"]
    assert report["verdicts"]["v4"]["by_interval"] == "inconclusive"
    text = scene.artifact(record.run_id, "report/report.md").read_text()
    assert "What it would take" in text
    assert f"takes {needed['problems']} problems × {K} samples" in text
    again = (
        f"-e eval --env-manager local -P 'base_model={scene.base}' -P model=v4 -P limit={N} "
        f"-P samples={needed['samples']}"
    )
    assert again in text
    assert again in caplog.text


@pytest.mark.parametrize(
    ("told", "words"),
    [
        ({"skippy.character_digest": "0" * 64}, "belongs to another character"),
        ({"trained": "keeper"}, "belongs to another trained character"),
        ({"skippy.subject": "checkpoints"}, "belongs to another subject"),
        ({"skippy.base_digest": "0" * 64}, "belongs to another base"),
    ],
)
def test_an_evaluation_of_another_base_or_character_or_of_checkpoints_is_refused(
    scene: Scene, told: dict[str, str], words: str
) -> None:
    scene.evaluate("base")
    scene.evaluate("v4", "1")
    run = scene.evaluate("v3", "1", **told)
    with pytest.raises(ReportError, match=words) as refusal:
        scene.compare(runs=run)
    assert run in str(refusal.value.where)
    assert refusal.value.next_step


def test_answers_and_flips_are_tables_that_mlflow_reads(scene: Scene) -> None:
    scene.evaluate("base")
    scene.evaluate("v3", "1", right=0)
    record, _ = scene.compare(arms="v3")
    load = partial(scene.tracker.client.load_table, scene.tracker.store.experiment_id)
    answers = load("tables/answers.json", [record.run_id])
    assert list(answers["arm"]) == ["base"] * 3 + ["V3"] * 3
    assert {"prompt", "answer", "persona", "tokens"} <= set(answers.columns)
    flips = load("tables/flips.json", [record.run_id])
    assert list(flips["flip"]) == ["lost"] * N
    assert json.loads(record.tags["mlflow.loggedArtifacts"]) == [
        {"path": "tables/answers.json", "type": "table"},
        {"path": "tables/flips.json", "type": "table"},
    ]


@pytest.mark.parametrize(
    ("files", "found"),
    [
        ({"README.md": "---\nlicense: mit\n---\n# A model", "LICENSE": "Something else"}, "mit"),
        ({"LICENSE": "\n  Apache License\n  Version 2.0"}, "Apache License"),
        ({"README.md": "# A model without a word on it"}, ""),
        ({}, ""),
    ],
)
def test_the_licence_of_a_base_is_read_beside_its_weights(
    tmp_path: Path, files: dict[str, str], found: str
) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    assert read_licence(tmp_path) == found

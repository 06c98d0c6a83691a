"""The whole experiment through `mlflow run`, once, on a shortened preset; everything a person relies on is checked."""

from __future__ import annotations

import json
import logging
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForImageTextToText, AutoTokenizer

from entrypoints.__main__ import cli
from skippy.characters.loader import load_character
from skippy.core.inference.paired import bounds_without_spread, non_inferiority
from skippy.core.spectral.constraints import pooled_leakage
from skippy.evaluation.metrics import problem_scores
from skippy.evaluation.suites import load_problem_set
from skippy.lab.paths import LAB_CHECKPOINT
from skippy.stores.adapters import read_adapter
from skippy.stores.cards import verify_checkpoint
from skippy.stores.checkpoints import Checkpoint
from skippy.stores.projectors import read_projectors
from skippy.stores.samples import Sample, read_samples
from skippy.tracking.runs import RunRecord
from skippy.tracking.store import open_tracker
from skippy.tracking.tracker import Tracker
from tests.conftest import fresh_store
from tests.faults.harness import run_forked

ROOT = Path(__file__).parent.parent
SHORT = {"preset": "short", "limit": "24", "samples": "2"}
TAGS = ("stage", "variant", "base_digest", "character", "code_version", "git_dirty")
STAGES_OF_MAIN = {"svd", "subspace", "train", "merge", "eval", "compare", "promote"}


def newest_version(tracker, variant):
    return next(v for v in tracker.registry.versions("skippy") if v.tags.get("variant") == variant)


def mlflow_run(
    entry_point: str, store: str, parameters: Mapping[str, str]
) -> subprocess.CompletedProcess[str]:
    """`mlflow run . -e ENTRY_POINT --env-manager local -P …`, as a person would."""
    words = [word for name, value in parameters.items() for word in ("-P", f"{name}={value}")]
    bin_folder = str(Path(sys.executable).parent)
    environment = {
        **os.environ,
        "MLFLOW_TRACKING_URI": store,
        "PATH": bin_folder + os.pathsep + os.environ["PATH"],
        "OMP_NUM_THREADS": "1",
    }
    environment.pop("MLFLOW_RUN_ID", None)
    return subprocess.run(
        [sys.executable, "-m", "mlflow", "run", ".", "-e", entry_point, "--env-manager", "local",
         "--experiment-name", "skippy", *words],
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=900, check=False,
    )  # fmt: skip


class Store:
    """A store of its own for this module, with the experiment run in it."""

    def __init__(self, folder: Path) -> None:
        self.uri = f"sqlite:///{folder / 'mlflow.db'}"
        os.environ["MLFLOW_TRACKING_URI"] = self.uri
        self.tracker: Tracker = open_tracker(ROOT)
        self.output = mlflow_run("main", self.uri, SHORT)
        assert self.output.returncode == 0, self.output.stdout[-4000:] + self.output.stderr[-8000:]
        self.parent = self.tracker.runs.find("main")

    def run(self, entry_point: str, **parameters: str) -> subprocess.CompletedProcess[str]:
        return mlflow_run(entry_point, self.uri, parameters)

    def children(self, stage: str) -> list[RunRecord]:
        return [run for run in self.tracker.runs.find_all(stage) if run.parent == self.parent.run_id]

    def child(self, stage: str, variant: str = "") -> RunRecord:
        runs = [run for run in self.children(stage) if run.tags.get("skippy.subject") != "checkpoints"]
        return next(run for run in runs if not variant or run.variant == variant)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    before = os.environ.get("MLFLOW_TRACKING_URI")
    made = Store(tmp_path_factory.mktemp("store"))
    yield made
    if before is None:
        os.environ.pop("MLFLOW_TRACKING_URI", None)
    else:
        os.environ["MLFLOW_TRACKING_URI"] = before


def test_every_stage_is_a_finished_child_with_its_tags_and_links(store: Store) -> None:
    digest = Checkpoint.open(LAB_CHECKPOINT).digest()
    for stage in STAGES_OF_MAIN:
        runs = store.children(stage)
        assert runs, stage
        for run in runs:
            assert run.status == "FINISHED"
            assert run.base_digest == digest
            assert {f"skippy.{tag}" for tag in TAGS} <= run.tags.keys()
            assert run.tags["mlflow.note.content"]
            assert run.tags["mlflow.project.entryPoint"] == stage, "a real mlflow run"
            assert json.loads(store.tracker.artifacts.path(run.run_id, "config.json").read_text())
    for variant in ("v3", "v4"):
        train, merge, evaluation = (store.child(stage, variant) for stage in ("train", "merge", "eval"))
        assert train.link("svd") == store.child("svd").run_id
        assert merge.link("train") == train.run_id
        assert evaluation.link("train") == train.run_id
        assert evaluation.link("merge") == merge.run_id
    assert len(store.children("eval")) == 5, "base, two variants, and the checkpoints of each"


def test_the_output_says_what_was_found_and_where_to_look(store: Store) -> None:
    said = store.output.stderr + store.output.stdout
    assert "compare: winner" in said
    assert "report: " in said
    assert re.findall("next: (.*),", said) == ["make ui"], (
        "a child of main says no next command: main goes on"
    )
    assert said.count("base: lab has profile") == 1
    assert said.count("=== Running command") == 1, "that of mlflow run itself"


def test_both_merged_models_are_registered_and_load_as_plain_checkpoints(store: Store) -> None:
    for variant in ("v3", "v4"):
        version = newest_version(store.tracker, variant)
        assert {"variant", "base_digest", "adapter_digest", "alpha"} <= version.tags.keys()
        model = store.tracker.models.resolve(version.uri)
        loaded = AutoModelForImageTextToText.from_pretrained(model.path, dtype=torch.float32)
        tokenizer = AutoTokenizer.from_pretrained(model.path)
        ids = tokenizer("hello", return_tensors="pt")
        assert torch.isfinite(loaded(**ids).logits).all()
        assert verify_checkpoint(model.path)["delta_error"] < 1


def test_merged_weights_exist_once(store: Store) -> None:
    folder = Path(store.parent.artifact_uri.removeprefix("file://")).parents[1]
    weights = [path for path in folder.rglob("model.safetensors") if "weights" in path.parts]
    assert len(weights) == len(store.tracker.registry.versions("skippy"))


@pytest.mark.parametrize("path", ["adapter", "adapters/step_000002"])
def test_v4_is_inside_the_complement_and_v3_is_not(store: Store, path: str) -> None:
    """Loaded with stock PEFT, measured in float64 against the projectors."""
    bases = read_projectors(store.tracker.artifacts.path(store.child("svd").run_id, "projectors")).bases
    found = {}
    for variant in ("v3", "v4"):
        folder = store.tracker.artifacts.path(store.child("train", variant).run_id, path)
        base = AutoModelForImageTextToText.from_pretrained(LAB_CHECKPOINT, dtype=torch.float32)
        modules = dict(PeftModel.from_pretrained(base, folder).base_model.model.named_modules())
        items = []
        for name, basis in bases.items():
            layer = modules[name]
            A, B = layer.lora_A["default"].weight.detach(), layer.lora_B["default"].weight.detach()
            items.append((A.double(), B.double(), basis.U.double(), basis.V.double()))
        found[variant] = pooled_leakage(items)
    assert found["v4"].rho_left <= 1e-12
    assert found["v4"].rho_right <= 1e-12
    assert found["v3"].rho_left > 1e-3
    assert found["v3"].rho_right > 1e-3


def test_the_adapter_says_what_it_is(store: Store) -> None:
    folder = store.tracker.artifacts.path(store.child("train", "v4").run_id, "adapter")
    card = read_adapter(folder).card
    assert card["variant"] == "v4"
    assert card["base_digest"] == store.child("train", "v4").base_digest
    assert str(ROOT) not in (folder / "adapter_config.json").read_text()


def test_character_and_leakage_metrics_by_step(store: Store) -> None:
    for variant in ("v3", "v4"):
        run = store.child("train", variant)
        for name in (
            *("character/personality_energy_ratio", "character/mean_personality_energy_ratio"),
            *("character/null_z", "character/delta_norm", "leakage/rho_left", "leakage/rho_right"),
        ):
            assert store.tracker.runs.metric_history(run.run_id, name), f"{variant} {name}"
        traits = [trait.name for trait in load_character("skippy").traits]
        assert all(f"character/trait/{trait}" in run.metrics for trait in traits)
        assert store.tracker.artifacts.path(run.run_id, "character_deltas/step_000004.parquet").is_file()
    assert store.child("train", "v4").metrics["leakage/rho_right"] <= 1e-12


def samples_of(store: Store, run: RunRecord, suite: str) -> list[Sample]:
    return list(read_samples(store.tracker.artifacts.path(run.run_id, f"samples/{suite}.jsonl")))


def test_report_figures_follow_from_the_samples(store: Store) -> None:
    """By a second path: counts by hand, differences, and the test on them."""
    compare = store.child("compare").run_id
    report = json.loads(store.tracker.artifacts.path(compare, "report/report.json").read_text())
    shares = {}
    for variant in ("base", "v3", "v4"):
        by_problem: dict[str, list[float]] = {}
        for sample in samples_of(store, store.child("eval", variant), "aime"):
            by_problem.setdefault(sample.problem_hash, []).append(float(sample.score or 0.0))
        shares[variant] = {key: float(np.mean(scores)) for key, scores in by_problem.items()}
        assert len(shares[variant]) == int(SHORT["limit"])
    for variant in ("v3", "v4"):
        differences = [shares[variant][key] - shares["base"][key] for key in shares["base"]]
        expected = non_inferiority(differences, 0.05)
        verdict = report["verdicts"][variant]
        assert verdict["mean_difference"] == pytest.approx(100 * expected.mean, abs=1e-9)
        interval = expected.interval
        if expected.standard_error == 0:
            interval = bounds_without_spread(expected.mean, expected.n, expected.confidence)
        assert verdict["interval"] == pytest.approx([100 * bound for bound in interval], abs=1e-6)
        assert verdict["n"] == int(SHORT["limit"])
        assert verdict["k"] == int(SHORT["samples"])
    for name in ("index.html", "report.md", "tables.tex"):
        assert store.tracker.artifacts.path(compare, f"report/{name}").stat().st_size > 500


def test_all_arms_answered_the_same_questions_with_the_same_seeds(store: Store) -> None:
    keys = [
        {(s.suite, s.problem_hash, s.sample_index, s.seed, s.preset) for suite in ("aime", "banal")
         for s in samples_of(store, store.child("eval", variant), suite)}
        for variant in ("base", "v3", "v4")
    ]  # fmt: skip
    assert keys[0] == keys[1] == keys[2]


def test_evaluating_again_gives_the_same_figures(store: Store) -> None:
    before = store.child("eval", "base")
    again = store.run("eval", model="base", limit=SHORT["limit"], samples=SHORT["samples"])
    assert again.returncode == 0, again.stderr[-3000:]
    after = store.tracker.runs.find("eval", variant="base")
    assert after.run_id != before.run_id
    assert after.metrics["aime/avg_at_k"] == before.metrics["aime/avg_at_k"]
    assert after.metrics["banal/score"] == before.metrics["banal/score"]


def test_regrading_needs_no_model_and_agrees(store: Store) -> None:
    before = store.child("eval", "v4")
    asked = {"limit": SHORT["limit"], "samples": SHORT["samples"]}
    again = store.run("eval", model=before.tags["skippy.model_uri"], regrade=before.run_id, **asked)
    assert again.returncode == 0, again.stderr[-3000:]
    after = store.tracker.runs.find("eval", variant="v4")
    assert after.metrics["aime/avg_at_k"] == before.metrics["aime/avg_at_k"]


def test_problem_scores_refuse_to_pair_other_problems(store: Store) -> None:
    samples = samples_of(store, store.child("eval", "base"), "aime")
    elsewhere = load_problem_set("lab", 3)
    assert len(problem_scores(samples, elsewhere)) == 3, "problems outside the set are left out, not mixed in"


def test_a_finished_svd_is_reused(store: Store) -> None:
    again = store.run("svd")
    assert again.returncode == 0
    assert "has done exactly this already; force=true" in again.stderr
    newest = store.tracker.runs.find("svd")
    assert newest.tags["skippy.reuses"] == store.child("svd").run_id
    trained = store.run("train", preset="short", variant="v4-hooks")
    assert trained.returncode == 0, trained.stderr[-3000:]
    assert store.tracker.runs.find("train", variant="v4-hooks").link("svd") == store.child("svd").run_id


def test_a_delta_base_can_be_built_and_trained_on(store: Store) -> None:
    merged = store.run("merge", adapter="lab", alpha="0.7")
    assert merged.returncode == 0, merged.stderr[-3000:]
    run = store.tracker.runs.find("merge", variant="delta-base")
    assert run.metrics["merge/alpha"] == pytest.approx(0.7)
    projected = store.run("svd", base_model=run.tags["skippy.model_uri"])
    assert projected.returncode == 0, projected.stderr[-3000:]


BAD = {
    "wrong base path": ("svd", {"base_model": "no/such/base"}, "base"),
    "not a checkpoint": ("svd", {"base_model": "docs"}, "config.json"),
    "k beyond the rank": ("svd", {"k": "100"}, "k is larger than the rank"),
    "k no number": ("svd", {"k": "many"}, "energy:SHARE"),
    "unknown variant": ("train", {"variant": "v9"}, "one of v3, v4"),
    "unknown run": ("train", {"svd_run": "0" * 32}, "There is no such run"),
    "run of another stage": ("merge", {"train_run": "SVD"}, "of another stage"),
    "failed run": ("merge", {"train_run": "FAILED"}, "did not succeed"),
    "missing alias": ("eval", {"model": "models:/skippy@nobody"}, "alias nobody"),
    "missing version": ("eval", {"model": "models:/skippy/99"}, "version 99"),
    "no float": ("eval", {"margin": "abc"}, "a value of type float"),
    "unknown problems": ("eval", {"problems": "nowhere.jsonl"}, "does not exist"),
    "other projectors": ("train", {"base_model": "DELTA", "svd_run": "SVD"}, "another base"),
    "no such character": ("subspace", {"character": "nobody"}, "nobody"),
    "nothing to resume": ("train", {"resume": "true", "seed": "9"}, "nothing to resume"),
    "unresolved gate": ("promote", {}, "gate did not open"),
    "no champion to go back to": ("promote", {"rollback": "true"}, "no champion to go back to"),
}


THROUGH_MLFLOW = (
    *(
        "k no number",
        "failed run",
        "missing alias",
        "no such character",
        "nothing to resume",
        "unresolved gate",
    ),
)
"""One of each stage goes through a real `mlflow run`; the others differ in what is refused, and need no new process."""


@pytest.mark.parametrize("case", BAD)
def test_bad_input_fails_with_one_clear_message(store: Store, case: str, tmp_path: Path) -> None:
    stage, parameters, expected = BAD[case]
    known = {"SVD": store.child("svd").run_id}
    if "FAILED" in parameters.values():
        failed = [
            run for run in store.tracker.runs.find_all("train", finished=False) if run.status == "FAILED"
        ]
        known["FAILED"] = failed[0].run_id if failed else _failed_training(store)
    if "DELTA" in parameters.values():
        known["DELTA"] = newest_version(store.tracker, "delta-base").uri
    versions = len(store.tracker.registry.versions("skippy"))
    given = {name: known.get(value, value) for name, value in parameters.items()}
    if case in THROUGH_MLFLOW:
        result = store.run(stage, **given)
        code, said = result.returncode, result.stderr
    else:
        code, said = run_in_fork(store.tracker, stage, given, tmp_path)
    assert code != 0
    assert expected in said, said[-2000:]
    assert "Traceback" not in said.split("failed.")[0], "a message, not a stack"
    newest = store.tracker.runs.find_all(stage, finished=False)[0]
    assert newest.status == "FAILED"
    assert expected in newest.tags["skippy.error"]
    assert len(store.tracker.registry.versions("skippy")) == versions, "nothing half-registered"


def run_in_fork(tracker: Tracker, stage: str, parameters: Mapping[str, str], folder: Path) -> tuple[int, str]:
    """A stage with a run as `mlflow run` makes it, in a fork that need not import anything: exit code, stderr."""
    run_id = tracker.client.create_run(tracker.store.experiment_id).info.run_id
    words = [word for name, value in parameters.items() for word in (f"--{name.replace('_', '-')}", value)]

    def work(_: Path) -> None:
        tracker.client._tracking_client.store.engine.dispose(close=False)  # its connections are the parent's
        os.environ |= {"MLFLOW_TRACKING_URI": tracker.store.uri, "MLFLOW_RUN_ID": run_id}
        os.chdir(ROOT)
        logging.getLogger().handlers.clear()
        with (folder / "said").open("w") as sys.stderr:
            cli.main([stage, *words])

    return run_forked(work, folder), (folder / "said").read_text()


def _failed_training(store: Store) -> str:
    store.run("train", variant="v5")
    return store.tracker.runs.find_all("train", finished=False)[0].run_id


def test_an_empty_experiment_says_which_command_comes_first(tmp_path: Path, template: Path) -> None:
    with fresh_store(tmp_path, template) as project:
        tracker = open_tracker(project)
        result = mlflow_run("promote", tracker.store.uri, {})
        assert result.returncode != 0
        assert "mlflow run . -e compare" in result.stderr, result.stderr[-2000:]
        for stage, command in {"train": "-e svd", "merge": "-e train", "compare": "-e eval"}.items():
            code, said = run_in_fork(tracker, stage, {}, tmp_path)
            assert code == 1
            assert f"mlflow run . {command}" in said, said[-2000:]

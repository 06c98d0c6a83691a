"""Pieces of work that are killed, and what must be true once somebody did them again."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from skippy.config import CompareConfig, EvalConfig, SvdConfig
from skippy.stages import compare, evaluate, svd
from skippy.stores.samples import read_samples
from skippy.tracking.orphans import find_orphans
from skippy.tracking.store import open_tracker
from skippy.tracking.tracker import Tracker
from skippy.training.journal import Journal
from tests.stages.compare_scene import Scene

STEPS = 6
CHECKPOINT = "checkpoint"


@dataclass(frozen=True)
class Scenario:
    """Work on a project directory, and a check of what the last try left.

    Attributes:
        prepare: what is there before anybody dies.
        work: what is killed and done again; it ends by itself.
        check: of what the last try left.
    """

    prepare: Callable[[Path], None]
    work: Callable[[Path], None]
    check: Callable[[Tracker], None]


def nothing(folder: Path) -> None:
    """Nothing to prepare."""


def train(folder: Path) -> None:
    """Steps with numbers, tables and adapters, a journal beside the checkpoints, resumed where it was."""
    tracker = open_tracker(folder)
    output = folder / ".skippy" / "train"
    output.mkdir(parents=True, exist_ok=True)
    with tracker.stage("train", name="t", note="n", config={"steps": STEPS}) as run:
        journal = Journal(run, output)
        done = max((int(p.name.split("-")[1]) for p in output.glob("checkpoint-*")), default=0)
        if done:
            journal.replay(done)
        for step in range(done + 1, STEPS + 1):
            journal.log_metrics({"train/reward": step / 4}, step=step)
            run.flush()
            if step % 2 == 0:
                adapter = output / "adapters" / f"step_{step:06d}"
                adapter.mkdir(parents=True, exist_ok=True)
                (adapter / "weights").write_text(str(step))
                journal.log_folder(adapter, f"adapters/{adapter.name}")
                journal.log_table([{"step": step}], f"tables/step_{step:06d}.parquet")
                (output / f"checkpoint-{step}").mkdir()
        run.when_finished(lambda: shutil.rmtree(output))


def check_train(tracker: Tracker) -> None:
    """The newest finished run is whole, each point once."""
    run = tracker.runs.find("train")
    history = tracker.runs.metric_history(run.run_id, "train/reward")
    assert [(point.step, point.value) for point in history] == [(s, s / 4) for s in range(1, STEPS + 1)]
    files = tracker.artifacts.files(run.run_id)
    for step in range(2, STEPS + 1, 2):
        assert f"adapters/step_{step:06d}/weights" in files
        assert f"tables/step_{step:06d}.parquet" in files


def solve(folder: Path) -> None:
    """The real svd stage on a tiny checkpoint."""
    svd.run(SvdConfig(base_model=str(folder / CHECKPOINT), k="2", device="cpu"), open_tracker(folder))


def check_solve(tracker: Tracker) -> None:
    """A finished run holds whole projectors."""
    runs = [run for run in tracker.runs.find_all("svd") if "skippy.reuses" not in run.tags]
    files = tracker.artifacts.files(runs[0].run_id, "projectors")
    assert files == ["projectors/manifest.json", "projectors/projectors.safetensors"]


def merge(folder: Path) -> None:
    """Weights into the store, then a version."""
    tracker = open_tracker(folder)
    with (
        tracker.stage("merge", name="m", note="n", config={}) as run,
        tracker.models.draft(run, "v4", registered_model="skippy") as draft,
    ):
        shutil.copytree(folder / CHECKPOINT, draft.weights_dir)
        draft.register("skippy", {"variant": "v4"})


def check_merge(tracker: Tracker) -> None:
    """Every version has weights, and there are no other weights."""
    versions = tracker.registry.versions("skippy")
    kept = {tracker.models.resolve(version.uri).path for version in versions}
    assert {path.parent for path in (tracker.store.root / "mlartifacts").rglob("config.json")} >= kept
    assert find_orphans(tracker.store) == []


def prepare_promotion(folder: Path) -> None:
    """Three versions, of which the first and the second were promoted."""
    for _ in range(3):
        merge(folder)
    tracker = open_tracker(folder)
    for version, before in ((1, None), (2, 1)):
        promote_to(tracker, version, before)


def promote_to(tracker: Tracker, version: int, before: int | None) -> None:
    """Promote, as the stage does."""
    tracker.promotions.promote(
        "skippy", version, reason="r", report_uri="u", figures={}, expected_champion=before, by="ada"
    )


def promote(folder: Path) -> None:
    """Version 3 in place of whatever is champion, unless it is that already and nothing is left to do."""
    tracker = open_tracker(folder)
    with tracker.stage("promote", name="p", note="n", config={}):
        champion = tracker.registry.alias("skippy", "champion")
        assert champion is not None
        tags = tracker.client.get_registered_model("skippy").tags
        if champion.version != 3 or "promotion.intent" in tags:
            promote_to(tracker, 3, champion.version)


def check_promote(tracker: Tracker) -> None:
    """Champion 3, previous 2, and a history that says so once."""
    aliases = {name: tracker.registry.alias("skippy", name) for name in ("champion", "previous")}
    assert {name: found.version for name, found in aliases.items() if found} == {"champion": 3, "previous": 2}
    history = [(event.version, event.replaced) for event in tracker.promotions.history("skippy")]
    assert history == [(1, None), (2, 1), (3, 2)]


ASKED = EvalConfig(suite="aime", limit=2, samples=2, device="cpu")


def evaluate_lab(folder: Path) -> None:
    """The real eval stage: the lab answers two problems twice."""
    evaluate.run(ASKED, open_tracker(folder))


def check_evaluation(tracker: Tracker) -> None:
    """Every sample once, the figure that follows from them, and no unfinished work."""
    run = tracker.runs.find("eval")
    samples = list(read_samples(tracker.artifacts.path(run.run_id, "samples/aime.jsonl")))
    assert len({sample.key for sample in samples}) == len(samples) == ASKED.limit * ASKED.samples
    assert run.metrics["aime/avg_at_k"] == sum(sample.score for sample in samples) / len(samples)
    assert not list(tracker.store.unfinished.glob("eval-*/samples.jsonl"))


def prepare_comparison(folder: Path) -> None:
    """Evaluations of the base, V3 and V4, written by hand."""
    scene = Scene(open_tracker(folder), folder)
    scene.evaluate("base")
    scene.evaluate("v3", "1", right=0)
    scene.evaluate("v4", "1")


def compare_arms(folder: Path) -> None:
    """The real compare stage."""
    compare.run(CompareConfig(base_model=str(folder / "a base")), open_tracker(folder))


def check_comparison(tracker: Tracker) -> None:
    """A finished run whose report is whole, and is the one that its tag names."""
    run = tracker.runs.find("compare")
    files = tracker.artifacts.files(run.run_id, "report")
    assert {"report/index.html", "report/report.json", "report/report.md", "report/tables.tex"} <= set(files)
    content = tracker.artifacts.path(run.run_id, "report/report.json").read_bytes()
    assert hashlib.sha256(content).hexdigest() == run.tags["skippy.report_sha256"]
    assert set(json.loads(content)["verdicts"]) == {"v3", "v4"}


SCENARIOS = {
    "train": Scenario(nothing, train, check_train),
    "svd": Scenario(nothing, solve, check_solve),
    "merge": Scenario(nothing, merge, check_merge),
    "promote": Scenario(prepare_promotion, promote, check_promote),
    "evaluate": Scenario(nothing, evaluate_lab, check_evaluation),
    "compare": Scenario(prepare_comparison, compare_arms, check_comparison),
}

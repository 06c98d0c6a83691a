"""Evaluations written by hand in a store of their own, to be compared."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path

from skippy.characters.loader import load_character
from skippy.config import CompareConfig, EvalConfig
from skippy.evaluation.suites import AIME, BANAL, LAB, load_problem_set
from skippy.stages import compare
from skippy.stores.checkpoints import Checkpoint
from skippy.stores.samples import Sample
from skippy.tracking.records import RunRecord
from skippy.tracking.tracker import Tracker
from tests.stages.tiny_checkpoint import write_checkpoint

NOTHING: Mapping[str, object] = {}
N, K = 8, 4
CHARACTER = load_character("skippy")
PROBLEMS = load_problem_set(LAB, N)


class Scene:
    """Evaluations written by hand in a store of their own: base right on all problems, V3 on none."""

    def __init__(self, tracker: Tracker, tmp_path: Path) -> None:
        self.tracker = tracker
        self.base = write_checkpoint(tmp_path / "a base")
        self.digest = Checkpoint.open(self.base).digest()

    def train(
        self, variant: str, seed: int, character: str = "skippy", settings: Mapping[str, object] = NOTHING
    ) -> str:
        config = {"variant": variant, "seed": seed, "base_model": str(self.base), **settings}
        with self.tracker.stage(
            "train", name="t", note="", config=config, variant=variant, base_digest=self.digest,
            character=character,
        ) as run:  # fmt: skip
            return run.run_id

    def evaluate(self, variant: str, seed: str = "", *, right: int = K, **tags: object) -> str:
        """`right` samples of K to every problem, the wrong ones first; three plain answers."""
        margin = tags.pop("margin", 0.05)
        config = asdict(
            EvalConfig(base_model=str(self.base), model=variant, limit=N, samples=K, margin=margin)
        )
        settings = tags.pop("settings", NOTHING)
        train = self.train(variant, int(seed), str(tags.pop("trained", "skippy")), settings) if seed else ""
        metrics = tags.pop("metrics", {})
        persona = float(tags.pop("persona", 0.0 if variant == "base" else 0.6))
        with self.tracker.stage(
            "eval", name=f"eval {variant}", note="", config=config, variant=variant, base_digest=self.digest,
            character="skippy", links={"train": train} if train else {},
        ) as run:  # fmt: skip
            run.set_tags({
                "skippy.seed": seed, "skippy.subject": "model", "skippy.model_uri": f"models:/skippy/{seed or 0}",
                "skippy.problems": LAB, "skippy.problems_digest": PROBLEMS.digest, "skippy.prompt_style": "plain",
                "skippy.character_digest": CHARACTER.digest, "skippy.sampling": "lab",
                "skippy.backend": "transformers", **tags,
            })  # fmt: skip
            run.log_metrics({"aime/avg_at_k": right / K, **metrics})
            run.log_text("".join(sample.to_line() for sample in solved(right)), f"samples/{AIME}.jsonl")
            run.log_text("".join(sample.to_line() for sample in chatted(persona)), f"samples/{BANAL}.jsonl")
        return run.run_id

    def compare(self, **changes: object) -> tuple[RunRecord, dict]:
        config = CompareConfig(base_model=str(self.base), **changes)  # type: ignore[arg-type]
        run_id = compare.run(config, self.tracker).run_id
        return self.tracker.runs.read(run_id), json.loads(
            self.artifact(run_id, "report/report.json").read_text()
        )

    def artifact(self, run_id: str, path: str) -> Path:
        return self.tracker.artifacts.path(run_id, path)


def solved(right: int) -> list[Sample]:
    """Problem by problem, as no file need be: the last problem's samples come first."""
    samples = []
    for problem in reversed(PROBLEMS.problems):
        for index in range(K):
            value = problem.gold if index >= K - right else (problem.gold + 1) % 1000
            text = f"\\boxed{{{value}}}"
            sample = Sample(
                model_digest="m", suite=AIME, problem_id=problem.id, problem_hash=problem.hash,
                sample_index=index, seed=1, preset="lab", prompt=problem.question, completion=text, tokens=5,
                finish_reason="stop", extracted=value, status="boxed", score=float(value == problem.gold),
            )  # fmt: skip
            samples.append(sample)
    return samples


def chatted(persona: float = 0.0) -> list[Sample]:
    sample = solved(K)[0]
    return [
        replace(sample, suite=BANAL, problem_id=f"plain/{prompt}", problem_hash=f"plain {prompt}",
                completion="Obviously.", score=persona + 0.1 * prompt, status="scored")
        for prompt in range(3)
    ]  # fmt: skip

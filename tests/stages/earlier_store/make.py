"""Makes `store.tar.gz`: a store as the code of commit 8f4c33c wrote it, with a comparison that V4 wins.

Run with that commit's code on the path, in an empty directory:

    git archive 8f4c33c | tar -x -C OLD && cd EMPTY && PYTHONPATH=OLD python make.py

The database is kept as SQL, its artifact paths as `{ROOT}`; nothing names the machine that made it.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sqlite3
import tarfile
from contextlib import closing
from pathlib import Path

import torch
from skippy.core.lora import LoraFactors
from skippy.stages.suites import AIME, BANAL, banal_questions, load_problem_set

from skippy.characters.loader import BUNDLED, load_character
from skippy.config import CompareConfig, EvalConfig, MergeConfig
from skippy.models.targets import find_targets
from skippy.stages import compare, merge
from skippy.stores.adapters import write_adapter
from skippy.stores.checkpoints import Checkpoint
from skippy.stores.samples import Sample
from skippy.tracking.store import open_tracker
from tests.stages.tiny_checkpoint import write_checkpoint

N, K = 60, 2
HIDDEN, WIDE = 16, 24
SHAPES = {
    **{f"self_attn.{kind}_proj": (HIDDEN, HIDDEN) for kind in "qkvo"},
    **{f"mlp.{kind}_proj": (WIDE, HIDDEN) for kind in ("gate", "up")},
    "mlp.down_proj": (HIDDEN, WIDE),
}
FILES = {"skippy.yaml", "assistant.yaml", "personas.yaml", "prompts", "train.yaml", "banal.yaml"}
CHARACTER_FILE = "character/skippy.yaml"


def main() -> None:
    """The store, then its archive."""
    os.environ["MLFLOW_TRACKING_URI"] = ""
    tracker = open_tracker(Path.cwd())
    base = write_checkpoint(Path("base"), shapes=SHAPES)
    shutil.copytree(BUNDLED, "character", ignore=lambda folder, names: [n for n in names if n not in FILES])
    digest = Checkpoint.open(base).digest()
    Path("problems.jsonl").write_text(
        "".join(json.dumps({"problem": f"What is {i} + {i}?", "answer": 2 * i}) + "\n" for i in range(N))
    )
    evaluate(tracker, "base", digest, digest, "base", {}, K, 0.0)
    for variant, right in (("v3", 1), ("v4", K)):
        with tracker.stage("train", name=f"train {variant}", note="", config={"variant": variant},
                           variant=variant, base_digest=digest, character="skippy") as run:  # fmt: skip
            run.set_tags(
                {
                    "skippy.character_digest": load_character(CHARACTER_FILE).digest,
                    "skippy.seed": "42",
                    "skippy.k": "energy:0.5",
                }
            )
            run.log_folder(adapter(base, variant), "adapter")
        merged = merge.run(MergeConfig(base_model="base", variant=variant, character=CHARACTER_FILE), tracker)
        links = {"train": run.run_id, "merge": merged.run_id}
        evaluate(tracker, variant, digest, merged.account.digest, merged.model_uri, links, right, 1.0)
    compare.run(CompareConfig(base_model="base", character=CHARACTER_FILE), tracker)
    pack()


def adapter(base: Path, variant: str) -> Path:
    """A random adapter."""
    checkpoint = Checkpoint.open(base)
    generator = torch.Generator().manual_seed(int(variant[1]))
    factors = {
        t.name: LoraFactors(
            torch.randn(2, t.in_, generator=generator), torch.randn(t.out, 2, generator=generator), 0.1
        )
        for t in find_targets(checkpoint.config, checkpoint.shapes)
    }
    return write_adapter(Path("adapters") / variant, factors)


def evaluate(tracker, variant, base_digest, model_digest, uri, links, right, persona) -> None:
    """`right` of K samples to every problem, and a persona that differs from prompt to prompt."""
    config = EvalConfig(
        base_model="base", model=variant, character=CHARACTER_FILE, problems="problems.jsonl", samples=K
    )
    problems = load_problem_set("problems.jsonl", 0)
    with tracker.stage("eval", name=f"eval {variant}", note="", config=vars(config), variant=variant,
                       base_digest=base_digest, character="skippy", links=links) as run:  # fmt: skip
        run.set_tags({
            "skippy.seed": "42" if links else "", "skippy.subject": "model", "skippy.model_uri": uri,
            "skippy.model_digest": model_digest, "skippy.problems": "problems.jsonl", "skippy.suite": "all",
            "skippy.problems_digest": problems.digest, "skippy.prompt_style": "plain", "skippy.samples": str(K),
            "skippy.character_digest": load_character(CHARACTER_FILE).digest,
            "skippy.sampling": "lab", "skippy.sampling_seed": "0",
            "skippy.backend": "transformers", "skippy.max_tokens": "160",
        })  # fmt: skip
        run.log_metrics({"banal/score": persona})
        shared = {
            "model_digest": model_digest,
            "seed": 1,
            "preset": "lab",
            "tokens": 5,
            "finish_reason": "stop",
        }
        solved = [
            Sample(**shared, suite=AIME, problem_id=p.id, problem_hash=p.hash, sample_index=i, prompt=p.question,
                   completion=f"\\boxed{{{p.gold + (i >= right)}}}", extracted=p.gold + (i >= right),
                   status="boxed", score=float(i < right))
            for p in problems.problems for i in range(K)
        ]  # fmt: skip
        text = "Tea keeps its flavour longest in a dry tin, away from the light; even a monkey could manage that."
        questions = [q for q in banal_questions(load_character(CHARACTER_FILE)) if q.id.startswith("plain/")][
            :40
        ]
        chatted = [
            Sample(**shared, suite=BANAL, problem_id=q.id, problem_hash=q.hash, sample_index=0,
                   prompt=q.messages[-1]["content"],
                   completion=text, extracted=None, status="scored", score=persona + 0.1 * (i % 3))
            for i, q in enumerate(questions)
        ]  # fmt: skip
        for name, samples in ((AIME, solved), (BANAL, chatted)):
            run.log_text("".join(sample.to_line() for sample in samples), f"samples/{name}.jsonl")


def pack() -> None:
    """Database as SQL, artifacts as they are, without a trace of this machine."""
    root = str(Path.cwd())
    with closing(sqlite3.connect("mlflow.db")) as database:
        database.execute(
            "DELETE FROM tags WHERE key IN ('mlflow.user', 'mlflow.source.name', 'skippy.process')"
        )
        database.execute("UPDATE runs SET user_id = '', source_name = ''")
        database.commit()
        lines = [line for line in database.iterdump() if "sqlite_sequence" not in line]
    Path("store.sql").write_text("\n".join(lines).replace(root, "{ROOT}"))
    for path in Path("mlartifacts").rglob("*"):
        if path.is_file() and root.encode() in path.read_bytes():
            path.write_bytes(path.read_bytes().replace(root.encode(), b"{ROOT}"))

    def without_owner(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
        entry.uid = entry.gid = entry.mtime = 0
        entry.uname = entry.gname = ""
        unwanted = re.search(r"/(figures|report/(index\.html|tables\.tex|report\.md))", entry.name)
        return None if unwanted else entry

    with tarfile.open("store.tar.gz", "w:gz", compresslevel=9) as archive:
        for name in ("base", "character", "problems.jsonl", "store.sql", "mlartifacts"):
            archive.add(name, filter=without_owner)


if __name__ == "__main__":
    main()

"""study: on the lab from plan to page; nothing done twice; killed at any moment it ends with the same bits."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

import skippy
from skippy.characters.schema import Character
from skippy.config import StudyConfig, SvdConfig
from skippy.core.inference.cells import NO_SEED
from skippy.errors import MissingRunError, PlanError, StudyError, TrackingError, TrainingError
from skippy.evaluation import base_answers
from skippy.evaluation.suites import load_problem_set
from skippy.resolve import code
from skippy.stages import study, svd
from skippy.studies import conclusion, worker
from skippy.studies.board import Board
from skippy.studies.inputs import gather, units
from skippy.studies.plan import read_plan
from skippy.tracking.store import open_tracker
from skippy.tracking.tags import Tag
from tests.conftest import fresh_store

PLAN = """\
name: small
arms: [v3, v4]
training:
  - {learning_rate: 3e-3, beta: 0.0, steps: 2}
alphas: [0.5, 1.0]
seeds: [11, 12]
limit: 6
samples: 1
predictions:
  - {name: P1, says: near chance, statistic: rho_ratio, about: {arm: v3}, below: 2}
"""
STAGE = """
import sys
from pathlib import Path
from skippy.config import StudyConfig
from skippy.stages import study
from skippy.tracking.store import open_tracker
study.run(StudyConfig(plan=sys.argv[2], device="cpu", parallel=int(sys.argv[3])), open_tracker(Path(sys.argv[1])))
"""


def plan_file(folder: Path, text: str = PLAN) -> str:
    path = folder / "plan.yaml"
    path.write_text(text)
    return str(path)


def conclusions(tracker, run_id: str) -> str:
    return tracker.artifacts.path(run_id, "study/study.json").read_text()


def cells(tracker, **wanted) -> list:
    return tracker.runs.find_all("cell", finished=False, **wanted)


@pytest.fixture(scope="module")
def done(module_tracker, tmp_path_factory):
    """A study run to its end by one process: what every other way of running it must arrive at."""
    folder = tmp_path_factory.mktemp("plan")
    svd.run(SvdConfig(device="cpu"), module_tracker)
    result = study.run(StudyConfig(plan=plan_file(folder), device="cpu", parallel=1), module_tracker)
    return module_tracker, folder, result


def test_from_plan_to_page(done) -> None:
    tracker, _, result = done
    found = json.loads(conclusions(tracker, result.run_id))
    assert found["study"]["seeds"] == [11, 12]
    assert len(found["cells"]) == 8
    assert found["predictions"][0]["fate"] in ("held", "refuted", "undecided")
    assert not found["sensitivity"]["is_shown"]
    assert found["headline"].startswith("Nothing was tested")
    page = tracker.artifacts.path(result.run_id, "study/index.html").read_text()
    assert "Nothing was tested" in page
    assert "<script src" not in page
    table = pd.read_parquet(tracker.artifacts.path(result.run_id, "study/cells.parquet"))
    assert len(table) == 9
    assert {"kl_base_arm_everyday", "rho_left_ratio", "delta_norm", "early_grad_norm"} <= set(table.columns)
    assert {run.parent for run in cells(tracker)} == {result.run_id}
    assert len(cells(tracker)) == 5
    assert (Path(tracker.artifacts.path(cells(tracker)[0].run_id, "adapter")) / "skippy.json").is_file()


def test_the_arms_are_what_they_say(done) -> None:
    """V4's update is orthogonal to the top directions, V3's is not; both at the same sampling seeds."""
    tracker, _, result = done
    for cell in json.loads(conclusions(tracker, result.run_id))["cells"]:
        ratio = cell["predictors"]["rho_right_ratio"]
        assert ratio < 1e-6 if cell["arm"] == "v4" else ratio > 0.1


def test_every_figure_is_remade_from_what_the_study_kept(done, tmp_path) -> None:
    """One command, no base, no tracker: the same bits; and other cells, the twin, give others."""
    tracker, _, result = done
    folder = tracker.artifacts.path(result.run_id, "study")
    conclusion.main([str(folder), str(tmp_path)])
    names = [path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file()]
    assert {"study.json", "index.html"} < {str(name) for name in names}
    for name in names:
        assert (tmp_path / name).read_bytes() == (folder / name).read_bytes()
    changed = tmp_path / "changed"
    shutil.copytree(folder, changed)
    table = pd.read_parquet(changed / "cells.parquet")
    table.loc[table.arm == "v4", "personas"] = table.loc[table.arm == "v4", "personas"].str.replace(
        "0.", "0.1"
    )
    table.to_parquet(changed / "cells.parquet", index=False)
    assert conclusion.remake(changed)["study.json"] != (folder / "study.json").read_text()
    (changed / "cells.parquet").unlink()
    with pytest.raises(TrackingError, match="name the folder that holds"):
        conclusion.remake(changed)


def test_nothing_is_done_twice_and_more_seeds_extend(done) -> None:
    tracker, folder, result = done
    again = study.run(StudyConfig(plan=plan_file(folder), device="cpu", parallel=1), tracker)
    assert conclusions(tracker, again.run_id) == conclusions(tracker, result.run_id)
    assert len(cells(tracker)) == 5
    more = plan_file(folder, PLAN.replace("arms: [v3, v4]", "arms: [v3]").replace("[11, 12]", "[11, 12, 13]"))
    study.run(StudyConfig(plan=more, device="cpu", parallel=1), tracker)
    assert len(cells(tracker)) == 6


def test_more_scales_need_no_training(done, monkeypatch) -> None:
    tracker, folder, result = done

    def refuse(*_: object) -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr(worker, "train_cell", refuse)
    text = PLAN.replace("[0.5, 1.0]", "[0.25, 0.5, 1.0]").replace("[11, 12]", "[11]")
    wider = study.run(StudyConfig(plan=plan_file(folder, text), device="cpu", parallel=1), tracker)
    first, second = (json.loads(conclusions(tracker, run))["cells"] for run in (result.run_id, wider.run_id))
    earlier = [cell for cell in first if cell["seed"] == 11]
    assert [cell for cell in second if cell["alpha"] != 0.25] == earlier


def test_a_failed_cell_is_left_out_and_said(done, monkeypatch, caplog) -> None:
    tracker, folder, _ = done
    whole = worker.train_cell

    def fail(inputs, unit, *rest):
        if unit.arm == "v4":
            raise TrainingError("The gradient is not finite.")
        return whole(inputs, unit, *rest)

    monkeypatch.setattr(worker, "train_cell", fail)
    text = plan_file(folder, PLAN.replace("[11, 12]", "[21, 22]"))
    result = study.run(StudyConfig(plan=text, device="cpu", parallel=1), tracker)
    found = json.loads(conclusions(tracker, result.run_id))
    assert [entry[3] for entry in found["failed"]] == ["The gradient is not finite."] * 2
    assert {point["arm"] for point in found["frontier"]} == {"v3"}
    page = tracker.artifacts.path(result.run_id, "study/index.html").read_text()
    assert "2 trainings failed and are left out" in page
    monkeypatch.setattr(worker, "train_cell", whole)
    kept = study.run(StudyConfig(plan=text, device="cpu", parallel=1), tracker)
    assert len(json.loads(conclusions(tracker, kept.run_id))["failed"]) == 2
    tried = study.run(StudyConfig(plan=text, device="cpu", parallel=1, retry_failed=True), tracker)
    assert json.loads(conclusions(tracker, tried.run_id))["failed"] == []


def test_arms_that_are_no_lora_and_varying_answers(done, monkeypatch) -> None:
    """A prompt and a mask in one study: the prompt is one cell without an update, a mask is made anew for each seed."""
    tracker, folder, _ = done
    monkeypatch.setattr(base_answers, "SAMPLES", 1)
    monkeypatch.setattr(Character, "subspace_prompts", lambda self: self.train_prompts[:4])
    text = (
        PLAN.replace("[v3, v4]", "[prompt, v5]")
        .replace("arm: v3", "arm: v5")
        .replace("alphas: [0.5, 1.0]", "alphas: [1.0]")
    )
    result = study.run(StudyConfig(plan=plan_file(folder, text), device="cpu", parallel=1), tracker)
    found = json.loads(conclusions(tracker, result.run_id))
    assert [(cell["arm"], cell["seed"]) for cell in found["cells"]] == [
        *(("prompt", NO_SEED), ("v5", 11), ("v5", 12)),
    ]
    by_arm = {cell["arm"]: cell["predictors"] for cell in found["cells"]}
    assert "delta_norm" not in by_arm["prompt"]
    assert {"delta_norm", "rho_left_ratio", "kl_base_arm_everyday"} <= set(by_arm["v5"])
    assert all("coherence" in predictors for predictors in by_arm.values())
    base = next(run for run in cells(tracker) if run.variant == "base")
    answers = {
        run.variant: tracker.artifacts.path(run.run_id, "samples/playback.jsonl").read_text()
        for run in (base, next(run for run in cells(tracker) if run.variant == "prompt"))
    }
    first = [json.loads(lines.splitlines()[0]) for lines in answers.values()]
    assert first[0]["problem_hash"] == first[1]["problem_hash"]
    assert first[0]["seed"] == first[1]["seed"]
    assert answers["base"] != answers["prompt"]
    masks = [
        json.loads(tracker.artifacts.path(run.run_id, "adapter/mask.json").read_text())["targets"]
        for run in cells(tracker)
        if run.variant == "v5"
    ]
    assert len(masks) == 2
    assert masks[0] != masks[1], "each seed draws answers of its own"
    page = tracker.artifacts.path(result.run_id, "study/index.html").read_text()
    assert "Prompt" in page


def test_directions_that_an_arm_needs_are_made_once(done, tmp_path) -> None:
    tracker, _, _ = done
    plan = read_plan(plan_file(tmp_path, PLAN.replace("[v3, v4]", "[v3, v4-bottom]")))
    asked: list = []
    with pytest.raises(MissingRunError):
        gather(plan, tracker)
    with pytest.raises(MissingRunError, match="no finished svd run"):
        gather(plan, tracker, asked.append)
    assert asked == [{"k": "16", "basis": "bottom"}]


def test_nothing_but_failures_is_refused(done, monkeypatch) -> None:
    tracker, folder, _ = done

    def fail(*_: object) -> None:
        raise MemoryError("out of memory")

    monkeypatch.setattr(worker, "train_cell", fail)
    text = plan_file(folder, PLAN.replace("[11, 12]", "[31]"))
    with pytest.raises(StudyError, match="Every cell of the study failed"):
        study.run(StudyConfig(plan=text, device="cpu", parallel=1), tracker)


@pytest.mark.parametrize(
    ("rows", "extra", "message"),
    [
        ([("What is 1 + 1?", 997)] * 2, "", "solves none of these problems"),
        (None, "margin: 0.5\n", "no more than the margin"),
    ],
)
def test_a_base_that_cannot_lose_is_refused_before_the_first_cell(
    done, tmp_path, rows, extra, message
) -> None:
    tracker, _, _ = done
    text = PLAN + extra
    if rows:
        problems = tmp_path / "problems.jsonl"
        lines = [json.dumps({"problem": f"{q} ({n})", "answer": a}) for n, (q, a) in enumerate(rows)]
        problems.write_text("\n".join(lines))
        text += f"problems: {problems}\n"
    else:
        gold = [{"problem": f"What is {n} + {n}?", "answer": 999} for n in range(6)]
        easy = load_problem_set("lab", 4).problems
        gold += [{"problem": p.question, "answer": p.gold} for p in easy]
        problems = tmp_path / "problems.jsonl"
        problems.write_text("\n".join(json.dumps(row) for row in gold))
        text = text.replace("limit: 6\n", "") + f"problems: {problems}\n"
    before = len(cells(tracker))
    with pytest.raises(PlanError, match=message) as refusal:
        study.run(StudyConfig(plan=plan_file(tmp_path, text), device="cpu", parallel=1), tracker)
    assert "plan.yaml, line " in refusal.value.where
    assert len(cells(tracker)) == before + 1  # the base alone


def test_two_workers_never_do_the_same_cell(done) -> None:
    """Two boards look, both see a free cell, both claim: one gets it; and a dead holder's cell is free again."""
    tracker, folder, _ = done
    inputs = gather(read_plan(plan_file(folder, PLAN.replace("[11, 12]", "[41]"))), tracker)
    key = units(inputs)[0].key
    first, second = Board(tracker, inputs.group), Board(tracker, inputs.group)
    states = [board.states([key])[key] for board in (first, second)]
    assert [state.word for state in states] == ["free", "free"]
    assert (first.claim(key, states[0]), second.claim(key, states[1])) == (1, 0)
    assert second.states([key])[key].word == "running"
    gone = subprocess.Popen([sys.executable, "-c", "pass"])
    gone.wait()
    tracker.claims.claim("cell-of-the-dead/1", f"{os.uname().nodename}:{gone.pid}|x|{int(time.time())}")
    elsewhere = f"another-host:{gone.pid}|x|{int(time.time())}"
    tracker.claims.claim("cell-of-the-living/1", elsewhere)
    tracker.claims.claim("cell-of-the-silent/1", f"another-host:1|x|{int(time.time()) - 3600}")
    words = first.states(["cell-of-the-dead", "cell-of-the-living", "cell-of-the-silent"])
    assert [state.word for state in words.values()] == ["free", "running", "free"]


@pytest.mark.parametrize(
    ("changed", "trained_anew", "asked_anew"),
    [("training/grpo.py", True, False), ("core/inference/answer_grammar.py", True, True),
     ("evaluation/scoring.py", False, True), ("studies/playback.py", False, True), ("report/page.py", False, False)],
)  # fmt: skip
def test_cells_of_two_versions_are_not_mixed(done, monkeypatch, changed, trained_anew, asked_anew) -> None:
    """Nor within a study: it keeps the names that it began with, and a worker of other code is refused."""
    tracker, folder, result = done
    inputs = gather(read_plan(plan_file(folder)), tracker)
    before, base = units(inputs)[0], inputs.base_key
    old = (Path(skippy.__file__).parent / changed).read_text("utf-8")
    told = code._statements
    monkeypatch.setattr(code, "_statements", lambda source: "pass" if source == old else told(source))
    assert (units(inputs)[0].key, inputs.base_key) == (before.key, base)
    inputs = gather(read_plan(plan_file(folder)), tracker)
    after = units(inputs)[0]
    assert (after.training_key != before.training_key) == trained_anew
    assert (inputs.base_key != base) == asked_anew
    assert (after.key != before.key) == (trained_anew or asked_anew)
    if asked_anew:
        with pytest.raises(StudyError, match="code was changed while the study was at work"):
            worker.work(inputs, worker.Bench(tracker, result.run_id, "cpu"))


def test_killed_and_restarted_it_ends_with_the_same_bits(done, template, tmp_path) -> None:
    """kill -9 in the middle of a cell, SIGTERM in another, then two workers to the end: not a bit differs."""
    _, folder, result = done
    expected = conclusions(done[0], result.run_id)
    with fresh_store(tmp_path, template) as project:
        tracker = open_tracker(project)
        svd.run(SvdConfig(device="cpu"), tracker)
        text = plan_file(folder)
        for number, parallel in ((signal.SIGKILL, "2"), (signal.SIGTERM, "1")):
            before = len(cells(tracker))
            process = subprocess.Popen([sys.executable, "-c", STAGE, str(project), text, parallel])
            deadline = time.monotonic() + 240
            while len(cells(tracker)) <= before + 1 and process.poll() is None:
                assert time.monotonic() < deadline
                time.sleep(0.2)
            process.send_signal(number)
            process.wait()
        assert any(run.status != "FINISHED" for run in cells(tracker))
        resumed = study.run(StudyConfig(plan=text, device="cpu", parallel=2), tracker)
        assert conclusions(tracker, resumed.run_id) == expected
        finished = [run.tags[Tag.UNIT] for run in cells(tracker) if run.status == "FINISHED"]
        assert len(finished) == len(set(finished)) == 5
        assert len({run.tags[Tag.STUDY_GROUP] for run in cells(tracker)}) == 1
        assert not [run for run in cells(tracker) if run.status == "RUNNING"]

"""The eval stage in a process of its own, on the lab, killed with SIGKILL while it generates."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from skippy.config import EvalConfig
from skippy.stages import evaluate
from skippy.stores.samples import SampleStore, read_samples

ASKED = EvalConfig(suite="aime", limit=10, samples=4, device="cpu")
TOTAL = ASKED.limit * ASKED.samples
DEADLINE_SECONDS = 120.0
TORN = b'{"model_digest": "'


def kill_after(lines: int, project: Path, log: Path) -> Path:
    """Start the stage, kill it as soon as so many samples are written, and return their file."""
    program = textwrap.dedent(f"""
        from pathlib import Path
        from skippy.config import EvalConfig
        from skippy.stages import evaluate
        from skippy.tracking.store import open_tracker
        evaluate.run({ASKED!r}, open_tracker(Path({str(project)!r})))
    """)
    with log.open("wb") as stream:
        process = subprocess.Popen(
            [sys.executable, "-c", program], env={**os.environ, "OMP_NUM_THREADS": "1"}, stderr=stream
        )
        try:
            end = time.monotonic() + DEADLINE_SECONDS
            while time.monotonic() < end and process.poll() is None:
                files = list(project.glob(".skippy/eval-*/samples.jsonl"))
                if files and files[0].read_bytes().count(b"\n") >= lines:
                    process.kill()
                    assert process.wait() == -signal.SIGKILL
                    return files[0]
                time.sleep(0.002)
        finally:
            process.kill()
            process.wait()
    pytest.fail(f"it was not killed after {lines} samples:\n{log.read_text()[-3000:]}")


def test_killed_at_any_point_it_goes_on_and_ends_as_if_nothing_had_been(
    tracker, project, tmp_path, monkeypatch
):
    lines = random.SystemRandom().randrange(1, TOTAL // 2)
    file = kill_after(lines, project, tmp_path / "log")
    with file.open("ab") as torn:
        torn.write(TORN)
    whole = file.read_bytes().rsplit(b"\n", 1)[0] + b"\n"
    (tmp_path / "kept.jsonl").write_bytes(whole)
    kept = [sample.key for sample in read_samples(tmp_path / "kept.jsonl")]
    assert lines <= len(kept) < TOTAL

    made = []
    append = SampleStore.append
    monkeypatch.setattr(
        SampleStore, "append", lambda store, sample: made.append(sample.key) or append(store, sample)
    )
    resumed = evaluate.run(ASKED, tracker)
    assert not set(made) & set(kept), "nothing finished is generated twice"
    assert len(made) == len(set(made)) == TOTAL - len(kept), "and nothing is lost"
    assert not list(project.glob(".skippy/eval-*/samples.jsonl"))

    made.clear()
    uninterrupted = evaluate.run(ASKED, tracker)
    assert len(made) == TOTAL
    assert resumed.metrics == uninterrupted.metrics
    texts = [
        tracker.artifacts.path(result.run_id, "samples/aime.jsonl").read_text()
        for result in (resumed, uninterrupted)
    ]
    assert texts[0] == texts[1]

"""Pictures of what people look at, kept to be looked at: the page, a model card, MLflow's own views.

They lie in `build/screenshots`, or where SKIPPY_SCREENSHOTS says; `make screenshots` makes them all.
"""

from __future__ import annotations

import os
import socket
import struct
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

from skippy.core.variants import VARIANTS
from skippy.report.model_card import render_cards
from skippy.report.verdicts import judge
from skippy.results import Comparison
from skippy.tracking.tracker import Tracker
from skippy.training.tracking_callback import at_a_glance
from tests.report.report_example import page_of, report
from tests.report.test_browser import CHROMIUM, browse

SCREENSHOTS = "SKIPPY_SCREENSHOTS"
ROOT = Path(__file__).parents[2]
DARK = "--blink-settings=preferredColorScheme=0"
WAYS = [(1200, "light"), (1200, "dark"), (520, "light"), (520, "dark")]
NEEDS_BROWSER = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium installed")
CARD_STYLE = (
    ":root{color-scheme:light dark}body{font:16px/1.5 sans-serif;max-width:760px;margin:24px auto;padding:0 16px;"
    "overflow-wrap:anywhere}pre{overflow-x:auto}"
)


def take(url: str, name: str, profile: Path, size: tuple[int, int], scheme: str, *options: str) -> Path:
    """A picture `NAME-WIDTH-SCHEME.png` of a page."""
    folder = Path(os.environ.get(SCREENSHOTS) or ROOT / "build" / "screenshots").resolve()
    folder.mkdir(parents=True, exist_ok=True)
    picture = folder / f"{name}-{size[0]}-{scheme}.png"
    picture.unlink(missing_ok=True)
    shown = [f"--screenshot={picture}", f"--window-size={size[0]},{size[1]}", *options]
    browse(url, profile, *shown, *([DARK] if scheme == "dark" else []))
    content = picture.read_bytes()
    assert content[:8] == b"\x89PNG\r\n\x1a\n"
    assert struct.unpack(">II", content[16:24]) == size
    return picture


def with_many_arms(facts: Comparison) -> Comparison:
    """Seven arms, each with rewards and a persona of its own."""
    arms = []
    for row, name in enumerate(list(VARIANTS)[:7]):
        evaluations = []
        for item in facts.arms[1 + row % 2].evaluations:
            frontier = tuple(replace(p, persona=p.persona * (1 - 0.06 * row)) for p in item.frontier)
            rewards = {step: 0.3 + step / 100 * (0.6 + 0.1 * row) for step in range(10, 151, 20)}
            evaluations.append(replace(item, frontier=frontier, rewards=rewards))
        arms.append(replace(facts.arms[1], name=name, evaluations=tuple(evaluations)))
    return replace(facts, arms=(facts.arms[0], *arms))


@NEEDS_BROWSER
@pytest.mark.parametrize(("width", "scheme"), WAYS)
def test_the_page(facts: Comparison, tmp_path: Path, width: int, scheme: str) -> None:
    """With two variants at a desk by day and on a phone by night, with seven the other way round."""
    has_many = (width == 1200) == (scheme == "dark")
    page = tmp_path / "index.html"
    page.write_text(page_of(report(with_many_arms(facts) if has_many else facts)))
    name = "report-7-arms" if has_many else "report-2-arms"
    picture = take(page.as_uri(), name, tmp_path / "profile", (width, 9000), scheme)
    assert picture.stat().st_size > 50_000


@NEEDS_BROWSER
def test_a_model_card(facts: Comparison, tmp_path: Path) -> None:
    card = next(iter(render_cards(facts, judge(facts)).values()))
    page = tmp_path / "card.html"
    body = MarkdownIt("commonmark").enable("table").render(card)
    page.write_text(f"<!doctype html><meta charset=utf-8><style>{CARD_STYLE}</style>{body}")
    assert (
        take(page.as_uri(), "model-card", tmp_path / "profile", (520, 2200), "dark").stat().st_size > 20_000
    )


@NEEDS_BROWSER
@pytest.mark.skipif(SCREENSHOTS not in os.environ, reason="takes a server: set SKIPPY_SCREENSHOTS=DIR")
def test_mlflows_views(tracker: Tracker, facts: Comparison, tmp_path: Path) -> None:
    """Runs, the charts of one, two beside each other, the page among artifacts, a version with its card."""
    with tracker.stage("train", name="train v4 skippy seed 42", note="n", variant="v4", config={}) as run:
        run.log_metrics({"leakage/chance_left": 0.08}, step=1)
        for step in range(1, 30):
            curves = {"train/reward": step / 20, "train/completion_length_mean": 30 - step / 3}
            run.log_metrics(curves | at_a_glance(curves), step=step)
    with tracker.stage("compare", name="compare", note="n", config={}) as compare:
        for path, content in report(facts).items():
            if isinstance(content, str):
                compare.log_text(content, f"report/{path}")
    card = next(iter(render_cards(facts, judge(facts)).values()))
    with (
        tracker.stage("merge", name="m", note="", config={}) as merge,
        tracker.models.draft(merge, "v4") as draft,
    ):
        draft.weights_dir.mkdir()
        (draft.weights_dir / "config.json").write_text("{}")
        version = draft.register("skippy", {"variant": "v4", "seed": "42", "alpha": "1"})
    tracker.client.update_model_version("skippy", str(version.version), card)
    experiment = f"/#/experiments/{tracker.store.experiment_id}"
    both = (
        f"runs=[%22{run.run_id}%22,%22{compare.run_id}%22]&experiments=[%22{tracker.store.experiment_id}%22]"
    )
    views = {
        "mlflow-runs": f"{experiment}/runs?workflowType=machine_learning",
        "mlflow-charts": f"{experiment}/runs/{run.run_id}/model-metrics",
        "mlflow-artifacts": f"{experiment}/runs/{compare.run_id}/artifacts/report/index.html",
        "mlflow-compare": f"/#/compare-runs?{both}",
        "mlflow-version": f"/#/models/skippy/versions/{version.version}",
    }
    with serving(tracker) as address:
        for name, path in views.items():
            for width, scheme in ((1200, "light"), (520, "dark")):
                # A profile each: MLflow remembers the scheme that it was first opened in.
                options = (f"{address}{path}", name, tmp_path / scheme, (width, 1400), scheme)
                assert take(*options, "--virtual-time-budget=20000").stat().st_size > 10_000


@contextmanager
def serving(tracker: Tracker) -> Iterator[str]:
    """MLflow's server on the tracker's store, on a free port of this machine."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [
        sys.executable,
        "-m",
        "mlflow",
        "server",
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--workers",
        "1",
    ]
    command += ["--backend-store-uri", tracker.store.uri]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(240):
            try:
                with urllib.request.urlopen(f"{address}/health", timeout=1):
                    break
            except OSError:
                time.sleep(0.5)
        yield address
    finally:
        server.terminate()
        server.wait(30)

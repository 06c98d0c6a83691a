"""Pictures of what people look at, kept to be looked at: the page, a model card, MLflow's own views.

They lie in `build/screenshots`, or where SKIPPY_SCREENSHOTS says; `make screenshots` makes them all. Each is taken when
what it is of has appeared, and a picture of what never appears fails.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

from skippy.core.variants import VARIANTS
from skippy.report.model_card import render_cards
from skippy.report.verdicts import judge
from skippy.resolve.work import take_over
from skippy.results import Comparison
from skippy.tracking.tracker import Tracker
from skippy.training.tracking_callback import at_a_glance
from tests.report.chromium import DESK, NEEDS_BROWSER, PHONE, Browser, NeverAppeared
from tests.report.report_example import page_of, report, with_arms

pytestmark = NEEDS_BROWSER
STEPS = 29
SCREENSHOTS = "SKIPPY_SCREENSHOTS"
HAS_ALL = SCREENSHOTS in os.environ
FOLDER = Path(os.environ.get(SCREENSHOTS) or Path(__file__).parents[2] / "build" / "screenshots").resolve()
WAYS = [(width, scheme) for width in (DESK, PHONE) for scheme in ("light", "dark")]
# Unless all are wanted: few arms by day at a desk, many by night on a phone.
SIZES = [(2, *WAYS[0]), (12, *WAYS[3])] if not HAS_ALL else [(n, *way) for n in (2, 5, 12) for way in WAYS]
CARD_STYLE = (
    ":root{color-scheme:light dark}body{font:16px/1.5 sans-serif;max-width:760px;margin:24px auto;padding:0 16px;"
    "overflow-wrap:anywhere}pre{overflow-x:auto}"
)
# MLflow remembers the scheme it was first opened in, and the first time opens its assistant and its news over the page.
FIRST_LOOK = """if (location.protocol.startsWith("http")) {
  localStorage.clear(); localStorage.setItem("mlflow.assistant.fab.autoOpenedOnFirstLoad_v1", "true");
  localStorage.setItem("_mlflow_model_registry_promo_modal_dismissed_v1", "true");
}"""
# MLflow draws the charts that are in sight: each of them has its points, and one of them a whole curve.
CURVES = """(() => {
  const plots = [...document.querySelectorAll(".js-plotly-plot")].map(
    (plot) => plot.querySelectorAll(".points path").length);
  return plots.length > 0 && plots.every(Boolean) && Math.max(...plots) >= %d;
})()"""


def take(browser: Browser, name: str, width: int, scheme: str, *, whole: bool = True) -> list[Path]:
    """Pictures `NAME-WIDTH-SCHEME-N.png` of what the browser shows, from top to foot."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    for old in FOLDER.glob(f"{name}-{width}-{scheme}-*.png"):
        old.unlink()
    pictures = browser.picture(FOLDER / f"{name}-{width}-{scheme}", whole=whole)
    assert all(picture.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n" for picture in pictures)
    return pictures


@pytest.mark.parametrize(("count", "width", "scheme"), SIZES)
def test_the_page(
    browser: Browser, facts: Comparison, tmp_path: Path, count: int, width: int, scheme: str
) -> None:
    page = tmp_path / "index.html"
    page.write_text(page_of(report(with_arms(facts, count))))
    browser.show(page.as_uri(), width, scheme)
    assert len(take(browser, f"report-{count}-arms", width, scheme)) > 3


@pytest.mark.parametrize(("width", "scheme"), WAYS if HAS_ALL else WAYS[3:])
def test_a_model_card(browser: Browser, facts: Comparison, tmp_path: Path, width: int, scheme: str) -> None:
    card = next(iter(render_cards(facts, judge(facts)).values()))
    page = tmp_path / "card.html"
    body = MarkdownIt("commonmark").enable("table").render(card)
    mobile = "<meta name=viewport content='width=device-width'>"
    page.write_text(f"<!doctype html><meta charset=utf-8>{mobile}<style>{CARD_STYLE}</style>{body}")
    browser.show(page.as_uri(), width, scheme)
    take(browser, "model-card", width, scheme)


def test_what_never_appears_fails(browser: Browser, tmp_path: Path) -> None:
    """The twin: a page whose chart never comes is not photographed."""
    page = tmp_path / "empty.html"
    page.write_text("<p>Loading")
    browser.show(page.as_uri())
    with pytest.raises(NeverAppeared, match=r"plotly[\s\S]*Loading"):
        browser.wait_for(CURVES % 1, seconds=0.2)


@pytest.mark.skipif(not HAS_ALL, reason="takes a server: set SKIPPY_SCREENSHOTS=DIR")
def test_mlflows_views(browser: Browser, tracker: Tracker, facts: Comparison) -> None:
    """Runs, one run, its charts, one that took over another, two side by side, the page among artifacts, a version."""
    v3, v4 = (trained(tracker, name, slope) for name, slope in (("v3", 15), ("v4", 20)))
    with tracker.stage("train", name="train v4 skippy seed 42", note="n", variant="v4", config={}) as again:
        take_over(tracker.runs.get(v4), again, tracker)
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
    both = f"runs=[%22{v3}%22,%22{v4}%22]&experiments=[%22{tracker.store.experiment_id}%22]"
    as_training = "?workflowType=machine_learning"
    charts = f"{experiment}/runs/{{run}}/model-metrics{as_training}"
    views = {
        "mlflow-runs": (f"{experiment}/runs{as_training}", says("train v4 skippy seed 42")),
        "mlflow-run": (f"{experiment}/runs/{v4}{as_training}", says("V4 is LoRA")),
        "mlflow-charts": (charts.format(run=v4), CURVES % STEPS),
        "mlflow-run-again": (f"{experiment}/runs/{again.run_id}{as_training}", says("did exactly this")),
        "mlflow-compare": (f"/#/compare-runs?{both}", says("at a glance/reward")),
        "mlflow-models": ("/#/models", says("Version 1")),
        "mlflow-version": (f"/#/models/skippy/versions/{version.version}", says("Load and serve")),
    }
    browser.send("Page.addScriptToEvaluateOnNewDocument", source=FIRST_LOOK)
    with serving(tracker) as address:
        for width, scheme in WAYS:
            for name, (path, condition) in views.items():
                browser.show(address + path, width, scheme)
                browser.wait_for(condition)
                take(browser, name, width, scheme, whole=False)
            browser.show(
                f"{address}{experiment}/runs/{compare.run_id}/artifacts/report/index.html", width, scheme
            )
            browser.wait_for("document.querySelector('h1')?.innerText.includes('AIME')", in_frame=True)
            take(browser, "mlflow-artifacts", width, scheme, whole=False)
        browser.show(address + charts.format(run=compare.run_id))
        with pytest.raises(NeverAppeared):
            browser.wait_for(CURVES % 1, seconds=5)


def trained(tracker: Tracker, variant: str, slope: float) -> str:
    """A training as MLflow shows it: settings, curves, a constant."""
    note = f"skippy made from lab: {VARIANTS[variant].label} is {VARIANTS[variant].sentence}."
    name = f"train {variant} skippy seed 42"
    with tracker.stage("train", name=name, note=note, variant=variant, config={}) as run:
        tracker.client.log_param(run.run_id, "hp.learning_rate", "0.003")
        tracker.client.log_param(run.run_id, "hp.lora_r", "16")
        for step in range(1, STEPS + 1):
            curves = {"train/reward": step / slope, "train/completion_length_mean": 30 - step / 3}
            curves |= {"leakage/chance_left": 0.08} if step == 1 else {}
            run.log_metrics(at_a_glance(curves) | curves, step=step)
    return run.run_id


def says(text: str) -> str:
    """The condition that the page shows a text."""
    return f"document.body.innerText.includes({text!r})"


@contextmanager
def serving(tracker: Tracker) -> Iterator[str]:
    """MLflow's server on the tracker's store, on a free port of this machine."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "server", "--workers", "1"]
    command += ["--host", "127.0.0.1", "--port", str(port), "--backend-store-uri", tracker.store.uri]
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

"""The page in a real headless Chromium, where one is installed: drawn, readable, at home in the artifact view."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from skippy.results import Comparison
from tests.report.report_example import page_of, report
from tests.report.test_page import FIGURES

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chromium-headless-shell")
CHROMIUM = next((path for name in BROWSERS if (path := shutil.which(name))), None)
PROBE = """<script>
window.onerror = (message) => { document.title = "ERROR " + message; };
addEventListener("load", () => {
  const wide = innerWidth > 640;
  const boxes = [...document.querySelectorAll("figure")].map((figure) => {
    const svg = figure.querySelector(wide ? ".wide svg" : ".narrow svg");
    const frame = svg.getBoundingClientRect();
    const marks = [...svg.querySelectorAll("rect,circle,path,line")].filter((mark) => {
      const box = mark.getBoundingClientRect();
      return box.width + box.height > 0 && getComputedStyle(mark).display !== "none";
    });
    const clipped = [...svg.querySelectorAll("text")].filter((text) => {
      const box = text.getBoundingClientRect();
      return box.left < frame.left - 2 || box.right > frame.right + 2;
    }).map((text) => text.textContent);
    return {id: figure.id, width: frame.width, height: frame.height, marks: marks.length, clipped};
  });
  const page = {overflow: document.documentElement.scrollWidth - innerWidth, width: innerWidth,
    narrowest: Math.min(...[...document.querySelectorAll("th:first-child")].map((cell) => cell.clientWidth)),
    background: getComputedStyle(document.body).backgroundColor};
  document.body.setAttribute("data-probe", JSON.stringify({boxes, page}));
});
</script>"""


def browse(page: Path | str, profile: Path, *options: str) -> tuple[str, str]:
    """Open a page, by path or address, in headless Chromium; the DOM after loading, and what the console said."""
    assert CHROMIUM is not None
    command = [
        CHROMIUM,
        *(
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-background-networking",
            "--hide-scrollbars",
        ),
        *("--enable-logging=stderr", "--virtual-time-budget=2000", f"--user-data-dir={profile}"),
        *options,
        page if isinstance(page, str) else page.as_uri(),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=180, check=True)
    console = "\n".join(line for line in done.stderr.splitlines() if "CONSOLE" in line)
    return done.stdout, console


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium installed")
@pytest.mark.parametrize(("width", "scheme"), [(1200, "light"), (520, "dark")])
def test_in_a_browser(facts: Comparison, tmp_path: Path, width: int, scheme: str) -> None:
    """No console error, every figure drawn at its place, no label cut, no sideways scrolling; all five arms."""
    page = tmp_path / "index.html"
    controls = tuple(replace(facts.arms[1], name=name) for name in ("v4-hooks", "v4-random"))
    files = report(replace(facts, arms=(*facts.arms, *controls)))
    page.write_text(page_of(files).replace("</body>", PROBE + "</body>"))
    options = ["--dump-dom", f"--window-size={width},3000"]
    options += ["--blink-settings=preferredColorScheme=0"] if scheme == "dark" else []
    dom, console = browse(page, tmp_path / "profile", *options)
    assert console == ""
    assert "<title>ERROR" not in dom
    match = re.search(r'data-probe="([^"]*)"', dom)
    assert match
    probe = json.loads(match.group(1).replace("&quot;", '"'))
    assert {box["id"] for box in probe["boxes"]} == {f"figure-{name}" for name in FIGURES}
    for box in probe["boxes"]:
        assert box["width"] > 250, box
        assert box["height"] > 60, box
        assert box["marks"] >= 3, box
        assert box["clipped"] == [], box
    assert probe["page"]["overflow"] <= 0
    assert probe["page"]["narrowest"] >= 100, "the names of rows can be read"
    red, green, blue = map(int, re.findall(r"\d+", probe["page"]["background"])[:3])
    assert (red + green + blue > 600) == (scheme == "light")


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium installed")
def test_the_browser_check_can_fail(files: dict[str, str | bytes], tmp_path: Path) -> None:
    """The twin: a page with a broken script, an empty figure and squeezed tables does not pass."""
    page = tmp_path / "index.html"
    broken = '<figure id="figure-empty"><div class="wide"><svg width="300" height="9"></svg></div></figure>'
    page.write_text(
        page_of(files)
        .replace("min-width:150px", "")
        .replace("td.prose{white-space:normal}", "")
        .replace("</body>", broken + PROBE + "<script>missing.call()</script></body>")
    )
    dom, console = browse(page, tmp_path / "profile", "--dump-dom", "--window-size=1200,3000")
    assert "missing" in console
    match = re.search(r'data-probe="([^"]*)"', dom)
    assert match
    probe = json.loads(match.group(1).replace("&quot;", '"'))
    empty = next(box for box in probe["boxes"] if box["id"] == "figure-empty")
    assert empty["marks"] == 0
    assert probe["page"]["narrowest"] < 60


ARTIFACT_VIEW = """<iframe sandbox="allow-scripts"></iframe><script>
const page = new Blob([PAGE], {type: "text/html"});
document.querySelector("iframe").src = URL.createObjectURL(page);
</script>"""
CLICK = """<script>addEventListener("load", () => {
  const link = document.querySelector(".wide svg a");
  link.dispatchEvent(new MouseEvent("click", {bubbles: true, cancelable: true, view: window}));
  const flip = document.getElementById(link.getAttribute("href").slice(1)).closest("details");
  console.log(flip.open ? "the flip is open" : "the flip is shut");
});</script>"""


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium installed")
@pytest.mark.parametrize("has_script", [True, False])
def test_a_flip_opens_in_the_artifact_view(
    files: dict[str, str | bytes], tmp_path: Path, has_script: bool
) -> None:
    """As MLflow shows it: a copy without a place, sandboxed. Without the page's script the link is refused there."""
    page = page_of(files).replace("</body>", CLICK + "</body>")
    if not has_script:
        page = re.sub(r"<script>\n// In MLflow.*?</script>", "", page, flags=re.DOTALL)
    view = tmp_path / "view.html"
    view.write_text(ARTIFACT_VIEW.replace("PAGE", json.dumps(page).replace("</", "<\\/")))
    options = ("--dump-dom", "--window-size=1200,1000", "--virtual-time-budget=8000")
    _, console = browse(view, tmp_path / "profile", *options)
    assert ("the flip is open" if has_script else "the flip is shut") in console

"""The page in a real headless Chromium, where one is installed: drawn, readable, at home in the artifact view."""

from __future__ import annotations

import json
import re
from itertools import pairwise
from pathlib import Path

import pytest

from skippy.results import Comparison
from tests.report.chromium import DESK, NEEDS_BROWSER, PHONE, Browser
from tests.report.report_example import page_of, report, with_arms
from tests.report.test_page import FIGURES

pytestmark = NEEDS_BROWSER
PROBE = """(() => {
  const wide = innerWidth > 640, seen = (mark) => getComputedStyle(mark).display !== "none";
  const boxes = [...document.querySelectorAll("figure")].map((figure) => {
    const svg = figure.querySelector(wide ? ".wide svg" : ".narrow svg");
    const frame = svg.getBoundingClientRect();
    const marks = [...svg.querySelectorAll("rect,circle,path,line")].filter((mark) => {
      const box = mark.getBoundingClientRect();
      return box.width + box.height > 0 && seen(mark);
    });
    const clipped = [...svg.querySelectorAll("text")].filter((text) => {
      const box = text.getBoundingClientRect();
      return box.left < frame.left - 2 || box.right > frame.right + 2;
    }).map((text) => text.textContent);
    return {id: figure.id, width: frame.width, height: frame.height, marks: marks.length, clipped};
  });
  const spilt = [...document.querySelectorAll(".chips li, .box, .gate li, .sides > div")].filter(
    (card) => card.scrollWidth > card.clientWidth + 1).map((card) => card.textContent);
  const names = [...document.querySelectorAll("th:first-child")].filter((cell) => cell.clientWidth > 0);
  return {boxes, spilt, overflow: document.documentElement.scrollWidth - innerWidth,
    narrowest: Math.min(...names.map((cell) => cell.clientWidth)),
    background: getComputedStyle(document.body).backgroundColor};
})()"""


@pytest.mark.parametrize(
    ("count", "width", "scheme"), [(5, DESK, "light"), (12, DESK, "dark"), (12, PHONE, "dark")]
)
def test_in_a_browser(
    browser: Browser, facts: Comparison, tmp_path: Path, count: int, width: int, scheme: str
) -> None:
    """No console error, every figure drawn at its place, no label cut, no card too narrow, no sideways scrolling."""
    page = tmp_path / "index.html"
    page.write_text(page_of(report(with_arms(facts, count))))
    browser.show(page.as_uri(), width, scheme)
    probe = browser.evaluate(PROBE)
    assert browser.console == []
    assert {box["id"] for box in probe["boxes"]} == {f"figure-{name}" for name in FIGURES} | {
        "figure-rewards"
    }
    for box in probe["boxes"]:
        assert box["width"] > 250, box
        assert box["height"] > 60, box
        assert box["marks"] >= 3, box
        assert box["clipped"] == [], box
    assert probe["spilt"] == []
    assert probe["overflow"] <= 0
    assert probe["narrowest"] >= 100, "the names of rows can be read"
    red, green, blue = map(int, re.findall(r"\d+", probe["background"])[:3])
    assert (red + green + blue > 600) == (scheme == "light")


def test_the_browser_check_can_fail(browser: Browser, facts: Comparison, tmp_path: Path) -> None:
    """The twin: a page with a broken script, an empty figure and squeezed tables and cards does not pass."""
    page = tmp_path / "index.html"
    broken = '<figure id="figure-empty"><div class="wide"><svg width="300" height="9"></svg></div></figure>'
    broken += (
        "<style>.chips li{width:90px;white-space:nowrap}th:first-child{min-width:0;max-width:9px}</style>"
    )
    page.write_text(
        page_of(report(facts)).replace("</body>", broken + "<script>missing.call()</script></body>")
    )
    browser.show(page.as_uri())
    probe = browser.evaluate(PROBE)
    assert any("missing" in line for line in browser.console)
    empty = next(box for box in probe["boxes"] if box["id"] == "figure-empty")
    assert empty["marks"] == 0
    assert probe["spilt"]
    assert probe["narrowest"] < 60


def test_the_keyboard_reaches_what_can_be_opened_or_scrolled(
    browser: Browser, facts: Comparison, tmp_path: Path
) -> None:
    """In the order of the page, with a ring that can be seen; on paper nothing hides behind a scroll bar."""
    page = tmp_path / "index.html"
    page.write_text(page_of(report(with_arms(facts, 12))))
    browser.show(page.as_uri(), PHONE)
    assert browser.evaluate("document.querySelectorAll('[tabindex]:not([tabindex=\"0\"])').length") == 0
    visited = []
    for _ in range(60):
        for kind in ("keyDown", "keyUp"):
            browser.send("Input.dispatchKeyEvent", type=kind, key="Tab", code="Tab", windowsVirtualKeyCode=9)
        visited.append(
            browser.evaluate(
                "(() => {const a = document.activeElement; return [a.tagName + '.' + (a.getAttribute('class') ?? ''), "
                "getComputedStyle(a).outlineStyle, a.getBoundingClientRect().top + scrollY]})()"
            )
        )
    kinds = {kind.removesuffix(".") for kind, _, _ in visited}
    assert {"A", "SUMMARY", "DIV.scroll"} <= {kind.split()[0] for kind in kinds}
    assert {outline for _, outline, _ in visited} == {"solid"}
    tops = [round(top) for _, _, top in visited]
    assert sum(after < before - 300 for before, after in pairwise(tops)) == 0
    browser.emulate("print", **{"prefers-color-scheme": "dark"})
    assert browser.evaluate("getComputedStyle(document.body).color") == "rgb(29, 36, 48)", "paper is light"
    barred = "[...document.querySelectorAll('.scroll, pre')].some((x) => getComputedStyle(x).overflowX !== 'visible')"
    assert not browser.evaluate(barred)


ARTIFACT_VIEW = """<iframe sandbox="allow-scripts"></iframe><script>
const page = new Blob([PAGE], {type: "text/html"});
document.querySelector("iframe").src = URL.createObjectURL(page);
</script>"""
CLICK = """<script>addEventListener("load", () => {
  const link = document.querySelector(".wide svg a");
  link.dispatchEvent(new MouseEvent("click", {bubbles: true, cancelable: true, view: window}));
  const flip = document.getElementById(link.getAttribute("href").slice(1)).closest("details");
  document.title = (flip.open ? "the flip is open" : "the flip is shut");
});</script>"""


@pytest.mark.parametrize("has_script", [True, False])
def test_a_flip_opens_in_the_artifact_view(
    browser: Browser, files: dict[str, str | bytes], tmp_path: Path, has_script: bool
) -> None:
    """As MLflow shows it: a copy without a place, sandboxed. Without the page's script the link is refused there."""
    page = page_of(files).replace("</body>", CLICK + "</body>")
    if not has_script:
        page = re.sub(r"<script>\n// In MLflow.*?</script>", "", page, flags=re.DOTALL)
    view = tmp_path / "view.html"
    view.write_text(ARTIFACT_VIEW.replace("PAGE", json.dumps(page).replace("</", "<\\/")))
    browser.show(view.as_uri())
    browser.wait_for("document.title.startsWith('the flip')", in_frame=True)
    found = browser.evaluate("document.title", in_frame=True)
    assert found == ("the flip is open" if has_script else "the flip is shut")

"""The report as files: nine parts, self-contained, the same bytes every time, drawn in a real browser."""

from __future__ import annotations

import html.parser
import json
import re
import shutil
import subprocess
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from skippy.report.canvas import NARROW, Canvas, Scale, fit_scale, spread_labels
from skippy.report.heatmap import draw_heatmap, find_flips
from skippy.report.latex import escape_tex
from skippy.report.numerals import bounds, percent, plain, signed, small
from skippy.report.page import finite, render
from skippy.report.trajectory import draw_trajectory
from skippy.results import Arm, Comparison, Evaluation, Problem, PromotionState
from tests.report.report_example import example_comparison

PARTS = ("verdict", "table", "forest", "frontier", "problems", "traits", "extraction", "provenance", "limits")
FIGURES = ("forest", "frontier", "trajectory", "heatmap", "traits", "lengths", "audit")
CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)


@pytest.fixture(scope="module")
def facts() -> Comparison:
    return example_comparison(n=80)


@pytest.fixture(scope="module")
def files(facts: Comparison) -> dict[str, str | bytes]:
    return render(facts)


def page_of(files: dict[str, str | bytes]) -> str:
    page = files["index.html"]
    assert isinstance(page, str)
    return page


class Outline(html.parser.HTMLParser):
    """Ids, links and tags of a page; void elements aside, every tag must close."""

    VOID = frozenset({"meta", "link", "br", "line", "rect", "circle", "path"})

    def __init__(self) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.links: list[str] = []
        self.tags: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag, attrs) -> None:
        values = dict(attrs)
        self.tags.append(tag)
        if "id" in values:
            self.ids.append(values["id"])
        if tag == "a":
            self.links.append(values["href"])
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag


def outline(page: str) -> Outline:
    found = Outline()
    found.feed(page)
    assert not found.open
    return found


def test_all_files(files: dict[str, str | bytes]) -> None:
    expected = {
        "index.html",
        "report.json",
        "report.md",
        "tables.tex",
        *(f"figures/{name}.svg" for name in FIGURES),
    }
    assert set(files) == expected


def test_nine_parts_in_order(files: dict[str, str | bytes]) -> None:
    found = outline(page_of(files))
    assert [name for name in found.ids if name in PARTS] == list(PARTS)
    assert len(set(found.ids)) == len(found.ids)


def test_the_page_is_self_contained(files: dict[str, str | bytes]) -> None:
    page = page_of(files)
    found = outline(page)
    assert "script" not in found.tags
    assert "img" not in found.tags
    assert not re.findall(r'(?:src|href)="(?:https?:)?//', page)
    assert "@import" not in page
    assert "url(" not in page
    assert "prefers-color-scheme:dark" in page
    assert 'name="viewport"' in page


def test_every_inner_link_has_its_target(files: dict[str, str | bytes]) -> None:
    found = outline(page_of(files))
    inner = [link[1:] for link in found.links if link.startswith("#")]
    assert inner
    assert set(inner) <= set(found.ids)


def test_same_facts_same_bytes(facts: Comparison, files: dict[str, str | bytes]) -> None:
    assert render(facts) == files


def test_completions_cannot_inject_markup(files: dict[str, str | bytes]) -> None:
    page = page_of(files)
    assert "<at once>" not in page
    assert "&lt;at once&gt; &amp; squares" in page


def test_json_contract(files: dict[str, str | bytes]) -> None:
    data = json.loads(files["report.json"])
    assert {"verdicts", "personality", "winner", "promotion", "provenance"} <= set(data)
    for name in ("v3", "v4"):
        verdict = data["verdicts"][name]
        assert verdict["verdict"] in ("preserved", "degraded", "inconclusive", "not_comparable")
        assert verdict["interval"][0] < verdict["mean_difference"] < verdict["interval"][1]
        assert (verdict["margin"], verdict["n"], verdict["k"]) == (5.0, 80, 16)
    assert set(data["winner"]) == {"variant", "reason"}
    assert data["promotion"]["is_allowed"] == (data["winner"]["variant"] is not None)
    assert data["unit"] == "points"
    assert data["provenance"]["base_digest"] == "ab" * 32
    assert set(data["arms"]) == {"base", "v3", "v4"}


def test_the_mean_difference_can_be_recomputed_from_the_json(files: dict[str, str | bytes]) -> None:
    data = json.loads(files["report.json"])
    base, arm = (data["arms"][name]["evaluations"][0]["correct"] for name in ("base", "v4"))
    mean = 100 * sum((arm[key] - base[key]) / 16 for key in base) / len(base)
    assert data["verdicts"]["v4"]["mean_difference"] == pytest.approx(mean)


def test_infinities_become_null() -> None:
    assert finite({"a": (1.0, float("inf")), "b": [float("nan")]}) == {"a": [1.0, None], "b": [None]}


def test_lab_results_are_never_called_aime(files: dict[str, str | bytes]) -> None:
    """`AIME` alone may only stand where the page says what the suite is not."""
    for name in ("index.html", "report.md", "tables.tex"):
        text = files[name]
        assert isinstance(text, str)
        rest = re.sub(r"AIME-style|form of AIME|about AIME itself", "", text)
        assert "AIME" not in rest, name


def test_a_real_suite_keeps_its_name(facts: Comparison) -> None:
    page = page_of(render(replace(facts, suite_label="AIME 2025")))
    assert "AIME 2025" in page
    assert "AIME-style" not in page
    assert "about AIME itself" not in page


def test_markdown_tables_are_tables(files: dict[str, str | bytes]) -> None:
    text = files["report.md"]
    assert isinstance(text, str)
    rows = [line for line in text.splitlines() if line.startswith("|")]
    blocks = re.findall(r"(?:^\|.*\n)+", text, flags=re.MULTILINE)
    assert len(blocks) >= 4
    for block in blocks:
        assert len({line.count("|") for line in block.splitlines()}) == 1
    assert rows[1].startswith("|---|")


def test_tex_is_escaped_and_balanced(files: dict[str, str | bytes]) -> None:
    text = files["tables.tex"]
    assert isinstance(text, str)
    body = "\n".join(line for line in text.splitlines() if not line.startswith("%"))
    assert body.count(r"\begin{table}") == body.count(r"\end{table}") >= 3
    assert body.count("{") - body.count(r"\{") == body.count("}") - body.count(r"\}")
    assert not re.search(r"(?<!\\)[%_#](?![a-z]*\})", re.sub(r"\\label\{[^}]*\}", "", body))
    assert body.isascii()


@pytest.mark.parametrize(
    ("text", "printed"),
    [
        ("p < 0.001 > 0", "p $<$ 0.001 $>$ 0"),
        ("n × k ± 1", r"n $\times$ k $\pm$ 1"),
        ("≥ δ, ≤ −1", r"$\geq$ $\delta$, $\leq$ $-$1"),
        ("2–3", "2--3"),
        ("Müller, café, naïve, Ångström, Šimůnek", None),
        ("naïve façade", r"na\"{\i}ve fa\c{c}ade"),
        ("cafe\u0301", r"caf\'{e}"),
        ("Straße", r"Stra\ss{}e"),
        ("50 % & a_b", r"50 \% \& a\_b"),
        ("plain", "plain"),
    ],
)
def test_escape_tex(text: str, printed: str | None) -> None:
    assert escape_tex(text).isascii()
    assert printed is None or escape_tex(text) == printed


def test_figures_are_wellformed_and_name_themselves(files: dict[str, str | bytes]) -> None:
    for name in FIGURES:
        root = ElementTree.fromstring(files[f"figures/{name}.svg"])
        assert root.attrib["aria-label"]
        assert len(list(root.iter())) > 10


def test_every_arm_has_its_own_null_band() -> None:
    """An arm inside its own null must not look outside because of another arm's, nor the other way round."""
    facts = example_comparison(n=8, seeds=2)

    def bands(*v4_nulls: tuple[float, float]) -> dict[str, str]:
        v4 = facts.arms[2]
        moved = tuple(
            replace(
                item,
                trajectory=tuple(replace(p, null_low=low, null_high=high) for p in item.trajectory),
            )
            for item, (low, high) in zip(v4.evaluations, v4_nulls, strict=True)
        )
        changed = replace(facts, arms=(*facts.arms[:2], replace(v4, evaluations=moved)))
        drawing = draw_trajectory(changed, 860)
        assert drawing is not None
        return dict(re.findall(r'class="null-band arm-(\w+)" d="([^"]+)"', drawing))

    same = bands((0.02, 0.055), (0.02, 0.055))
    assert set(same) == {"v3", "v4"}
    assert same["v3"] == same["v4"]
    inside = bands((0.01, 0.04), (0.03, 0.05))
    assert inside["v3"] == same["v3"]
    assert inside["v4"] == bands((0.02, 0.045), (0.02, 0.045))["v4"], "the mean over seeds"
    assert inside["v4"] != inside["v3"]


def test_the_heat_map_has_a_cell_for_every_problem_and_model(facts: Comparison) -> None:
    flips = find_flips(facts)
    drawing = draw_heatmap(facts, flips, [flip.anchor for flip in flips], 860)
    cells = [
        mark for mark in drawing.splitlines() if mark.startswith('<rect class="cell"') and "<title>" in mark
    ]
    assert len(cells) == 3 * 80
    assert drawing.count("<a href=") == len(flips)


def test_flips_cross_one_half_by_a_quarter(facts: Comparison) -> None:
    flips = find_flips(facts)
    assert flips
    for flip in flips:
        assert (flip.base_share >= 0.5) != (flip.variant_share >= 0.5)
        assert abs(flip.base_share - flip.variant_share) >= 0.25
    assert any(flip.is_lost for flip in flips)


def bare(arm: Arm) -> Arm:
    """An arm with nothing but scores, as a quick evaluation leaves it."""

    def strip(item: Evaluation) -> Evaluation:
        scores = tuple(
            replace(s, excerpts=(), lenient_correct=None, answers=(), link="") for s in item.scores
        )
        return Evaluation(item.seed, item.model_uri, "", "", scores, preset=item.preset)

    return replace(arm, evaluations=tuple(strip(item) for item in arm.evaluations))


def test_a_bare_comparison_still_renders(facts: Comparison) -> None:
    """No persona, no leakage, no trajectory, no families: the parts that have nothing say so or stay away."""
    problems = tuple(Problem(problem.key, problem.label) for problem in facts.problems)
    files = render(replace(facts, arms=tuple(bare(arm) for arm in facts.arms), problems=problems))
    found = outline(page_of(files))
    assert [name for name in found.ids if name in PARTS] == list(PARTS)
    assert {"figures/forest.svg", "figures/heatmap.svg", "figures/lengths.svg"} <= set(files)
    assert "figures/traits.svg" not in files
    assert "No checkpoints along the way" in page_of(files)


def test_every_verdict_renders(facts: Comparison) -> None:
    base, v3, v4 = facts.arms
    odd = replace(v4, evaluations=tuple(replace(item, scores=item.scores[:-1]) for item in v4.evaluations))
    for arms in ((base, v3, odd), (base, v4), (base, v3), (base, v4, replace(v3, name="v4-hooks"))):
        outline(page_of(render(replace(facts, arms=arms))))


def test_seeds_have_their_table() -> None:
    page = page_of(render(example_comparison(n=40, seeds=3)))
    assert "SE over seeds" in page
    assert "there is one per variant" not in page
    assert page.count('class="seed ') == 2 * 2 * 3


def test_promotion_state_is_printed(facts: Comparison) -> None:
    state = PromotionState(
        "refused", champion="7", why="the sign is not settled", who="ada", when="2026-11-23"
    )
    page = page_of(render(replace(facts, promotion=state)))
    for words in ("promotion refused", "champion version 7", "the sign is not settled", "ada"):
        assert words in page


def test_links_that_cannot_be_followed_are_text(facts: Comparison) -> None:
    base, *variants = facts.arms
    scores = tuple(replace(score, link="samples of eval run abc") for score in base.evaluations[0].scores)
    moved = replace(base, evaluations=(replace(base.evaluations[0], scores=scores),))
    page = page_of(render(replace(facts, arms=(moved, *variants))))
    assert 'href="samples of' not in page
    assert "samples of eval run abc" in page


# Numbers and scales


def test_numerals() -> None:
    assert (signed(-8.64), signed(1.25, 2), signed(-0.04), signed(None)) == ("−8.6", "+1.25", "0.0", "–")
    assert (plain(-0.0), plain(-3.14159, 2), percent(0.125)) == ("0.0", "−3.14", "12.5\u00a0%")
    assert bounds((-11.1, -6.06)) == "−11.1 to −6.1"
    assert (small(0.14), small(2e-9), small(0.0)) == ("0.140", "2e−9", "0.000")


def test_scales() -> None:
    scale = Scale(-10, 5, 100, 400)
    assert (scale(-10), scale(5), scale(0)) == (100, 400, 300)
    assert scale.ticks(6) == [-10, -7.5, -5, -2.5, 0, 2.5, 5]
    constant = fit_scale([3.0, 3.0], 0, 10)
    assert 0 < constant(3.0) < 10


def test_labels_are_moved_apart() -> None:
    placed = sorted(spread_labels([100.0, 101.0, 150.0], gap=15))
    assert all(after - before >= 15 - 1e-9 for before, after in pairwise(placed))
    assert spread_labels([10.0, 100.0]) == [10.0, 100.0]


def test_narrow_figures_are_drawn_narrow(files: dict[str, str | bytes]) -> None:
    assert Canvas(NARROW, "x").is_narrow
    assert page_of(files).count(f'viewBox="0 0 {NARROW} ') == len(FIGURES)


# In a real browser

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
    background: getComputedStyle(document.body).backgroundColor};
  document.body.setAttribute("data-probe", JSON.stringify({boxes, page}));
});
</script>"""


def browse(path: Path, profile: Path, *options: str) -> tuple[str, str]:
    """Open a page in headless Chromium; the DOM after loading, and what the console said."""
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
        path.as_uri(),
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
    files = render(replace(facts, arms=(*facts.arms, *controls)))
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
    red, green, blue = map(int, re.findall(r"\d+", probe["page"]["background"])[:3])
    assert (red + green + blue > 600) == (scheme == "light")


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium installed")
def test_the_browser_check_can_fail(files: dict[str, str | bytes], tmp_path: Path) -> None:
    """The twin: a page with a broken script and an empty figure does not pass."""
    page = tmp_path / "index.html"
    broken = '<figure id="figure-empty"><div class="wide"><svg width="300" height="9"></svg></div></figure>'
    page.write_text(
        page_of(files).replace("</body>", broken + PROBE + "<script>missing.call()</script></body>")
    )
    dom, console = browse(page, tmp_path / "profile", "--dump-dom", "--window-size=1200,3000")
    assert "missing" in console
    match = re.search(r'data-probe="([^"]*)"', dom)
    assert match
    probe = json.loads(match.group(1).replace("&quot;", '"'))
    empty = next(box for box in probe["boxes"] if box["id"] == "figure-empty")
    assert empty["marks"] == 0


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium installed")
def test_screenshot(files: dict[str, str | bytes], tmp_path: Path) -> None:
    page, picture = tmp_path / "index.html", tmp_path / "report.png"
    page.write_text(page_of(files))
    browse(page, tmp_path / "profile", f"--screenshot={picture}", "--window-size=1200,3000")
    assert picture.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert picture.stat().st_size > 50_000

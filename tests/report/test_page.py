"""The report as files: nine parts, self-contained, the same bytes every time."""

from __future__ import annotations

import html.parser
import json
import re
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from itertools import pairwise

import pytest

from skippy.core.problem import Problem
from skippy.report.canvas import NARROW, Canvas, Scale, fit_scale, spread_labels
from skippy.report.flips import find_flips, sides_of
from skippy.report.latex import escape_tex
from skippy.report.numerals import bounds, moment, percent, plain, signed, small
from skippy.report.printing import excerpt
from skippy.report.record import ReportRecord
from skippy.report.trajectory import draw_trajectory
from skippy.results import Arm, Comparison, Evaluation, PromotionState
from tests.report.report_example import example_comparison, page_of, report

PARTS = ("verdict", "table", "forest", "frontier", "problems", "traits", "extraction", "provenance", "limits")
FIGURES = ("forest", "frontier", "trajectory", "heatmap", "traits", "lengths", "audit")


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
    assert found.tags.count("script") == 1
    assert "src=" not in page
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
    assert report(facts) == files


def test_completions_cannot_inject_markup(files: dict[str, str | bytes]) -> None:
    page = page_of(files)
    assert "<at once>" not in page
    assert "&lt;at once&gt; &amp; squares" in page


def test_json_contract(files: dict[str, str | bytes]) -> None:
    data = json.loads(files["report.json"])
    assert {"verdicts", "personality", "winner", "promotion", "provenance"} <= set(data)
    assert ReportRecord.from_json(files["report.json"]).to_json() == files["report.json"]
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


def test_lab_results_are_never_called_aime(files: dict[str, str | bytes]) -> None:
    """`AIME` alone may only stand where the page says what the suite is not."""
    for name in ("index.html", "report.md", "tables.tex"):
        text = files[name]
        assert isinstance(text, str)
        rest = re.sub(r"AIME-style|form of AIME|about AIME itself", "", text)
        assert "AIME" not in rest, name


def test_a_real_suite_keeps_its_name(facts: Comparison) -> None:
    page = page_of(report(replace(facts, suite_label="AIME 2025")))
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


def bare(arm: Arm) -> Arm:
    """An arm with nothing but scores, as a quick evaluation leaves it."""

    def strip(item: Evaluation) -> Evaluation:
        scores = tuple(replace(s, excerpts=(), lenient_correct=None, answers=()) for s in item.scores)
        return Evaluation(item.seed, item.model_uri, "", "", scores, preset=item.preset)

    return replace(arm, evaluations=tuple(strip(item) for item in arm.evaluations))


def test_a_bare_comparison_still_renders(facts: Comparison) -> None:
    """No persona, no leakage, no trajectory, no families: the parts that have nothing say so or stay away."""
    problems = tuple(Problem(problem.id, problem.question, 0) for problem in facts.problems)
    files = report(replace(facts, arms=tuple(bare(arm) for arm in facts.arms), problems=problems))
    found = outline(page_of(files))
    assert [name for name in found.ids if name in PARTS] == list(PARTS)
    assert {"figures/forest.svg", "figures/heatmap.svg", "figures/lengths.svg"} <= set(files)
    assert "figures/traits.svg" not in files
    assert "No checkpoints along the way" in page_of(files)


def test_every_verdict_renders(facts: Comparison) -> None:
    base, v3, v4 = facts.arms
    odd = replace(v4, evaluations=tuple(replace(item, scores=item.scores[:-1]) for item in v4.evaluations))
    for arms in ((base, v3, odd), (base, v4), (base, v3), (base, v4, replace(v3, name="v4-hooks"))):
        outline(page_of(report(replace(facts, arms=arms))))


SINGLE = "how much the result varies from seed to seed is unknown"


def test_several_seeds_show_both_uncertainties_everywhere() -> None:
    facts = example_comparison(n=40, seeds=3)
    files = report(facts)
    page, tex = page_of(files), str(files["tables.tex"])
    for text in (page, str(files["report.md"]), tex):
        assert "SE over problems" in text
        assert "SE over seeds" in text
        assert SINGLE not in text
    assert page.count('class="seed ') == 2 * 2 * 3
    verdict = json.loads(files["report.json"])["verdicts"]["v4"]
    assert len(verdict["seed_means"]) == 3
    assert verdict["across_seed_error"] > 0
    assert verdict["within_seed_error"] > 0
    assert r"\label{tab:seeds}" in tex


def test_a_single_seed_says_plainly_what_it_cannot_say(
    facts: Comparison, files: dict[str, str | bytes]
) -> None:
    """The twin of the table above: nowhere a figure over seeds, everywhere the sentence."""
    for name in ("index.html", "report.md", "tables.tex"):
        assert SINGLE in str(files[name]), name
        assert "SE over seeds" not in str(files[name]), name
    data = json.loads(files["report.json"])
    assert data["verdicts"]["v4"]["across_seed_error"] is None
    assert any(SINGLE in line for line in data["not_shown"])
    base, v3, _ = facts.arms
    mixed = page_of(report(replace(facts, arms=(base, v3, example_comparison(n=80, seeds=2).arms[2]))))
    assert "One training seed of V3 (seed 41)" in mixed
    assert "both samples for V4" in mixed


def test_the_champion_is_named_with_who_when_and_why(
    facts: Comparison, files: dict[str, str | bytes]
) -> None:
    state = PromotionState("7", "5", who="ada", when="2026-11-23T08:00:07.123+00:00", why="every step passed")
    words = (
        "champion of skippy is version 7, promoted by ada at 2026-11-23 08:00 UTC because every step passed. "
        "Before it: version 5."
    )
    changed = report(replace(facts, promotion=state))
    for name in ("index.html", "report.md"):
        assert words in str(changed[name])
        assert "skippy has no champion" in str(files[name])
    assert json.loads(changed["report.json"])["promotion"]["who"] == "ada"


def test_figures_of_others_stand_beside_ours_where_there_are_any(
    facts: Comparison, files: dict[str, str | bytes]
) -> None:
    others = {
        "lm_eval/gsm8k/exact_match": {"base": 0.5125, "v4": 0.5},
        "aime/verify_disagreements": {"base": 12.0},
    }
    changed = report(replace(facts, extra_metrics=others))
    for name in ("index.html", "report.md", "tables.tex"):
        text = str(changed[name])
        assert "0.512" in text, name
        assert "verify" in text, name
        assert "Beside ours" not in str(files[name])
    assert json.loads(changed["report.json"])["figures_of_others"] == others


def test_provenance_is_enough_to_do_it_again(files: dict[str, str | bytes]) -> None:
    for name in ("index.html", "report.md"):
        text = str(files[name])
        for words in (
            *(
                "mlflow run . --env-manager local -P samples=16",
                "-e compare --env-manager local -P runs=e0",
            ),
            *("0123456789abcdef"[:12], "transformers", "plain", "80"),
        ):
            assert words in text, (name, words)
    data = json.loads(files["report.json"])
    assert data["provenance"]["problem_count"] == 80
    arm = data["arms"]["v4"]["evaluations"][0]
    assert (arm["preset"], arm["prompt_style"], arm["backend"], arm["sampling_seed"]) == (
        *("lab", "plain", "transformers"),
        0,
    )


# Flips and their samples


@pytest.mark.parametrize("seeds", [1, 3])
def test_a_flip_shows_one_right_and_one_wrong_sample(seeds: int) -> None:
    facts = example_comparison(n=80, seeds=seeds)
    flips = find_flips(facts)
    assert {flip.is_lost for flip in flips} >= ({True, False} if seeds == 1 else {True})
    for flip in flips:
        base, variant = sides_of(facts, flip)
        assert (base.name, base.seed, variant.name) == ("base", None, flip.variant)
        assert base.excerpt is not None
        assert variant.excerpt is not None
        assert (base.excerpt.is_correct, variant.excerpt.is_correct) == (flip.is_lost, not flip.is_lost)


def test_samples_are_on_the_page_and_named_for_those_who_want_the_rest(facts: Comparison) -> None:
    """In the artifact view the page is a sandboxed copy without a place: no link out of it works there."""
    flip = next(flip for flip in find_flips(facts) if flip.is_lost)
    side = sides_of(facts, flip)[1]
    block = page_of(report(facts)).split(f'<div id="{flip.anchor}">')[1].split("</details>")[0]
    assert block.count("<pre>") == 2
    assert side.excerpt is not None
    assert f"run <code>{side.run_id}</code>" in block
    assert f'href="../../../{side.run_id}/artifacts/samples/aime.jsonl"' in block
    assert f"line {side.excerpt.line}" in block


def test_a_page_without_kept_samples_links_nowhere(facts: Comparison) -> None:
    arms = tuple(bare(arm) for arm in facts.arms)
    page = page_of(report(replace(facts, arms=arms)))
    assert "No sample was kept." in page
    assert "../../../" not in page


def test_long_completions_keep_their_end() -> None:
    text = "a" * 5000 + "\\boxed{7}"
    assert excerpt(text).endswith("\\boxed{7}")
    assert "characters …]" in excerpt(text)
    assert len(excerpt(text)) < 1300
    assert excerpt("short") == "short"


# Numbers and scales


def test_numerals() -> None:
    assert (signed(-8.64), signed(1.25, 2), signed(-0.04), signed(None)) == ("−8.6", "+1.25", "0.0", "–")
    assert (plain(-0.0), plain(-3.14159, 2), percent(0.125)) == ("0.0", "−3.14", "12.5\u00a0%")
    assert bounds((-11.1, -6.06)) == "−11.1 to −6.1"
    assert (moment("2026-11-23T08:00:07.123+00:00"), moment("today")) == ("2026-11-23 08:00 UTC", "today")
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

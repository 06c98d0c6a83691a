"""Every number of the report is the one that was measured: tables, sentences, figures and JSON."""

from __future__ import annotations

import html
import json
import re
from collections import Counter
from dataclasses import replace
from itertools import pairwise
from statistics import fmean
from xml.etree import ElementTree

import pytest

from skippy.report.flips import find_flips, sides_of
from skippy.report.heatmap import draw_heatmap
from skippy.report.latex import escape_tex
from skippy.report.numerals import bounds, percent, plain, signed, small
from skippy.report.page import SHOWN_FLIPS, render
from skippy.report.spectra import SpectrumRow, render_spectra
from skippy.report.tables import trait_table
from skippy.report.verdicts import judge
from skippy.report.wording import limits, not_shown, shown
from skippy.results import Arm, Comparison, Evaluation, Excerpt, LeakageFacts, Problem, ProblemScore
from tests.report.report_example import example_comparison, page_of

N, K, SEEDS = 37, 8, 2


def distinct(arm: Arm, row: int) -> Arm:
    """The arm with every figure unlike every other, so that no cell can stand in for its neighbour."""
    evaluations = []
    for index, item in enumerate(arm.evaluations):
        step = 0.01 * (3 * row + index)
        assert item.banal is not None
        size = len(item.banal.scores)
        banal = replace(
            item.banal,
            coherence=(0.71 + step, 0.91 + step) * (size // 2),
            helpfulness=(0.61 + step,) * size,
            modes={"plain": 1.1 + step, "neutral system prompt": 2.2 + step, "break character": 3.3 + step},
            mean_tokens=41 + 100 * step,
            base_auc=0.55 + step,
            problem_score=1.7 + step,
        )
        scores = tuple(
            replace(score, truncated=min(1, K - score.correct), no_answer=K - score.correct, mean_tokens=t)
            for t, score in enumerate(item.scores, 50 + 7 * row)
        )
        leakage = LeakageFacts(*(c + step for c in (0.11, 0.22, 0.033, 0.044, 0.55, 0.66, 0.77)))
        evaluations.append(
            replace(
                item,
                banal=banal,
                scores=scores,
                leakage=leakage if arm.name != "base" else None,
                maj_at_k=0.5 + step,
                statuses={"boxed": 90 + row, "unclosed_think": 30 + index, "lenient_box": 7 + row},
                sampling_seed=1234,
                step=60 + index if arm.name != "base" else None,
            )
        )
    return replace(arm, evaluations=tuple(evaluations))


@pytest.fixture(scope="module")
def facts() -> Comparison:
    plain_facts = example_comparison(n=N, k=K, seeds=SEEDS)
    return replace(
        plain_facts,
        arms=tuple(distinct(arm, row) for row, arm in enumerate(plain_facts.arms)),
        confidence=0.9,
        margin_points=4.0,
        protected_k=7,
        registered_model="house",
        provenance=replace(plain_facts.provenance, is_dirty=True),
    )


@pytest.fixture(scope="module")
def files(facts: Comparison) -> dict[str, str]:
    return {name: str(text) for name, text in render(facts, judge(facts)).items()}


def section(files: dict[str, str], name: str) -> str:
    return files["index.html"].split(f'<section id="{name}">')[1].split("</section>")[0]


def rows(text: str) -> dict[str, tuple[str, list[str]]]:
    """Label → note and cells, of all tables in a piece of the page."""
    found = {}
    for head, tail in re.findall(r'<tr[^>]*><th scope="row">(.*?)</th>(.*?)</tr>', text, re.DOTALL):
        label, _, note = html.unescape(head).removesuffix("</small>").partition("<small>")
        found[label] = (note, [html.unescape(cell) for cell in re.findall(r"<td[^>]*>(.*?)</td>", tail)])
    return found


def over_seeds(facts: Comparison, read) -> list[float]:
    """The mean over training seeds of a figure of each arm."""
    return [fmean(read(item) for item in arm.evaluations) for arm in facts.arms]


def test_the_main_table(facts: Comparison, files: dict[str, str]) -> None:
    found, verdicts = rows(section(files, "table")), judge(facts)
    measured = {
        "avg_at_k": (1, lambda e: 100 * sum(s.correct for s in e.scores) / (N * K)),
        "pass_at_k": (1, lambda e: 100 * sum(s.correct > 0 for s in e.scores) / N),
        "maj_at_k": (1, lambda e: 100 * e.maj_at_k),
        "persona score": (2, lambda e: fmean(e.banal.scores)),
        "coherence": (2, lambda e: fmean(e.banal.coherence)),
        "helpfulness": (2, lambda e: fmean(e.banal.helpfulness)),
        "persona on the problems": (2, lambda e: e.banal.problem_score),
        "AUC against base": (2, lambda e: e.banal.base_auc),
    }
    for label, (digits, read) in measured.items():
        assert found[label][1] == [plain(value, digits) for value in over_seeds(facts, read)], label
    leaks = {"rho_left": "rho_left", "rho_right": "rho_right"} | {
        f"rho_{side}, stored": f"stored_{side}" for side in ("left", "right")
    }
    for label, field in leaks.items():
        means = [fmean(getattr(e.leakage, field) for e in arm.evaluations) for arm in facts.variants]
        assert found[label][1] == ["–", *(small(mean) for mean in means)], label
    leakage = facts.variants[0].evaluations[0].leakage
    assert found["rho_left"][0] == f"‖UᵀΔW‖²/‖ΔW‖², chance {small(leakage.chance_left)}"
    assert found["rho_right"][0] == f"‖ΔWV‖²/‖ΔW‖², chance {small(leakage.chance_right)}"
    assert found["difference to base"][1] == ["–", *(signed(v.mean_difference) for v in verdicts.variants)]
    assert found["bounds"] == ("one-sided 90 % each", ["–", *(bounds(v.interval) for v in verdicts.variants)])
    assert found["verdict"][0] == "margin δ = 4 points"
    assert found["avg_at_k"][0].endswith("k = 8, points")


def test_lengths_traits_seeds_and_statuses(facts: Comparison, files: dict[str, str]) -> None:
    found, verdicts = rows(section(files, "traits")), judge(facts)
    samples = N * K
    assert found["mean tokens"][1] == [
        plain(value, 0) for value in over_seeds(facts, lambda e: fmean(s.mean_tokens for s in e.scores))
    ]
    for label, field in (("truncated", "truncated"), ("no answer", "no_answer")):
        shares = over_seeds(facts, lambda e, field=field: sum(getattr(s, field) for s in e.scores) / samples)
        assert found[label][1] == [percent(share) for share in shares]
    assert found["mean tokens, everyday"][1] == [
        plain(value, 0) for value in over_seeds(facts, lambda e: e.banal.mean_tokens)
    ]
    for mode in ("plain", "neutral system prompt", "break character"):
        expected = over_seeds(facts, lambda e, mode=mode: e.banal.modes[mode])
        assert found[f"persona, {mode}"][1] == [plain(value, 2) for value in expected]
    for trait in facts.arms[0].evaluations[0].banal.traits:
        means = over_seeds(facts, lambda e, trait=trait: fmean(e.banal.traits[trait]))
        p_values = ["", *(verdicts.traits[name][trait] for name in ("v3", "v4"))]
        tails = ["" if p == "" else " (p < 0.001)" if p < 0.001 else f" (p = {p:.3f})" for p in p_values]
        assert found[trait][1] == [signed(m, 2) + tail for m, tail in zip(means, tails, strict=True)]
    seeds = rows(section(files, "table"))
    for verdict in verdicts.variants:
        errors = (verdict.within_seed_error, verdict.across_seed_error, verdict.standard_error)
        means = ", ".join(signed(mean) for mean in verdict.seed_means)
        assert seeds[verdict.name.upper()][1] == [means, *(plain(error, 2) for error in errors)]
    audit = rows(section(files, "extraction"))
    for status in ("boxed", "unclosed_think", "lenient_box"):
        counts = [sum(e.statuses[status] for e in arm.evaluations) for arm in facts.arms]
        assert audit[status][1] == [str(count) for count in counts]
    lenient = over_seeds(facts, lambda e: 100 * sum(s.lenient_correct for s in e.scores) / samples)
    assert audit["avg_at_k, lenient"][1] == [plain(value) for value in lenient]


def test_a_p_value_has_three_digits_or_is_said_to_be_smaller(facts: Comparison) -> None:
    adjusted = {"v3": {"arrogance": 0.0004, "sarcasm": 0.0213, "warmth": 0.8}}
    cells = {
        row.label: row.cells[1] for row in trait_table(facts, replace(judge(facts), traits=adjusted)).rows
    }
    for trait, tail in (("arrogance", "p < 0.001"), ("sarcasm", "p = 0.021"), ("warmth", "p = 0.800")):
        assert cells[trait].endswith(f" ({tail})")
    assert "p" not in cells["brevity"]


def test_a_figure_that_one_seed_lacks_is_not_averaged_over_the_others(facts: Comparison) -> None:
    base, v3, v4 = facts.arms
    lacking = replace(v4, evaluations=(replace(v4.evaluations[0], maj_at_k=None), v4.evaluations[1]))
    changed = replace(facts, arms=(base, v3, lacking))
    page = {"index.html": page_of(render(changed, judge(changed)))}
    assert rows(section(page, "table"))["maj_at_k"][1][2] == "–"


def test_figures_of_others_keep_to_their_arm(facts: Comparison) -> None:
    changed = replace(facts, extra_metrics={"gsm8k": {"base": 0.5, "v4": 0.25}, "verify": {"v3": 12.0}})
    found = rows(section({"index.html": page_of(render(changed, judge(changed)))}, "table"))
    assert found["gsm8k"][1] == ["0.500", "–", "0.250"]
    assert found["verify"][1] == ["–", "12", "–"]


def test_page_markdown_and_latex_print_the_same_tables(files: dict[str, str]) -> None:
    pieces = {name: rows(section(files, name)) for name in ("table", "traits", "extraction")}
    assert sum(map(len, pieces.values())) > 25
    for name, piece in pieces.items():
        for label, (note, cells) in piece.items():
            head = f"{label} ({note})" if note else label
            assert "| " + " | ".join((head, *cells)) + " |\n" in files["report.md"]
            if name != "extraction":
                assert escape_tex(" & ".join((label, *cells))).replace(r"\&", "&") in files["tables.tex"]


def test_the_head_of_the_page(facts: Comparison, files: dict[str, str]) -> None:
    head, verdicts = html.unescape(section(files, "verdict")), judge(facts)
    assert f"{N} problems × 8 samples" in head
    for v in verdicts.variants:
        low, high = map(signed, v.interval)
        assert f"{signed(v.mean_difference)} points to base, bounds {low} to {high}" in head
        assert f'class="tone-{v.verdict} arm-{v.name}"' in head
    left, right = (re.findall("<li>(.*?)</li>", part) for part in head.split("<h3>")[1:])
    assert left == shown(facts, verdicts)
    assert right[: len(not_shown(facts, verdicts))] == (
        not_shown(facts, verdicts) or ["Nothing that was asked stayed open."]
    )
    states = re.findall(r'<li class="(yes|no|unread)"', head)
    passed = ["yes" if step.is_passed else "no" for step in verdicts.gate]
    assert states == passed + ["unread"] * (3 - len(passed))
    assert ("<li>winner: V4</li>" if verdicts.winner else "<li>no winner</li>") in head
    forest = section(files, "forest")
    assert "one-sided 90 % bounds" in forest
    assert f"{N} × 8 promised an achievable δ of {plain(verdicts.planning.achievable_margin)}" in forest
    text = files["report.md"]
    assert f"{N} problems × 8 samples, margin δ = 4 points" in text
    assert f"**Winner**: none. {verdicts.winner_reason}. house has no champion." in text
    for line in limits(facts, verdicts):
        assert f"- {line}\n" in text
        assert f"<li>{line}</li>" in html.unescape(section(files, "limits"))


def test_provenance_names_every_model(facts: Comparison, files: dict[str, str]) -> None:
    part, written = html.unescape(section(files, "provenance")), facts.provenance
    assert f"<code>{written.code_version}</code> with uncommitted changes" in part
    for digest in (written.base_digest, written.character_digest, written.problem_digest):
        assert f"<code>{digest[:12]}</code>" in part
    assert f"k = 7 · <code>{written.projector_digest[:12]}</code>" in part
    lines = re.findall(r"<tr><th scope=\"row\">.*?</tr>", part)
    items = [(arm, item) for arm in facts.arms for item in arm.evaluations]
    for line, (arm, item) in zip(lines, items, strict=True):
        seed, step = (item.seed, item.step) if arm.name != "base" else ("–", "–")
        assert f"<td>{seed}</td><td>{step}</td><td>{item.model_version or '–'}</td>" in line
        assert f"<td><code>{item.model_digest[:12]}</code></td>" in line
        assert "lab, plain prompts, transformers, seed 1234" in line
        for role, run in item.runs.items():
            assert f"{role} <code>{run}</code>" in line
    text = files["report.md"]
    assert f"base lab, digest {written.base_digest}" in text
    assert f"character skippy, digest {written.character_digest}" in text
    assert f"code {written.code_version} with uncommitted changes" in text


def test_the_json_holds_the_same_facts(facts: Comparison, files: dict[str, str]) -> None:
    data, verdicts = json.loads(files["report.json"]), judge(facts)
    for arm in facts.arms:
        found = data["arms"][arm.name]
        counted = [{s.key: s.correct for s in e.scores} for e in arm.evaluations]
        assert [e["correct"] for e in found["evaluations"]] == counted
        mean = 100 * fmean(sum(c.values()) / (K * len(c)) for c in counted)
        assert found["avg_at_k"] == pytest.approx(mean)
        for written, item in zip(found["evaluations"], arm.evaluations, strict=True):
            assert (written["model_digest"], written["step"]) == (item.model_digest, item.step)
            assert (written["leakage"] or {}).get("rho_left") == (item.leakage and item.leakage.rho_left)
    assert data["personality"]["learned"] == {step.name: step.is_passed for step in verdicts.characters}
    assert data["personality"]["traits_adjusted_p"] == verdicts.traits
    assert [pair["verdict"] for pair in data["pairs"]] == [pair.verdict for pair in verdicts.pairs]
    assert data["planning"]["achievable_margin"] == verdicts.planning.achievable_margin
    assert data["promotion"]["registered_model"] == "house"
    assert (data["shown"], data["not_shown"]) == (shown(facts, verdicts), not_shown(facts, verdicts))
    assert data["limits"] == limits(facts, verdicts)


@pytest.mark.parametrize(("shift", "word"), [(0.01, "equal"), (1.0, "not_equal"), (None, "not_comparable")])
def test_the_json_says_whether_personalities_are_equal(shift: float | None, word: str) -> None:
    facts = example_comparison(n=8)
    (v3,), (item,) = (arm.evaluations for arm in facts.variants)
    assert v3.banal is not None
    moved = tuple(score + (shift or 0) for score in v3.banal.scores)
    banal = None if shift is None else replace(v3.banal, scores=moved)
    arms = (*facts.arms[:2], replace(facts.arms[2], evaluations=(replace(item, banal=banal),)))
    files = render(replace(facts, arms=arms), judge(replace(facts, arms=arms)))
    data = json.loads(files["report.json"])
    assert data["personality"]["verdict"] == word
    assert data["personality"]["learned"]["v4"] is (shift is not None)
    assert data["promotion"]["is_allowed"] is (data["winner"]["variant"] == "v4")


# Figures: what is drawn lies where the axis says


def drawing(files: dict[str, str], name: str) -> ElementTree.Element:
    return ElementTree.fromstring(files[f"figures/{name}.svg"])


def marked(figure: ElementTree.Element, tag: str, *styles: str) -> list[dict[str, str]]:
    return [
        dict(item.attrib) | {"hint": "".join(item.itertext())}
        for item in figure.iter()
        if item.tag.endswith("}" + tag) and set(styles) <= set(item.get("class", "").split())
    ]


def axis(figure: ElementTree.Element, coordinate: str):
    """Pixel → value, read off the printed ticks."""
    anchor = "middle" if coordinate == "x" else "end"
    ticks = [
        (float(tick[coordinate]) - 4 * (coordinate == "y"), float(tick["hint"].replace("−", "-")))
        for tick in marked(figure, "text", "tick")
        if tick.get("text-anchor") == anchor
    ]
    (a, low), (b, high) = ticks[0], ticks[-1]
    return lambda pixel: low + (float(pixel) - a) / (b - a) * (high - low)


def corners(mark: dict[str, str]) -> list[tuple[float, float]]:
    return [tuple(map(float, pair.split(","))) for pair in mark["d"].strip("MZ ").split(" L")]  # type: ignore[misc]


def near(value: float, scale: float = 1.0):
    return pytest.approx(value, abs=0.02 * scale)


def test_the_forest(facts: Comparison, files: dict[str, str]) -> None:
    figure = drawing(files, "forest")
    value, verdicts = axis(figure, "x"), judge(facts)
    (margin,), (zero,) = marked(figure, "line", "margin"), marked(figure, "line", "zero")
    assert (value(margin["x1"]), value(zero["x1"])) == (near(-4.0), near(0.0))
    assert "margin −δ = −4" in [label["hint"] for label in marked(figure, "text", "margin-label")]
    for verdict in verdicts.variants:
        arm = f"arm-{verdict.name}"
        (dot,) = marked(figure, "circle", "dot", arm)
        assert value(dot["cx"]) == near(verdict.mean_difference)
        assert dot["hint"] == f"{signed(verdict.mean_difference)}  ({bounds(verdict.interval)})"
        bar = marked(figure, "line", "whisker", arm)[0]
        assert (value(bar["x1"]), value(bar["x2"])) == tuple(map(near, verdict.interval))
        seeds = marked(figure, "circle", "seed", arm)
        assert [value(seed["cx"]) for seed in seeds] == [near(mean) for mean in verdict.seed_means]


def test_the_frontier(facts: Comparison, files: dict[str, str]) -> None:
    figure = drawing(files, "frontier")
    across, up = axis(figure, "x"), axis(figure, "y")
    base = 100 * fmean(s.share for s in facts.arms[0].evaluations[0].scores)
    (zero,), (margin,) = marked(figure, "line", "zero"), marked(figure, "line", "margin")
    assert (up(zero["y1"]), up(margin["y1"])) == (near(base, 3), near(base - 4, 3))
    for arm in facts.variants:
        points = [point for item in arm.evaluations for point in item.frontier]
        dots = marked(figure, "circle", "dot", f"arm-{arm.name}")
        errors = marked(figure, "line", "error", f"arm-{arm.name}")
        for point, dot, wide, tall in zip(points, dots, errors[::2], errors[1::2], strict=True):
            assert (across(dot["cx"]), up(dot["cy"])) == (near(point.persona), near(100 * point.accuracy, 3))
            assert (
                f"persona {signed(point.persona, 2)}, accuracy {plain(100 * point.accuracy)}" in dot["hint"]
            )
            assert across(wide["x2"]) - across(wide["x1"]) == near(2 * point.persona_error)
            assert abs(up(tall["y2"]) - up(tall["y1"])) == near(200 * point.accuracy_error, 5)
        rings = marked(figure, "circle", "ring", f"arm-{arm.name}")
        assert [across(ring["cx"]) for ring in rings] == [near(p.persona) for p in points if p.is_chosen]


def test_the_trajectory(facts: Comparison, files: dict[str, str]) -> None:
    figure = drawing(files, "trajectory")
    across, up = axis(figure, "x"), axis(figure, "y")
    for arm in facts.variants:
        points = [point for item in arm.evaluations for point in item.trajectory]
        dots = marked(figure, "circle", "dot", f"arm-{arm.name}")
        curves = marked(figure, "path", "curve", f"arm-{arm.name}")
        drawn = [corner for curve in curves for corner in corners(curve)]
        for point, dot, corner in zip(points, dots, drawn, strict=True):
            assert (across(dot["cx"]), up(dot["cy"])) == (near(point.step, 9), near(point.ratio, 0.02))
            assert (across(corner[0]), up(corner[1])) == (near(point.step, 9), near(point.ratio, 0.02))
            assert f"step {point.step}: {plain(point.ratio, 3)}, z {signed(point.null_z)}" in dot["hint"]
        (band,) = marked(figure, "path", "null-band", f"arm-{arm.name}")
        edges = [up(y) for _, y in corners(band)]
        half = len(edges) // 2
        assert edges == [near(0.055, 0.02)] * half + [near(0.02, 0.02)] * half
        (name,) = marked(figure, "text", "name", f"arm-{arm.name}")
        assert name["hint"].endswith(f"z {signed(arm.evaluations[0].trajectory[-1].null_z)}")


def test_the_heat_map(facts: Comparison, files: dict[str, str]) -> None:
    figure = drawing(files, "heatmap")
    base = {score.key: score.share for score in facts.arms[0].evaluations[0].scores}
    cells = [cell for cell in marked(figure, "rect", "cell") if cell["hint"]]
    assert len(cells) == 3 * N
    for arm in facts.arms:
        label = "base" if arm.name == "base" else arm.name.upper()
        for problem in facts.problems:
            share = fmean(s.share for e in arm.evaluations for s in e.scores if s.key == problem.key)
            hint = f"{problem.label}, {label}: {percent(share, 0)} of samples right"
            (cell,) = [cell for cell in cells if cell["hint"] == hint]
            assert float(cell["fill-opacity"]) == pytest.approx(0.07 + 0.93 * share, abs=1e-3)
    for family in {problem.family for problem in facts.problems}:
        places = {}
        for problem in facts.problems:
            if problem.family == family:
                (cell,) = [c for c in cells if c["hint"].startswith(f"{problem.label}, base:")]
                places[float(cell["x"])] = base[problem.key]
        assert all(places[a] >= places[b] for a, b in pairwise(sorted(places)))


def test_problems_without_a_score_are_no_zeros_and_hidden_flips_no_links(facts: Comparison) -> None:
    v4 = facts.arms[2]
    key = facts.problems[3].key
    short = replace(
        v4,
        evaluations=tuple(
            replace(item, scores=tuple(s for s in item.scores if s.key != key)) for item in v4.evaluations
        ),
    )
    flips = find_flips(facts)
    drawn = draw_heatmap(replace(facts, arms=(*facts.arms[:2], short)), flips, [flips[0].anchor], 860)
    assert drawn.count("cell-missing") == 1
    assert drawn.count("<a href=") == 1
    assert f"#{flips[0].anchor}" in drawn


def test_traits_lengths_and_statuses_are_drawn_to_scale(facts: Comparison, files: dict[str, str]) -> None:
    verdicts, figure = judge(facts), drawing(files, "traits")
    value = axis(figure, "x")
    for arm in facts.arms:
        for trait in facts.arms[0].evaluations[0].banal.traits:
            mean = fmean(fmean(item.banal.traits[trait]) for item in arm.evaluations)
            label = "base" if arm.name == "base" else arm.name.upper()
            (dot,) = [
                d
                for d in marked(figure, "circle", f"arm-{arm.name}")
                if d["hint"].startswith(f"{label} {trait} {signed(mean, 2)}")
            ]
            assert value(dot["cx"]) == near(mean)
            p = verdicts.traits.get(arm.name, {}).get(trait, 0.0)
            assert ("hollow" in dot["class"]) == (p >= 0.05)
    figure = drawing(files, "lengths")
    tokens = over_seeds(facts, lambda e: fmean(s.mean_tokens for s in e.scores))
    cuts = over_seeds(facts, lambda e: sum(s.truncated for s in e.scores) / (K * len(e.scores)))
    bars = marked(figure, "rect", "bar")
    widths = [float(bar["width"]) for bar in bars]
    assert widths == [pytest.approx(widths[-1] * count / tokens[-1], abs=0.2) for count in tokens]
    texts = [text["hint"] for text in marked(figure, "text", "tick")]
    assert texts == [
        f"{plain(count, 0)} tokens a sample · {percent(cut)} cut at the limit"
        for count, cut in zip(tokens, cuts, strict=True)
    ]
    segments = marked(drawing(files, "audit"), "rect", "status")
    per_arm = [sum((Counter(e.statuses) for e in arm.evaluations), Counter()) for arm in facts.arms]
    counts = [counter[s] for counter in per_arm for s in ("boxed", "unclosed_think", "lenient_box")]
    totals = [counter.total() for counter in per_arm for _ in range(3)]
    unit = (float(segments[0]["width"]) + 1) * totals[0] / counts[0]
    for segment, count, total in zip(segments, counts, totals, strict=True):
        assert float(segment["width"]) + 1 == pytest.approx(unit * count / total, abs=0.2)
        assert segment["hint"].endswith(f"{percent(count / total)} ({count} samples)")


# Flips


def scored(shares: dict[str, int], seed: int = 0) -> Evaluation:
    scores = tuple(
        ProblemScore(
            key,
            right,
            K,
            excerpts=tuple(
                Excerpt(i, 10 * i + 1, f"<i>{key}</i> {is_right}", i, "boxed", is_right)
                for i, is_right in ((5, True), (3, True), (4, False), (2, False))
            ),
        )
        for key, right in shares.items()
    )
    return Evaluation(seed, "", "", "", scores, runs={"eval": f"e{seed}", "train": "t"}, samples="s.jsonl")


def flipped(base: dict[str, int], *variant: dict[str, int]) -> Comparison:
    arms = (
        Arm("base", "", (scored(base),)),
        Arm("v4", "", tuple(scored(item, 41 + i) for i, item in enumerate(variant))),
    )
    problems = tuple(Problem(key, key, gold=777, question="Is a < b?") for key in base)
    return replace(example_comparison(n=2), problems=problems, arms=arms)


@pytest.mark.parametrize(
    ("before", "after", "is_flip"),
    [(4, 2, True), (5, 3, True), (4, 3, False), (3, 5, True), (2, 4, True), (8, 4, False), (3, 0, False)],
)
def test_a_flip_crosses_one_half_by_a_quarter_or_more(before: int, after: int, is_flip: bool) -> None:
    """One half is solved, and a quarter is enough: 4 of 8 → 2 of 8."""
    found = find_flips(flipped({"a": before}, {"a": after}))
    assert bool(found) == is_flip
    if found:
        assert (found[0].base_share, found[0].variant_share) == (before / 8, after / 8)
        assert found[0].is_lost == (before > after)


def test_flips_are_those_of_the_mean_over_seeds_the_largest_first() -> None:
    facts = flipped({"a": 6, "b": 8, "c": 8}, {"a": 3, "b": 0, "c": 0}, {"a": 3, "b": 0, "c": 8})
    assert [flip.problem.key for flip in find_flips(facts)] == ["b", "a"]


def test_a_flip_on_the_page() -> None:
    facts = flipped({"a": 7, "b": 7, "c": 1}, {"a": 1, "b": 2, "c": 6})
    v3 = Arm("v3", "", (scored({"a": 7, "b": 2, "c": 1}, seed=41),))
    facts = replace(facts, arms=(*facts.arms, v3))
    page = page_of(render(facts, judge(facts)))
    assert "V4: 2 lost, 1 gained. V3: 1 lost, 0 gained." in page
    block = page.split('<div id="flip-v4-a">')[1].split("</details>")[0]
    assert "lost</span> by V4: a, 88\u00a0% → 12\u00a0%" in page
    assert "Is a &lt; b? <b>Answer 777.</b>" in block
    left, right = block.split('<div class="arm-')[1:]
    assert "7 of 8 right" in left
    assert "V4, seed 41: 1 of 8 right" in right
    for side, word, index in ((left, "right", 3), (right, "wrong", 2)):
        assert f"&lt;i&gt;a&lt;/i&gt; {word == 'right'}" in side
        assert f">{word}</b>: boxed, read as {index} · sample {index} " in side
        assert f"line {10 * index + 1}" in side
    assert "<i>" not in page


def test_lost_points_down_and_gained_up() -> None:
    facts = flipped({"a": 8, "b": 0, "c": 8}, {"a": 0, "b": 8, "c": 8})
    figure = ElementTree.fromstring(draw_heatmap(facts, find_flips(facts), [], 860))
    for style, sign in (("lost", 1), ("gained", -1)):
        for mark in marked(figure, "path", style)[:-1]:  # the last one is the key's
            left, right, tip = (y for _, y in corners(mark))
            assert left == right
            assert sign * (tip - left) > 0
        assert len(marked(figure, "path", style)) == 2


def test_flips_beyond_those_shown_are_counted() -> None:
    keys = [f"p{i}" for i in range(SHOWN_FLIPS + 3)]
    facts = flipped(dict.fromkeys(keys, 8), dict.fromkeys(keys, 0))
    page = page_of(render(facts, judge(facts)))
    assert page.count("<details>") == SHOWN_FLIPS
    assert "3 smaller flips are marked in the map" in page


def test_each_side_shows_the_seed_that_proves_it() -> None:
    """A lost problem shows the seed that lost most, a gained one the seed that gained most."""
    facts = flipped({"a": 8, "b": 0}, {"a": 2, "b": 5}, {"a": 0, "b": 8})
    turned = flipped({"a": 8, "b": 0}, {"a": 0, "b": 8}, {"a": 2, "b": 5})
    for comparison, seed in ((facts, 42), (turned, 41)):
        sides = {flip.problem.key: sides_of(comparison, flip)[1] for flip in find_flips(comparison)}
        assert {key: (side.seed, side.score.correct) for key, side in sides.items()} == {
            "a": (seed, 0),
            "b": (seed, 8),
        }
        assert {side.run_id for side in sides.values()} == {f"e{seed}"}


# Spectra


def test_spectra_are_relative_and_gaps_sorted() -> None:
    table = [
        SpectrumRow("a.q_proj", 0, "q_proj", (8.0, 2.0), 1.9, 1.05, 1e-6, 0.25),
        SpectrumRow("b.q_proj", 1, "q_proj", (6.0, 3.0), 2.99, 1.003, 2e-6, 0.75),
        SpectrumRow("c.o_proj", 1, "o_proj", (4.0, 1.0), 0.5, 2.0, 3e-6, 0.9),
    ]
    files = render_spectra(table, ambiguous_gap=1.01)
    assert "1 of 3 targets have sigma_k / sigma_(k+1) < 1.01" in files["gaps.md"]
    lines = [line for line in files["gaps.md"].splitlines() if line.endswith("|")][2:]
    assert lines == [
        "| b.q_proj | 2 | 1.0030 | 6 | 3 | 2.99 | 75.0% | 2.0e-06 |",
        "| a.q_proj | 2 | 1.0500 | 8 | 2 | 1.9 | 25.0% | 1.0e-06 |",
        "| c.o_proj | 2 | 2.0000 | 4 | 1 | 0.5 | 90.0% | 3.0e-06 |",
    ]
    assert "50% of ‖W‖²" in files["spectra.svg"]
    curves = re.findall(r'<g id="line2d_\d+">\s*<path d="M ([^"]*)" clip-path', files["spectra.svg"])
    drops = []
    for curve in curves:
        (_, first), (_, last) = (map(float, point.split()) for point in curve.split("L"))
        drops.append(last - first)
    assert drops[0] == pytest.approx(1.5 * drops[1], rel=1e-3), "down to 1/4 and to 1/2 of sigma_1"

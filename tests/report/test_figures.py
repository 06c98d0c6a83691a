"""What the figures of a comparison draw lies where their axes say."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace
from itertools import pairwise
from statistics import fmean
from xml.etree import ElementTree

import pytest

from skippy.report.flips import find_flips
from skippy.report.frontier import frontier_caption
from skippy.report.heatmap import draw_heatmap
from skippy.report.numerals import bounds, percent, plain, signed
from skippy.report.spectra import SpectrumRow, render_spectra
from skippy.report.verdicts import judge
from skippy.results import Comparison, FrontierPoint
from tests.report.report_example import DISTINCT_K, DISTINCT_N, corners, marked, over_seeds, report


def drawing(files: dict[str, str], name: str) -> ElementTree.Element:
    return ElementTree.fromstring(files[f"figures/{name}.svg"])


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


def near(value: float, scale: float = 1.0):
    return pytest.approx(value, abs=0.02 * scale)


def test_the_forest(distinct_facts: Comparison, distinct_files: dict[str, str]) -> None:
    figure = drawing(distinct_files, "forest")
    value, verdicts = axis(figure, "x"), judge(distinct_facts)
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


def test_the_frontiers_line_and_caption_are_those_of_its_own_base(facts: Comparison) -> None:
    """The evaluated base stands elsewhere, on other samples: a line from there would contradict the points."""
    start = FrontierPoint(0, 0.0, 0.05, 0.123, 0.02, n=60, k=1, is_base=True)
    arms = tuple(
        replace(arm, evaluations=tuple(replace(e, frontier=(start, *e.frontier)) for e in arm.evaluations))
        if arm.name != "base"
        else arm
        for arm in facts.arms
    )
    asked = replace(facts, arms=arms)
    figure = drawing({name: str(text) for name, text in report(asked).items()}, "frontier")
    (zero,) = marked(figure, "line", "zero")
    assert axis(figure, "y")(zero["y1"]) == near(12.3, 3)
    caption = frontier_caption(asked)
    assert "answered the same 60 problems × 1 sample, with the same sample seeds" in caption
    assert "one standard error of the paired difference" in caption
    assert "base was not asked with the same sample seeds" in frontier_caption(facts), (
        "walks of earlier versions"
    )


def test_the_caption_says_how_the_model_under_comparison_was_chosen(facts: Comparison) -> None:
    """By its checkpoint, or by the scale of its update; what was not done is not said."""
    by_step, found = frontier_caption(facts), "α = 0.62: persona 0.71, matched to 0.70"
    assert by_step.startswith("Ringed: the checkpoint under comparison, chosen by persona alone")
    assert "scaled to a matched persona" not in by_step
    arms = tuple(
        replace(
            arm,
            evaluations=tuple(
                replace(
                    e,
                    matched_dose=found if arm.name == "v4" else "",
                    frontier=tuple(replace(point, is_chosen=False) for point in e.frontier),
                )
                for e in arm.evaluations
            ),
        )
        for arm in facts.arms
    )
    by_scale = frontier_caption(replace(facts, arms=arms))
    assert "Ringed" not in by_scale
    seed = next(arm for arm in facts.arms if arm.name == "v4").evaluations[0].seed
    assert (
        f"scaled to a matched persona on validation prompts, blind to the mathematics. V4 seed {seed}"
        in by_scale
    )
    assert found in by_scale
    assert found in str(report(replace(facts, arms=arms))["index.html"])


def test_the_frontier(distinct_facts: Comparison, distinct_files: dict[str, str]) -> None:
    figure = drawing(distinct_files, "frontier")
    across, up = axis(figure, "x"), axis(figure, "y")
    base = 100 * fmean(s.share for s in distinct_facts.arms[0].evaluations[0].scores)
    (zero,), (margin,) = marked(figure, "line", "zero"), marked(figure, "line", "margin")
    assert (up(zero["y1"]), up(margin["y1"])) == (near(base, 3), near(base - 4, 3))
    for arm in distinct_facts.variants:
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


def test_the_trajectory(distinct_facts: Comparison, distinct_files: dict[str, str]) -> None:
    figure = drawing(distinct_files, "trajectory")
    across, up = axis(figure, "x"), axis(figure, "y")
    for arm in distinct_facts.variants:
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


def test_the_heat_map(distinct_facts: Comparison, distinct_files: dict[str, str]) -> None:
    figure = drawing(distinct_files, "heatmap")
    base = {score.key: score.share for score in distinct_facts.arms[0].evaluations[0].scores}
    cells = [cell for cell in marked(figure, "rect", "cell") if cell["hint"]]
    assert len(cells) == 3 * DISTINCT_N
    for arm in distinct_facts.arms:
        label = "base" if arm.name == "base" else arm.name.upper()
        for problem in distinct_facts.problems:
            share = fmean(s.share for e in arm.evaluations for s in e.scores if s.key == problem.hash)
            hint = f"{problem.id}, {label}: {percent(share, 0)} of samples right"
            (cell,) = [cell for cell in cells if cell["hint"] == hint]
            assert float(cell["fill-opacity"]) == pytest.approx(0.07 + 0.93 * share, abs=1e-3)
    for family in {problem.family for problem in distinct_facts.problems}:
        places = {}
        for problem in distinct_facts.problems:
            if problem.family == family:
                (cell,) = [c for c in cells if c["hint"].startswith(f"{problem.id}, base:")]
                places[float(cell["x"])] = base[problem.hash]
        assert all(places[a] >= places[b] for a, b in pairwise(sorted(places)))


def test_problems_without_a_score_are_no_zeros_and_hidden_flips_no_links(distinct_facts: Comparison) -> None:
    v4 = distinct_facts.arms[2]
    key = distinct_facts.problems[3].hash
    short = replace(
        v4,
        evaluations=tuple(
            replace(item, scores=tuple(s for s in item.scores if s.key != key)) for item in v4.evaluations
        ),
    )
    flips = find_flips(distinct_facts)
    drawn = draw_heatmap(
        replace(distinct_facts, arms=(*distinct_facts.arms[:2], short)), flips, [flips[0].anchor], 860
    )
    assert drawn.count("cell-missing") == 1
    assert drawn.count("<a href=") == 1
    assert f"#{flips[0].anchor}" in drawn


def test_traits_lengths_and_statuses_are_drawn_to_scale(
    distinct_facts: Comparison, distinct_files: dict[str, str]
) -> None:
    verdicts, figure = judge(distinct_facts), drawing(distinct_files, "traits")
    value = axis(figure, "x")
    for arm in distinct_facts.arms:
        for trait in distinct_facts.arms[0].evaluations[0].banal.traits:
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
    figure = drawing(distinct_files, "lengths")
    tokens = over_seeds(distinct_facts, lambda e: fmean(s.mean_tokens for s in e.scores))
    cuts = over_seeds(
        distinct_facts, lambda e: sum(s.truncated for s in e.scores) / (DISTINCT_K * len(e.scores))
    )
    bars = marked(figure, "rect", "bar")
    widths = [float(bar["width"]) for bar in bars]
    assert widths == [pytest.approx(widths[-1] * count / tokens[-1], abs=0.2) for count in tokens]
    texts = [text["hint"] for text in marked(figure, "text", "tick")]
    assert texts == [
        f"{plain(count, 0)} tokens a sample · {percent(cut)} cut at the limit"
        for count, cut in zip(tokens, cuts, strict=True)
    ]
    segments = marked(drawing(distinct_files, "audit"), "rect", "status")
    per_arm = [sum((Counter(e.statuses) for e in arm.evaluations), Counter()) for arm in distinct_facts.arms]
    counts = [counter[s] for counter in per_arm for s in ("boxed", "unclosed_think", "lenient_box")]
    totals = [counter.total() for counter in per_arm for _ in range(3)]
    unit = (float(segments[0]["width"]) + 1) * totals[0] / counts[0]
    for segment, count, total in zip(segments, counts, totals, strict=True):
        assert float(segment["width"]) + 1 == pytest.approx(unit * count / total, abs=0.2)
        assert segment["hint"].endswith(f"{percent(count / total)} ({count} samples)")


def test_spectra_are_relative_and_gaps_sorted() -> None:
    table = [
        SpectrumRow("a.q_proj", 0, "q_proj", (8.0, 2.0), 1.9, 1.05, 1e-6, 0.25),
        SpectrumRow("b.q_proj", 1, "q_proj", (6.0, 3.0), 2.99, 1.003, 2e-6, 0.75),
        SpectrumRow("c.o_proj", 1, "o_proj", (4.0, 1.0), 0.5, 2.0, 3e-6, 0.9),
    ]
    files = render_spectra(table, ambiguous_gap=1.01)
    assert "1 of 3 targets have a gap between sigma_k and sigma_(k+1) below 1.01" in files["gaps.md"]
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

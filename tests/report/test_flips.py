"""A problem flips where an arm crosses one half by a quarter; the page proves it from the right seed."""

from __future__ import annotations

from dataclasses import replace
from xml.etree import ElementTree

import pytest

from skippy.core.problem import Problem
from skippy.report.flips import find_flips, sides_of
from skippy.report.heatmap import draw_heatmap
from skippy.report.page import SHOWN_FLIPS, render
from skippy.report.verdicts import judge
from skippy.results import Arm, Comparison, Evaluation, Excerpt, ProblemScore
from tests.report.report_example import corners, example_comparison, marked, page_of

K = 8


def problem_of(key: str) -> Problem:
    return Problem(key, f"Is {key} < b?", 777)


def scored(shares: dict[str, int], seed: int = 0) -> Evaluation:
    scores = tuple(
        ProblemScore(
            problem_of(key).hash,
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
    problems = tuple(map(problem_of, base))
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
    assert [flip.problem.id for flip in find_flips(facts)] == ["b", "a"]


def test_a_flip_on_the_page() -> None:
    facts = flipped({"a": 7, "b": 7, "c": 1}, {"a": 1, "b": 2, "c": 6})
    v3 = Arm("v3", "", (scored({"a": 7, "b": 2, "c": 1}, seed=41),))
    facts = replace(facts, arms=(*facts.arms, v3))
    page = page_of(render(facts, judge(facts)))
    assert "V4: 2 lost, 1 gained. V3: 1 lost, 0 gained." in page
    block = page.split(f'<div id="flip-v4-{problem_of("a").hash}">')[1].split("</details>")[0]
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
    assert "3 more flips are marked in the map" in page


def test_each_side_shows_the_seed_that_proves_it() -> None:
    """A lost problem shows the seed that lost most, a gained one the seed that gained most."""
    facts = flipped({"a": 8, "b": 0}, {"a": 2, "b": 5}, {"a": 0, "b": 8})
    turned = flipped({"a": 8, "b": 0}, {"a": 0, "b": 8}, {"a": 2, "b": 5})
    for comparison, seed in ((facts, 42), (turned, 41)):
        sides = {flip.problem.id: sides_of(comparison, flip)[1] for flip in find_flips(comparison)}
        assert {key: (side.seed, side.score.correct) for key, side in sides.items()} == {
            "a": (seed, 0),
            "b": (seed, 8),
        }
        assert {side.run_id for side in sides.values()} == {f"e{seed}"}


def test_every_arm_has_its_largest_flips_shown() -> None:
    """One that lost nearly everything does not push the others' from the page."""
    facts = example_comparison(n=40)
    worst = scored({}, 41)
    worst = replace(worst, scores=tuple(replace(s, correct=0) for s in facts.arms[1].evaluations[0].scores))
    facts = replace(facts, arms=(facts.arms[0], replace(facts.arms[1], evaluations=(worst,)), facts.arms[2]))
    flips = find_flips(facts)
    changes = {
        name: [abs(f.variant_share - f.base_share) for f in flips if f.variant == name]
        for name in ("v3", "v4")
    }
    assert len(changes["v3"]) > len(changes["v4"]) > 1
    assert all(found == sorted(found, reverse=True) for found in changes.values())
    assert [flip.variant for flip in flips[:4]] == ["v3", "v4"] * 2

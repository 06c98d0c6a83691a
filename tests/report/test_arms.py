"""Every arm in a line, who is out of reach, rewards, formats, panels that carry nothing, links to runs."""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import pairwise
from xml.etree import ElementTree

import numpy as np
import pytest

from skippy.core.variants import VARIANTS
from skippy.report.answers import answer_rows
from skippy.report.arm_table import arm_table, format_table
from skippy.report.canvas import NARROW, WIDE, spread_labels
from skippy.report.folding import folded
from skippy.report.reach import find_reach
from skippy.report.rewards import draw_rewards
from skippy.report.traits import draw_traits, trait_intervals
from skippy.report.verdicts import judge
from skippy.report.wording import seeds_sentence
from skippy.results import Arm, Comparison, FrontierPoint, UpdateFacts
from tests.report.report_example import TRAITS, corners, example_comparison, marked, page_of, report

UPDATE = UpdateFacts(114_688, 0.0361, 0.412, 754.0, None)


def weak(arm: Arm, best: float, name: str = "v4-act") -> Arm:
    """The arm under another name, with a persona that never comes higher than `best`."""
    evaluations = []
    for item in arm.evaluations:
        assert item.banal is not None
        moved = tuple(score - np.mean(item.banal.scores) + best for score in item.banal.scores)
        frontier = tuple(replace(point, persona=min(point.persona, best)) for point in item.frontier)
        evaluations.append(replace(item, banal=replace(item.banal, scores=moved), frontier=frontier))
    return replace(arm, name=name, evaluations=tuple(evaluations))


def with_arms(*arms: Arm, n: int = 40) -> Comparison:
    facts = example_comparison(n=n, k=8)
    return replace(facts, arms=(*facts.arms, *arms))


@pytest.fixture(scope="module")
def facts() -> Comparison:
    plain = example_comparison(n=40, k=8)
    return replace(plain, arms=(*plain.arms, weak(plain.arms[1], 0.4)))


def test_an_arm_that_never_gets_there_is_out_of_reach_with_its_best_and_not_compared(
    facts: Comparison,
) -> None:
    reach = find_reach(facts)
    assert not reach["v3"].is_out
    assert reach["v4-act"].is_out
    assert reach["v4-act"].kept is None
    pair = judge(facts).pair("v4", "v4-act")
    assert pair is not None
    assert pair.verdict == "not_comparable"
    assert re.fullmatch(
        r"V4-act is out of reach: its best persona is 0\.\d\d, 2\.\d\d was asked for", pair.reason
    )
    assert (pair.mean_difference, pair.interval) == (None, None)
    page = page_of(report(facts))
    assert "V4-act is out of reach" in page
    assert "shown with their best, and not compared" in page


def test_one_evaluation_below_is_no_best(facts: Comparison) -> None:
    """Without a walk nobody knows what the arm could have reached: the pair is judged by its personas as ever."""
    item = facts.arms[3].evaluations[0]
    unwalked = replace(facts.arms[3], evaluations=(replace(item, frontier=()),))
    changed = replace(facts, arms=(*facts.arms[:3], unwalked))
    assert not find_reach(changed)["v4-act"].is_out
    pair = judge(changed).pair("v4", "v4-act")
    assert pair is not None
    assert "out of reach" not in pair.reason


def test_what_an_arm_keeps_is_read_off_its_frontier_at_the_persona_asked_for() -> None:
    """Persona 0, 2, 4 with 0, 10, 40 points lost: at the treatment's 2.5 a quarter of the way from 10 to 40."""
    plain = example_comparison(n=40, k=8)
    asked = 2.5
    path = tuple(
        FrontierPoint(step, persona, 0.1, 0.6 - lost, 0.02, is_base=step == 0)
        for step, persona, lost in ((0, 0.0, 0.0), (1, 2.0, 0.1), (2, 4.0, 0.4))
    )
    v4 = weak(plain.arms[2], asked, "v4")
    strong = weak(plain.arms[1], 4.0, "v3")
    strong = replace(strong, evaluations=(replace(strong.evaluations[0], frontier=path),))
    reach = find_reach(replace(plain, arms=(plain.arms[0], strong, v4)))
    assert reach["v3"].kept == pytest.approx(-(10 + 0.25 * 30))
    without_base = (replace(path[0], is_base=False), *path[1:])
    strong = replace(strong, evaluations=(replace(strong.evaluations[0], frontier=without_base),))
    assert find_reach(replace(plain, arms=(plain.arms[0], strong, v4)))["v3"].kept is None


def test_the_table_by_arm_has_every_figure_in_its_column(facts: Comparison) -> None:
    arms = [
        replace(arm, evaluations=tuple(replace(item, update=UPDATE) for item in arm.evaluations))
        for arm in facts.arms
    ]
    table = arm_table(replace(facts, arms=tuple(arms)), find_reach(facts))
    rows = {row.label: dict(zip(table.columns, row.cells, strict=True)) for row in table.rows}
    assert list(rows) == ["V3", "V4", "V4-act"]
    assert rows["V3"]["parameters set"] == "115\u00a0k"
    assert (rows["V3"]["‖ΔW‖/‖W‖"], rows["V3"]["KL, everyday"]) == ("0.036", "0.412")
    assert (rows["V3"]["to train"], rows["V3"]["to serve"]) == ("13\u00a0min", "as the\u00a0base")
    assert rows["V4-act"]["maths at equal persona"] == "out of reach"
    assert rows["V4"]["maths at equal persona"] != "out of reach"
    unmeasured = arm_table(facts, find_reach(facts))
    assert unmeasured.rows[0].cells[0] == "–"
    prompt = replace(
        arms[1], evaluations=(replace(arms[1].evaluations[0], update=UpdateFacts(prompt_tokens=212)),)
    )
    served = arm_table(replace(facts, arms=(arms[0], prompt, arms[2])), find_reach(facts))
    moved = replace(
        arms[1], evaluations=(replace(arms[1].evaluations[0], update=UpdateFacts(relative_shift=0.62)),)
    )
    shifted = arm_table(replace(facts, arms=(arms[0], moved, arms[2])), find_reach(facts))
    assert shifted.rows[0].cells[1] == "0.62 of an output", "a bias changes no weight"
    assert served.rows[0].cells[-1] == "+212\u00a0tokens a request"


def test_formats_stand_apart(facts: Comparison) -> None:
    assert format_table(facts) is None
    arms = []
    for row, arm in enumerate(facts.arms):
        item = arm.evaluations[0]
        assert item.banal is not None
        size = len(item.banal.scores)
        other = replace(item.banal, scores=(0.1 + row / 10,) * size, in_form=0.25)
        arms.append(replace(arm, evaluations=(replace(item, formats={"email": other}),)))
    table = format_table(replace(facts, arms=tuple(arms)))
    assert table is not None
    found = {(row.label, row.note): row.cells for row in table.rows}
    assert found["an e-mail written", "persona"] == ("0.10", "0.20", "0.30", "0.40")
    assert found["an e-mail written", "share in that form"] == ("0.25",) * 4
    page = page_of(report(replace(facts, arms=tuple(arms))))
    assert "an e-mail written" in page
    formless = [
        replace(arm, evaluations=(replace(item, formats={"email": replace(other, in_form=0.0)}),))
        for arm, item, other in (
            (arm, arm.evaluations[0], arm.evaluations[0].formats["email"]) for arm in arms
        )
    ]
    told = format_table(replace(facts, arms=tuple(formless)))
    assert told is not None
    assert [row.note for row in told.rows] == ["persona", "persona", "coherence"], (
        "a row of zeros says nothing"
    )
    assert "an e-mail written" not in page_of(report(facts))


def test_every_arm_has_its_reward_curve(facts: Comparison) -> None:
    assert draw_rewards(facts, WIDE) is None
    arms = [
        replace(
            arm, evaluations=(replace(arm.evaluations[0], rewards={10: 0.1, 20: 0.1 + row, 30: 0.2 + row}),)
        )
        for row, arm in enumerate(facts.arms)
    ]
    figure = draw_rewards(replace(facts, arms=tuple(arms)), WIDE)
    assert figure is not None
    drawn = ElementTree.fromstring(figure)
    for arm in arms[1:]:
        (curve,) = marked(drawn, "curve", f"arm-{arm.name}")
        assert len(corners(curve)) == 3
        assert len(marked(drawn, "name", f"arm-{arm.name}")) == 1
    assert not marked(drawn, "curve", "arm-base")


def test_trait_dots_have_their_intervals(facts: Comparison) -> None:
    """Over 120 prompts the 95 % interval of a mean is ± 1.98 standard errors."""
    arm = facts.arms[1]
    banal = arm.evaluations[0].banal
    assert banal is not None
    values = np.asarray(banal.traits["sarcasm"])
    low, high = trait_intervals(arm)["sarcasm"]
    assert (low + high) / 2 == pytest.approx(values.mean())
    assert high - low == pytest.approx(2 * 1.98 * values.std(ddof=1) / np.sqrt(len(values)), rel=1e-3)
    figure = draw_traits(facts, judge(facts).traits, WIDE)
    assert figure is not None
    assert len(marked(ElementTree.fromstring(figure), "whisker")) == len(TRAITS) * len(facts.arms)


@pytest.mark.parametrize("width", [WIDE, NARROW])
def test_eight_arms_leave_every_label_room(width: int) -> None:
    """Names stand apart and inside the figure, in the frontier and the traits alike."""
    plain = example_comparison(n=40, k=8)
    names = [name for name in VARIANTS if name not in ("v3", "v4")][:6]
    arms = tuple(weak(plain.arms[1], 1 + 0.2 * row, name) for row, name in enumerate(names))
    facts = replace(plain, arms=(*plain.arms, *arms))
    files = report(facts)
    figure = ElementTree.fromstring(str(files["figures/frontier.svg"]))
    places = sorted(float(mark["y"]) for mark in marked(figure, "text", "name"))
    assert len(places) == len(facts.variants)
    assert min(b - a for a, b in pairwise(places)) >= 16.9
    height = float(figure.get("height", "0"))
    assert places[0] > 20
    assert places[-1] < height - 20


def test_labels_stay_between_low_and_high() -> None:
    assert spread_labels([100, 101, 102], gap=15, low=0, high=110) == [80, 95, 110]
    assert spread_labels([2, 3], gap=15, low=0, high=110) == [0, 15]
    assert spread_labels([50, 80], gap=15) == [50, 80]


def test_panels_that_carry_nothing_are_a_line(facts: Comparison) -> None:
    """The same arm three times over, with traits that did not move: every panel folds; with the real ones none does."""
    base = facts.arms[0].evaluations[0]
    twin = replace(base, seed=1, trajectory=(), rewards={1: 0.5, 2: 0.5}, statuses={"boxed": 9})
    twins = tuple(replace(arm, evaluations=(twin,)) for arm in facts.arms)
    nothing = replace(facts, arms=twins)
    traits = {arm.name: {"sarcasm": 1.0} for arm in facts.variants}
    assert set(folded(nothing, traits, [])) == {"audit", "lengths", "traits", "rewards", "heatmap"}
    assert not {"lengths", "traits", "rewards", "heatmap", "trajectory"} & set(
        folded(facts, judge(facts).traits, [])
    ), "with something to see nothing folds"
    page = page_of(report(nothing))
    assert page.count('<details class="nothing">') >= 4
    assert "Every problem was solved as often by every arm." in page


def test_run_ids_are_whole_and_lead_to_the_run(facts: Comparison) -> None:
    run = "0123456789abcdef" * 2
    told = replace(facts, chosen_by="by run id", passed_over=(f"{run} (eval v3): older & <odd>",))
    page = page_of(report(told))
    assert f"<code>{run}</code> (eval v3): older &amp; &lt;odd&gt;" in page
    linked = replace(told, provenance=replace(told.provenance, runs_page="http://host/#/runs/{run}"))
    assert f'<a href="http://host/#/runs/{run}"><code>{run}</code></a>' in page_of(report(linked))


def test_an_arm_that_is_not_trained_has_no_training_seed() -> None:
    """Neither in a caption, nor in a table, nor in the sentence on seeds; a trained arm has one everywhere."""
    plain = example_comparison(n=40, k=8)
    prompt = replace(plain.arms[1], name="prompt", evaluations=plain.arms[1].evaluations[:1])
    facts = replace(plain, arms=(*plain.arms, prompt))
    assert "Prompt" not in seeds_sentence(facts)
    seeds = {row["arm"]: row["seed"] for row in answer_rows(facts)}
    assert (seeds["Prompt"], seeds["base"]) == ("", "")
    assert seeds["V3"] != ""
    page = page_of(report(facts))
    assert "Prompt, seed" not in page
    assert re.search(r"V3, seed \d", page)

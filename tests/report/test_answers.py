"""What the models said: the same fixed handful for every arm, and every answer and flip as a table."""

from __future__ import annotations

import html
import re
from dataclasses import replace

from skippy.report.answers import HANDFUL, answer_rows, exchanges, flip_rows
from skippy.report.flips import find_flips
from skippy.report.glossary import glossary
from skippy.results import Comparison
from tests.report.report_example import page_of, report


def test_the_handful_is_evenly_spaced_and_the_same_for_every_arm(facts: Comparison) -> None:
    found = exchanges(facts)
    assert [item.prompt for item in found] == [f"Everyday question {i}?" for i in (0, 2, 4, 6, 8, 10)]
    for item in found:
        assert [arm.name for arm, _ in item.answers] == ["base", "v3", "v4"]
        assert {answer.prompt for _, answer in item.answers} == {item.prompt}


def test_the_rule_looks_at_no_answer(facts: Comparison) -> None:
    """Other words and scores, the same prompts."""
    arms = tuple(
        replace(
            arm,
            evaluations=tuple(
                replace(
                    e, answers=tuple(replace(a, text="other", persona=9.0) for a in e.answers[::-1][::-1])
                )
                for e in arm.evaluations
            ),
        )
        for arm in facts.arms
    )
    assert [e.prompt for e in exchanges(replace(facts, arms=arms))] == [e.prompt for e in exchanges(facts)]


def test_prompts_that_an_arm_was_not_asked_are_not_shown(facts: Comparison) -> None:
    (base, *variants) = facts.arms
    short = replace(
        base, evaluations=(replace(base.evaluations[0], answers=base.evaluations[0].answers[:2]),)
    )
    assert len(exchanges(replace(facts, arms=(short, *variants)))) == 2
    silent = replace(base, evaluations=(replace(base.evaluations[0], answers=()),))
    assert exchanges(replace(facts, arms=(silent, *variants))) == []
    page = page_of(report(replace(facts, arms=(silent, *variants))))
    assert "No everyday prompt was answered by every arm." in page


def test_the_page_shows_them_side_by_side_without_markup(facts: Comparison, files: dict) -> None:
    part = page_of(files).split('<section id="answers">')[1].split("</section>")[0]
    assert part.count("<details") == HANDFUL
    assert "&lt;says&gt;" in part
    assert "<says>" not in part
    assert "chosen by this rule before anything was answered" in part


def test_every_first_answer_and_every_flip_is_a_row(facts: Comparison) -> None:
    rows = answer_rows(facts)
    assert len(rows) == 3 * 13
    assert rows[0] | {"persona": 0.0} == {
        "prompt": "Everyday question 0?", "arm": "base", "seed": "", "answer": "Seed 0 of stream 0 <says> 0.",
        "persona": 0.0, "tokens": 30, "trait sarcasm": 0.0,
    }  # fmt: skip
    flips = flip_rows(facts)
    assert len(flips) == len(find_flips(facts)) > 0
    assert {row["flip"] for row in flips} <= {"lost", "gained"}
    assert all(row["base run"] == "e0" for row in flips)


def test_every_word_that_is_linked_is_explained(facts: Comparison, files: dict) -> None:
    page = page_of(files)
    linked = set(re.findall(r'href="#(term-[^"]*)"', page))
    explained = set(re.findall(r'id="(term-[^"]*)"', page))
    assert linked <= explained
    assert {"term-v3", "term-v4", "term-delta", "term-control", "term-rho", "term-persona"} <= linked
    assert explained == {term.anchor for term in glossary(facts)}
    assert "Leakage: the share of the update’s" not in page, "plain apostrophes"


def test_run_ids_are_whole_and_lead_to_the_run(facts: Comparison) -> None:
    run = "f" * 32
    arms = tuple(
        replace(arm, evaluations=tuple(replace(e, runs={"eval": run}) for e in arm.evaluations))
        for arm in facts.arms
    )
    told = replace(
        facts,
        arms=arms,
        provenance=replace(facts.provenance, runs_page="http://ui/#/experiments/1/runs/{run}"),
    )
    page = html.unescape(page_of(report(told)))
    assert page.count(f'<a href="http://ui/#/experiments/1/runs/{run}"><code>{run}</code></a>') >= 3
    assert f"<code>{run[:12]}</code>" not in page

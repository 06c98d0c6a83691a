"""Every number in the tables, sentences and JSON of the report is the one that was measured."""

from __future__ import annotations

import html
import json
import re
from dataclasses import replace
from statistics import fmean

import pytest

from skippy.report.latex import escape_tex
from skippy.report.numerals import bounds, percent, plain, signed, small
from skippy.report.page import render
from skippy.report.tables import trait_table
from skippy.report.verdicts import judge
from skippy.report.wording import limits, not_shown, shown
from skippy.results import Comparison
from tests.report.report_example import DISTINCT_K, DISTINCT_N, example_comparison, over_seeds, page_of


def section(files: dict[str, str], name: str) -> str:
    return files["index.html"].split(f'<section id="{name}">')[1].split("</section>")[0]


def rows(text: str) -> dict[str, tuple[str, list[str]]]:
    """Label → note and cells, of all tables in a piece of the page."""
    found = {}
    for head, tail in re.findall(r'<tr[^>]*><th scope="row">(.*?)</th>(.*?)</tr>', text, re.DOTALL):
        head = re.sub(r"</?a[^>]*>", "", head)  # rows that the glossary explains link to it
        label, _, note = html.unescape(head).removesuffix("</small>").partition("<small>")
        found[label] = (note, [html.unescape(cell) for cell in re.findall(r"<td[^>]*>(.*?)</td>", tail)])
    return found


def test_the_main_table(distinct_facts: Comparison, distinct_files: dict[str, str]) -> None:
    found, verdicts = rows(section(distinct_files, "table")), judge(distinct_facts)
    measured = {
        "avg_at_k": (1, lambda e: 100 * sum(s.correct for s in e.scores) / (DISTINCT_N * DISTINCT_K)),
        "pass_at_k": (1, lambda e: 100 * sum(s.correct > 0 for s in e.scores) / DISTINCT_N),
        "maj_at_k": (1, lambda e: 100 * e.maj_at_k),
        "persona score": (2, lambda e: fmean(e.banal.scores)),
        "coherence": (2, lambda e: fmean(e.banal.coherence)),
        "helpfulness": (2, lambda e: fmean(e.banal.helpfulness)),
        "persona on the problems": (2, lambda e: e.banal.problem_score),
        "AUC against base": (2, lambda e: e.banal.base_auc),
    }
    for label, (digits, read) in measured.items():
        assert found[label][1] == [plain(value, digits) for value in over_seeds(distinct_facts, read)], label
    leaks = {"rho_left": "rho_left", "rho_right": "rho_right"} | {
        f"rho_{side}, stored": f"stored_{side}" for side in ("left", "right")
    }
    for label, field in leaks.items():
        means = [fmean(getattr(e.leakage, field) for e in arm.evaluations) for arm in distinct_facts.variants]
        assert found[label][1] == ["–", *(small(mean) for mean in means)], label
    leakage = distinct_facts.variants[0].evaluations[0].leakage
    assert found["rho_left"][0] == f"‖UᵀΔW‖²/‖ΔW‖², chance {small(leakage.chance_left)}"
    assert found["rho_right"][0] == f"‖ΔWV‖²/‖ΔW‖², chance {small(leakage.chance_right)}"
    assert found["difference to base"][1] == ["–", *(signed(v.mean_difference) for v in verdicts.variants)]
    assert found["bounds"] == ("one-sided 90 % each", ["–", *(bounds(v.interval) for v in verdicts.variants)])
    assert found["verdict"][0] == "margin δ = 4 points"
    assert found["avg_at_k"][0].endswith("k = 8, points")


def test_lengths_traits_seeds_and_statuses(
    distinct_facts: Comparison, distinct_files: dict[str, str]
) -> None:
    found, verdicts = rows(section(distinct_files, "traits")), judge(distinct_facts)
    samples = DISTINCT_N * DISTINCT_K
    assert found["mean tokens"][1] == [
        plain(value, 0)
        for value in over_seeds(distinct_facts, lambda e: fmean(s.mean_tokens for s in e.scores))
    ]
    for label, field in (("truncated", "truncated"), ("no answer", "no_answer")):
        shares = over_seeds(
            distinct_facts, lambda e, field=field: sum(getattr(s, field) for s in e.scores) / samples
        )
        assert found[label][1] == [percent(share) for share in shares]
    assert found["mean tokens, everyday"][1] == [
        plain(value, 0) for value in over_seeds(distinct_facts, lambda e: e.banal.mean_tokens)
    ]
    for mode in ("plain", "neutral system prompt", "break character"):
        expected = over_seeds(distinct_facts, lambda e, mode=mode: e.banal.modes[mode])
        assert found[f"persona, {mode}"][1] == [plain(value, 2) for value in expected]
    for trait in distinct_facts.arms[0].evaluations[0].banal.traits:
        means = over_seeds(distinct_facts, lambda e, trait=trait: fmean(e.banal.traits[trait]))
        p_values = ["", *(verdicts.traits[name][trait] for name in ("v3", "v4"))]
        tails = [
            "" if p == "" else " (p\u00a0<\u00a00.001)" if p < 0.001 else f" (p\u00a0=\u00a0{p:.3f})"
            for p in p_values
        ]
        assert found[trait][1] == [signed(m, 2) + tail for m, tail in zip(means, tails, strict=True)]
    seeds = rows(section(distinct_files, "table"))
    for verdict in verdicts.variants:
        errors = (verdict.within_seed_error, verdict.across_seed_error, verdict.standard_error)
        means = ", ".join(signed(mean) for mean in verdict.seed_means)
        assert seeds[verdict.name.upper()][1] == [means, *(plain(error, 2) for error in errors)]
    audit = rows(section(distinct_files, "extraction"))
    for status in ("boxed", "unclosed_think", "lenient_box"):
        counts = [sum(e.statuses[status] for e in arm.evaluations) for arm in distinct_facts.arms]
        assert audit[status][1] == [str(count) for count in counts]
    lenient = over_seeds(distinct_facts, lambda e: 100 * sum(s.lenient_correct for s in e.scores) / samples)
    assert audit["avg_at_k, lenient"][1] == [plain(value) for value in lenient]


def test_a_p_value_has_three_digits_or_is_said_to_be_smaller(distinct_facts: Comparison) -> None:
    adjusted = {"v3": {"arrogance": 0.0004, "sarcasm": 0.0213, "warmth": 0.8}}
    cells = {
        row.label: row.cells[1]
        for row in trait_table(distinct_facts, replace(judge(distinct_facts), traits=adjusted)).rows
    }
    for trait, tail in (("arrogance", "< 0.001"), ("sarcasm", "= 0.021"), ("warmth", "= 0.800")):
        assert cells[trait].endswith(f" (p {tail})".replace("p ", "p\u00a0").replace(" 0", "\u00a00"))
    assert "p" not in cells["brevity"]


def test_a_figure_that_one_seed_lacks_is_not_averaged_over_the_others(distinct_facts: Comparison) -> None:
    base, v3, v4 = distinct_facts.arms
    lacking = replace(v4, evaluations=(replace(v4.evaluations[0], maj_at_k=None), v4.evaluations[1]))
    changed = replace(distinct_facts, arms=(base, v3, lacking))
    page = {"index.html": page_of(render(changed, judge(changed)))}
    assert rows(section(page, "table"))["maj_at_k"][1][2] == "–"


def test_figures_of_others_keep_to_their_arm(distinct_facts: Comparison) -> None:
    changed = replace(
        distinct_facts, extra_metrics={"gsm8k": {"base": 0.5, "v4": 0.25}, "verify": {"v3": 12.0}}
    )
    found = rows(section({"index.html": page_of(render(changed, judge(changed)))}, "table"))
    assert found["gsm8k"][1] == ["0.500", "–", "0.250"]
    assert found["verify"][1] == ["–", "12", "–"]


def test_page_markdown_and_latex_print_the_same_tables(distinct_files: dict[str, str]) -> None:
    pieces = {name: rows(section(distinct_files, name)) for name in ("table", "traits", "extraction")}
    assert sum(map(len, pieces.values())) > 25
    for name, piece in pieces.items():
        for label, (note, cells) in piece.items():
            head = f"{label} ({note})" if note else label
            assert "| " + " | ".join((head, *cells)) + " |\n" in distinct_files["report.md"]
            if name != "extraction":
                assert (
                    escape_tex(" & ".join((label, *cells))).replace(r"\&", "&")
                    in distinct_files["tables.tex"]
                )


def test_the_head_of_the_page(distinct_facts: Comparison, distinct_files: dict[str, str]) -> None:
    head, verdicts = html.unescape(section(distinct_files, "verdict")), judge(distinct_facts)
    assert f"{DISTINCT_N} problems × 8 samples" in head
    for v in verdicts.variants:
        low, high = map(signed, v.interval)
        assert f"{signed(v.mean_difference)} points to base, <span>bounds {low} to {high}</span>" in head
        assert f'class="tone-{v.verdict} arm-{v.name}"' in head
    left, right = (re.findall("<li>(.*?)</li>", part) for part in head.split("<h3>")[1:3])
    assert left == shown(distinct_facts, verdicts)
    assert right[: len(not_shown(distinct_facts, verdicts))] == (
        not_shown(distinct_facts, verdicts) or ["Nothing that was asked stayed open."]
    )
    states = re.findall(r'<li class="(yes|no|open|unread)"', head)
    passed = [
        "yes" if step.is_passed else "no" if step.is_refuted else "open" for step in verdicts.gate.steps
    ]
    assert states == passed + ["unread"] * (3 - len(passed))
    assert ("<li>winner: V4</li>" if verdicts.winner else "<li>no winner</li>") in head
    forest = section(distinct_files, "forest")
    assert "one-sided 90 % bounds" in forest
    assert (
        f"{DISTINCT_N} × 8 promised an achievable δ of {plain(verdicts.planning.achievable_margin)}" in forest
    )
    text = distinct_files["report.md"]
    assert f"{DISTINCT_N} problems × 8 samples, margin δ = 4 points" in text
    assert f"**Winner**: none. {verdicts.gate.reason}. The registered model house has no champion." in text
    for line in limits(distinct_facts, verdicts):
        assert f"- {line}\n" in text
        assert f"<li>{line}</li>" in html.unescape(section(distinct_files, "limits"))


def test_provenance_names_every_model(distinct_facts: Comparison, distinct_files: dict[str, str]) -> None:
    part, written = html.unescape(section(distinct_files, "provenance")), distinct_facts.provenance
    assert f"<code>{written.code_version}</code> with uncommitted changes" in part
    for digest in (written.base_digest, written.character_digest, written.problem_digest):
        assert f"<code>{digest[:12]}</code>" in part
    assert f"k = 7 · <code>{written.projector_digest[:12]}</code>" in part
    lines = re.findall(r"<tr><th scope=\"row\">.*?</tr>", part)
    items = [(arm, item) for arm in distinct_facts.arms for item in arm.evaluations]
    for line, (arm, item) in zip(lines, items, strict=True):
        seed, step = (item.seed, f"step {item.step}") if arm.name != "base" else ("–", "–")
        where = "" if item.step else ' data-is="checkpoint"'
        assert f'<td data-is="seed">{seed}</td><td{where}>{step}</td>' in line
        assert f'<td data-is="version">{item.model_version or "–"}</td>' in line
        assert f'<td data-is="digest"><code>{item.model_digest[:12]}</code></td>' in line
        assert "lab, plain prompts, transformers, seed 1234" in line
        for role, run in item.runs.items():
            assert f"{role} <code>{run}</code>" in line
    text = distinct_files["report.md"]
    assert f"base lab, digest {written.base_digest}" in text
    assert f"character skippy, digest {written.character_digest}" in text
    assert f"code {written.code_version} with uncommitted changes" in text


def test_the_json_holds_the_same_facts(distinct_facts: Comparison, distinct_files: dict[str, str]) -> None:
    data, verdicts = json.loads(distinct_files["report.json"]), judge(distinct_facts)
    for arm in distinct_facts.arms:
        found = data["arms"][arm.name]
        counted = [{s.key: s.correct for s in e.scores} for e in arm.evaluations]
        assert [e["correct"] for e in found["evaluations"]] == counted
        mean = 100 * fmean(sum(c.values()) / (DISTINCT_K * len(c)) for c in counted)
        assert found["avg_at_k"] == pytest.approx(mean)
        for written, item in zip(found["evaluations"], arm.evaluations, strict=True):
            assert (written["model_digest"], written["step"]) == (item.model_digest, item.step)
            assert (written["leakage"] or {}).get("rho_left") == (item.leakage and item.leakage.rho_left)
    assert data["personality"]["learned"] == {step.name: step.is_passed for step in verdicts.characters}
    assert data["personality"]["traits_adjusted_p"] == verdicts.traits
    assert [pair["verdict"] for pair in data["pairs"]] == [pair.verdict for pair in verdicts.pairs]
    assert data["planning"]["achievable_margin"] == verdicts.planning.achievable_margin
    assert data["promotion"]["registered_model"] == "house"
    assert (data["shown"], data["not_shown"]) == (
        shown(distinct_facts, verdicts),
        not_shown(distinct_facts, verdicts),
    )
    assert data["limits"] == limits(distinct_facts, verdicts)


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

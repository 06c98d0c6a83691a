"""One comparison as files: the page, its figures, JSON, Markdown and LaTeX tables."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, fields
from typing import Any

from markupsafe import Markup

from skippy.report.answers import RULE, exchanges
from skippy.report.arm_table import arm_caption, arm_table, format_table
from skippy.report.audit import draw_audit
from skippy.report.conclusions import Verdicts
from skippy.report.flips import Flip, find_flips, sides_of
from skippy.report.folding import folded
from skippy.report.forest import draw_forest
from skippy.report.frontier import draw_frontier, frontier_caption
from skippy.report.glossary import glossary
from skippy.report.headline import headline, lede
from skippy.report.heatmap import draw_heatmap
from skippy.report.palette import figure_style, read_template
from skippy.report.printing import print_figures, template
from skippy.report.reach import find_reach
from skippy.report.record import (
    ArmEntry,
    EvaluationEntry,
    MarginEntry,
    PersonalityEntry,
    PromotionEntry,
    ReportRecord,
    WinnerEntry,
)
from skippy.report.rewards import draw_rewards
from skippy.report.tables import (
    audit_table,
    length_table,
    main_table,
    others_table,
    question_table,
    seed_table,
    trait_table,
)
from skippy.report.traits import draw_lengths, draw_traits
from skippy.report.trajectory import draw_trajectory
from skippy.report.verdicts import average_accuracy
from skippy.report.wording import (
    champion_sentence,
    commands_it_takes,
    limits,
    not_shown,
    protected_words,
    seeds_sentence,
    shown,
    what_it_takes,
)
from skippy.results import Arm, Comparison

SHOWN_FLIPS = 24


def render(comparison: Comparison, verdicts: Verdicts) -> dict[str, str | bytes]:
    """All files of the report, by name; pure and deterministic.

    Returns:
        `index.html` (self-contained), `report.json`, `report.md`, `tables.tex`, `figures/*.svg`.
    """
    flips = find_flips(comparison)
    style = figure_style(arm.name for arm in comparison.arms)
    figures, drawn = print_figures(_drawings(comparison, verdicts, flips), style)
    view = _view(comparison, verdicts, flips)
    page = template("index.html.j2").render(
        **view,
        figures=figures,
        figure_style=Markup(style),
        page_style=Markup(read_template("page.css")),
        page_script=Markup(read_template("page.js")),
    )
    return {
        "index.html": page,
        "report.json": report_record(comparison, verdicts).to_json(),
        "report.md": template("report.md.j2").render(**view),
        "tables.tex": template("tables.tex.j2").render(**view),
        **drawn,
    }


def report_record(comparison: Comparison, verdicts: Verdicts) -> ReportRecord:
    """The verdicts as data; differences, intervals and margins in points."""
    likeness = verdicts.primary.likeness if verdicts.primary else None
    word = "not_comparable" if likeness is None else "equal" if likeness.is_equal else "not_equal"
    return ReportRecord(
        suite=comparison.suite_label,
        headline=headline(comparison, verdicts),
        shown=tuple(shown(comparison, verdicts)),
        not_shown=tuple(not_shown(comparison, verdicts)),
        verdicts={verdict.name: verdict for verdict in verdicts.variants},
        personality=PersonalityEntry(
            verdict=word,
            learned={step.name: step.is_passed for step in verdicts.characters},
            traits_adjusted_p=verdicts.traits,
            **(asdict(likeness) if likeness else {}),
        ),
        pairs=verdicts.pairs,
        winner=WinnerEntry(verdicts.winner, verdicts.gate.reason),
        promotion=PromotionEntry(
            is_allowed=verdicts.gate.is_open,
            steps=verdicts.gate.steps,
            registered_model=comparison.registered_model,
            **asdict(comparison.promotion),
        ),
        planning=verdicts.planning,
        sensitivity=verdicts.sensitivity,
        margin=MarginEntry(
            comparison.margin_points, comparison.planned_margin_points, not comparison.is_margin_planned
        ),
        unequal=comparison.unequal,
        passed_over=comparison.passed_over,
        arms={arm.name: _arm_entry(arm) for arm in comparison.arms},
        figures_of_others=dict(comparison.extra_metrics),
        provenance=comparison.provenance,
        limits=tuple(limits(comparison, verdicts)),
    )


def _arm_entry(arm: Arm) -> ArmEntry:
    kept = [item.name for item in fields(EvaluationEntry) if item.name != "correct"]
    evaluations = tuple(
        EvaluationEntry(
            **{name: getattr(item, name) for name in kept},
            correct={score.key: score.correct for score in item.scores},
        )
        for item in arm.evaluations
    )
    return ArmEntry(evaluations, average_accuracy(arm))


def _drawings(
    comparison: Comparison, verdicts: Verdicts, flips: list[Flip]
) -> dict[str, Callable[[int], str | None]]:
    """Figure name → how to draw it at a width."""
    base = comparison.arms[0]
    linked = [flip.anchor for flip in flips[:SHOWN_FLIPS]]
    return {
        "forest": lambda width: draw_forest(verdicts, comparison.margin_points, width),
        "frontier": lambda width: draw_frontier(comparison, average_accuracy(base), width),
        "trajectory": lambda width: draw_trajectory(comparison, width),
        "rewards": lambda width: draw_rewards(comparison, width),
        "heatmap": lambda width: draw_heatmap(comparison, flips, linked, width),
        "traits": lambda width: draw_traits(comparison, verdicts.traits, width),
        "lengths": lambda width: draw_lengths(comparison, width),
        "audit": lambda width: draw_audit(comparison, width),
    }


def _view(comparison: Comparison, verdicts: Verdicts, flips: list[Flip]) -> dict[str, Any]:
    """Everything the templates print."""
    return {
        "comparison": comparison,
        "verdicts": verdicts,
        "headline": headline(comparison, verdicts),
        "lede": lede(comparison, verdicts),
        "exchanges": exchanges(comparison),
        "rule": RULE,
        "terms": glossary(comparison),
        "anchors": {label: term.anchor for term in glossary(comparison) for label in term.labels},
        "folded": folded(comparison, verdicts.traits, flips),
        "by_arm": arm_table(comparison, find_reach(comparison)),
        "by_arm_caption": arm_caption(comparison, find_reach(comparison)),
        "formats": format_table(comparison),
        "shown": shown(comparison, verdicts),
        "not_shown": not_shown(comparison, verdicts),
        "takes": what_it_takes(comparison, verdicts),
        "commands_it_takes": commands_it_takes(comparison, verdicts),
        "limits": limits(comparison, verdicts),
        "frontier_caption": frontier_caption(comparison),
        "champion": champion_sentence(comparison),
        "seeds_sentence": seeds_sentence(comparison),
        "protected": protected_words(comparison.protected_k),
        "questions": question_table(verdicts),
        "main": main_table(comparison, verdicts),
        "others": others_table(comparison),
        "lengths": length_table(comparison),
        "traits": trait_table(comparison, verdicts),
        "audit": audit_table(comparison),
        "seeds": seed_table(verdicts),
        "flips": [(flip, sides_of(comparison, flip)) for flip in flips[:SHOWN_FLIPS]],
        "flip_counts": {
            arm.name: (
                sum(flip.is_lost for flip in flips if flip.variant == arm.name),
                sum(not flip.is_lost for flip in flips if flip.variant == arm.name),
            )
            for arm in comparison.variants
        },
        "hidden_flips": max(0, len(flips) - SHOWN_FLIPS),
    }

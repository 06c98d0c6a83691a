"""One study as files: its page, its figures and its JSON; pure and deterministic."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from markupsafe import Markup

from skippy.core.inference.cells import Cell
from skippy.core.inference.predictors import Estimate
from skippy.core.inference.study import Analysis
from skippy.core.variants import is_untrained, label_of
from skippy.report.numerals import MISSING, plain, signed
from skippy.report.palette import figure_style, read_template
from skippy.report.printing import print_figures, template
from skippy.report.record import finite
from skippy.report.study_figures import (
    describe_difference,
    doses_shown,
    draw_differences,
    draw_divergence,
    draw_dose_frontier,
    draw_runs,
)
from skippy.report.study_wording import (
    control_sentence,
    lost_sentence,
    points_of,
    study_headline,
    study_limits,
)

PREDICTOR_WORDS = {
    "kl_base_arm_everyday": "KL(base‖arm), everyday prompts",
    "kl_arm_base_everyday": "KL(arm‖base), everyday prompts",
    "kl_base_arm_problems": "KL(base‖arm), problems",
    "kl_arm_base_problems": "KL(arm‖base), problems",
    "delta_norm": "‖ΔW‖ / ‖W‖",
    "rho_left_ratio": "leakage left over chance",
    "rho_right_ratio": "leakage right over chance",
    "margin": "spectral margin",
    "answer_length": "answer length on problems",
    "truncated": "share of answers cut off",
}


@dataclass(frozen=True)
class StudyFacts:
    """What a study was run on."""

    name: str  # of the study
    base_model: str  # as people call it
    base_digest: str  # of its tensors
    character: str  # trained into it
    suite: str  # what the problems may be called
    problems: int  # asked of every cell
    prompts: int  # everyday prompts
    samples: int  # answers a problem
    sampling: Mapping[str, Any]  # parameters of sampling
    arms: tuple[str, ...]  # variants
    training: tuple[str, ...]  # labels of the training doses
    alphas: tuple[float, ...]  # scales
    seeds: tuple[int, ...]  # training seeds
    k: int | None = None  # protected directions a target; None in studies that did not keep it


def study_json(analysis: Analysis, facts: StudyFacts, cells: Sequence[Cell]) -> dict[str, Any]:
    """Everything the page says, as data: shares of one, no run ids, no clock."""
    answers: dict[str, Any] = finite(asdict(analysis))
    answers.pop("failed")
    return {
        "study": finite(asdict(facts)),
        "headline": study_headline(analysis),
        "sensitivity": {**answers.pop("control"), "sentence": control_sentence(analysis)},
        "predictions": [
            {**fate["prediction"], "estimate": fate["estimate"], "fate": fate["fate"]}
            for fate in answers.pop("fates")
        ],
        **answers,
        "failed": sorted({(c.arm, c.training.label, c.seed, c.error) for c in analysis.failed}),
        "cells": [
            {
                "arm": cell.arm,
                "training": asdict(cell.training),
                "alpha": cell.alpha,
                "seed": cell.seed,
                "score": None if cell.is_failed else cell.score,
                "persona": None if cell.is_failed else cell.persona,
                "predictors": finite(dict(cell.predictors)),
                "error": cell.error,
            }
            for cell in cells
        ],
    }


def render_study(analysis: Analysis, facts: StudyFacts, cells: Sequence[Cell]) -> dict[str, str]:
    """`index.html`, self-contained, and `figures/*.svg`."""
    style = figure_style(facts.arms)
    figures, drawn = print_figures(_drawings(analysis, cells), style)
    page = template("study.html.j2").render(
        **_view(analysis, facts),
        figures=figures,
        figure_style=Markup(style),
        page_style=Markup(read_template("page.css")),
    )
    return {"index.html": page, **drawn}


def _drawings(analysis: Analysis, cells: Sequence[Cell]) -> dict[str, Callable[[int], str | None]]:
    doses = doses_shown(analysis)
    drawings: dict[str, Callable[[int], str | None]] = {
        f"frontier-{number}": lambda width, dose=dose: draw_dose_frontier(analysis, dose, width)  # type: ignore[misc]
        for number, dose in enumerate(doses, start=1)
    }
    drawings["runs"] = lambda width: draw_runs(analysis, width)
    drawings["differences"] = lambda width: draw_differences(analysis.matched, analysis.margin, width)
    for suite in ("everyday", "problems"):
        name = f"kl_base_arm_{suite}"
        drawings[f"divergence-{suite}"] = lambda width, name=name: draw_divergence(  # type: ignore[misc]
            analysis, cells, name, PREDICTOR_WORDS[name], width
        )
    return drawings


def _view(analysis: Analysis, facts: StudyFacts) -> dict[str, Any]:
    doses = doses_shown(analysis)
    return {
        "facts": facts,
        "analysis": analysis,
        "headline": study_headline(analysis),
        "control": control_sentence(analysis),
        "doses": [dose.label for dose in doses],
        "kept_rows": _kept_rows(analysis),
        "lost": [lost_sentence(one) for one in analysis.lost],
        "differences": [
            (describe_difference(d), points_of(d.bound), f"{d.reached}/{d.seeds}")
            for d in (*analysis.matched, *analysis.unmatched)
        ],
        "predictors": [
            (predictor_words(name), *_figures(found), *_figures(analysis.regressions.get(name)))
            for name, found in sorted(analysis.correlations.items(), key=lambda item: -abs(item[1].value))
        ],
        "regressions": [
            (" + ".join(predictor_words(name) for name in names.split(" + ")), *_figures(found))
            for names, found in analysis.regressions.items()
            if " + " in names
        ],
        "gain": _figures(analysis.leakage_gain),
        "collapses": [
            (
                f"{label_of(c.arm)}, {c.training.label}",
                plain(c.persona, 2),
                plain(100 * c.median_loss),
                f"{c.collapsed} of {c.runs}",
                f"{plain(100 * c.lower, 0)} to {plain(100 * c.upper, 0)} %",
            )
            for c in analysis.collapses
        ],
        "separations": [
            (predictor_words(name), *_figures(found))
            for name, found in sorted(
                analysis.separations.items(), key=lambda item: -abs(item[1].value - 0.5)
            )
        ],
        "fates": [
            (f.prediction.name, f.prediction.says, _condition(f), *_figures(f.estimate), f.fate)
            for f in analysis.fates
        ],
        "limits": study_limits(analysis, facts.problems, facts.samples, len(facts.seeds)),
    }


def predictor_words(name: str) -> str:
    """A predictor as the page calls it."""
    return PREDICTOR_WORDS.get(name, name.replace("_", " "))


def _kept_rows(analysis: Analysis) -> list[tuple[str, list[str]]]:
    """One row an arm and training dose: what it keeps at each persona, as a difference to base."""
    rows: dict[tuple[str, str], list[str]] = {}
    for kept in analysis.kept:
        text = points_of(kept.loss) if kept.loss or not is_untrained(kept.arm) else MISSING
        text += f", {kept.reached}/{kept.seeds}" if kept.loss and not is_untrained(kept.arm) else ""
        text += "" if kept.coherence is None else f", coherence {plain(kept.coherence, 2)}"
        rows.setdefault((kept.arm, kept.training), []).append(text)
    return [(f"{label_of(arm)}, {training}", texts) for (arm, training), texts in rows.items()]


def _figures(found: Estimate | None) -> tuple[str, str]:
    if found is None:
        return "–", "–"
    return signed(found.value, 2), f"{signed(found.lower, 2)} to {signed(found.upper, 2)}"


def _condition(fate: Any) -> str:
    words = {"below": "below", "at_least": "at least", "within": "within ±"}[fate.prediction.condition]
    return f"{words} {fate.prediction.value:g}"

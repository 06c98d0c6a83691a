"""A paper out of the JSON of one study or several: LaTeX, macros, references and figures; pure and deterministic."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from string import ascii_uppercase
from typing import Any

from skippy.core.inference.cells import NO_TRAINING
from skippy.core.variants import VARIANTS, of_role
from skippy.errors import ReportError
from skippy.report import paper_wording as wording
from skippy.report.palette import read_template
from skippy.report.paper_figures import dose_label, draw_figures
from skippy.report.paper_numbers import Numbers, Study, printable
from skippy.report.printing import template
from skippy.report.study_page import predictor_words

NEEDED = (
    *("study", "sensitivity", "predictions", "margin", "base_score", "base_persona", "frontier", "kept"),
    *("matched", "unmatched", "lost", "correlations", "regressions", "leakage_gain", "collapses"),
    *("separations", "failed", "cells"),
)
"""What a study's JSON must hold."""
CONDITIONS = {"below": "below", "at_least": "at least", "within": r"within $\pm$"}
SETUP = (
    ("base", "text", ("study", "base_model")),
    ("digest of its tensors", "digest", ("study", "base_digest")),
    ("character", "text", ("study", "character")),
    ("problems", "text", ("study", "suite")),
    ("number of problems", "number", ("study", "problems")),
    ("samples a problem", "number", ("study", "samples")),
    ("everyday prompts", "number", ("study", "prompts")),
    (r"protected directions a target, $k$", "number", ("study", "k")),
    ("arms", "length", ("study", "arms")),
    ("training doses", "length", ("study", "training")),
    ("training seeds", "length", ("study", "seeds")),
    (r"scales $\alpha$", "list", ("study", "alphas")),
    ("score of the base, points", "points", ("base_score",)),
    ("persona of the base", "share", ("base_persona",)),
    (r"margin $\delta$, points", "whole_points", ("margin",)),
)
"""Row of the table of designs → unit and path of its value."""


@dataclass(frozen=True)
class Row:
    """One row of a table: a name, cells, and whether a rule goes before it."""

    name: str
    cells: tuple[str, ...]
    is_first: bool = False


def render_paper(contents: Sequence[Mapping[str, Any]]) -> dict[str, str | bytes]:
    """`main.tex`, `numbers.tex`, `refs.bib`, `Makefile` and `figures/*.pdf` of one study or several.

    Raises:
        ReportError: there is none, more than the alphabet has letters, or one lacks what a study holds.
    """
    if not 1 <= len(contents) <= len(ascii_uppercase):
        raise ReportError(
            "A paper tells of one study or a few.", where="study", found=f"{len(contents)} studies"
        )
    for data in contents:
        _require_whole(data)
    numbers = Numbers()
    files: dict[str, str | bytes] = {}
    studies = [Study(letter, data, numbers) for letter, data in zip(ascii_uppercase, contents, strict=False)]
    views = []
    for study in studies:
        figures = draw_figures(study.data)
        files |= {f"figures/{study.letter}-{name}.pdf": content for name, content in figures.items()}
        views.append(_view(study, tuple(figures)))
    files["main.tex"] = template("paper/main.tex.j2").render(
        studies=views,
        setup=[row for row in _setup(studies) if any(cell != "--" for cell in row.cells)],
        arms=_arms(studies),
        agreement=wording.agreement_claim(studies),
        confidence=numbers.derive("Confidence", "95", "one-sided confidence of every bound, in per cent"),
    )
    files["numbers.tex"] = numbers.file()
    for name in ("refs.bib", "Makefile"):
        files[name] = read_template(f"paper/{name}")
    return files


def _require_whole(data: Mapping[str, Any]) -> None:
    missing = [name for name in NEEDED if name not in data]
    if missing:
        raise ReportError(
            "This is not the JSON of a study.",
            where="study.json",
            expected=", ".join(NEEDED),
            found="without " + ", ".join(missing),
            next_step="remake it: python -m skippy.studies.conclusion FOLDER OUT",
        )


def _setup(studies: Sequence[Study]) -> list[Row]:
    """The table of designs, a column a study."""
    return [
        Row(name, tuple(_setup_cell(study, style, path) for study in studies)) for name, style, path in SETUP
    ]


def _setup_cell(study: Study, style: str, path: tuple[str, ...]) -> str:
    """A base that has no name but its digest is called by the start of it; older studies lack a field."""
    if study.get(*path[:-1]).get(path[-1]) is None:
        return "--"
    is_digest = study.get(*path) == study.get("study", "base_digest")
    return study.cite("digest" if is_digest else style, *path)


def _arms(studies: Sequence[Study]) -> list[tuple[str, str]]:
    """Every arm of the studies and its rule."""
    names = dict.fromkeys(arm for study in studies for arm in study.get("study", "arms"))
    return [
        (studies[0].numbers.arm(name), printable(VARIANTS[name].sentence))
        for name in names
        if name in VARIANTS
    ]


def _view(study: Study, figures: tuple[str, ...]) -> dict[str, Any]:
    """What the template says of one study."""
    (treatment, *_), (rival, *_) = of_role("treatment", VARIANTS), of_role("rival", VARIANTS)
    order = wording.loss_order_claim(study, treatment, rival)
    is_small = "smollm2" in f"{study.get('study', 'name')} {study.get('study', 'base_model')}".lower()
    return {
        "letter": study.letter,
        "name": study.cite("text", "study", "name"),
        "figures": figures,
        "is_smollm": is_small,
        "control": wording.control_claim(study),
        "pairs": wording.pair_claims(study),
        "order": order,
        "predictors": wording.predictor_claims(study),
        "collapse": wording.collapse_claim(study),
        "fates": wording.fates_claim(study),
        "levels": [study.cite("number", "kept", index, "persona") for index in _level_places(study)],
        "kept": _kept(study),
        "matched": _differences(study, "matched"),
        "unmatched": _differences(study, "unmatched"),
        "lost": _lost(study),
        "collapses": _collapses(study),
        "telling": [
            Row(printable(predictor_words(name)), _estimate(study, "share", "separations", name))
            for name in wording.telling(study)
        ],
        "correlations": _correlations(study),
        "predictions": _predictions(study),
        "failed": study.cite("length", "failed") if study.get("failed") else "",
    }


def _level_places(study: Study) -> list[int]:
    levels = [one["persona"] for one in study.get("kept")]
    return [levels.index(level) for level in dict.fromkeys(levels)]


def _dose(study: Study, training: Mapping[str, Any] | str | None) -> str:
    """The macro of a training dose's label."""
    if training is None:
        return "all doses"
    label = training if isinstance(training, str) else dose_label(training)
    if label == NO_TRAINING.label:
        return label
    return study.cite("text", "study", "training", list(study.get("study", "training")).index(label))


def _bound(study: Study, *path: str | int) -> str:
    """`−12.3 (−18.0 to −6.1)` in points, or that it is out of reach."""
    if study.get(*path) is None:
        return "out of reach"
    mean = study.cite("signed_points", *path, "mean")
    return f"{mean} ({study.interval('signed_points', *path)})"


def _estimate(study: Study, style: str, *path: str | int) -> tuple[str, str]:
    if study.get(*path) is None:
        return "--", "--"
    return study.cite(style, *path, "value"), study.interval(style, *path)


def _kept(study: Study) -> list[Row]:
    """One row an arm and training dose: what it keeps at each level of persona."""
    cells: dict[tuple[str, str], list[str]] = {}
    for index, one in enumerate(study.get("kept")):
        reach = (study.cite("number", "kept", index, name) for name in ("reached", "seeds"))
        text = _bound(study, "kept", index, "loss")
        cells.setdefault((one["training"], one["arm"]), []).append(
            f"{text}, {'/'.join(reach)}" if one["loss"] else text
        )
    return _grouped(study, sorted(cells.items(), key=partial(_place, study)))


def _place(study: Study, item: tuple[tuple[str, str], Any]) -> int:
    """By training dose, in the plan's order; recipes of their own come last."""
    return [*study.get("study", "training"), NO_TRAINING.label].index(item[0][0])


def _grouped(study: Study, found: Sequence[tuple[tuple[Any, str], Sequence[str]]]) -> list[Row]:
    """Rows by training dose, a rule between doses."""
    rows: list[Row] = []
    before = None
    for (training, arm), texts in found:
        name = f"{study.numbers.arm(arm)}, {_dose(study, training)}"
        rows.append(Row(name, tuple(texts), is_first=before is not None and training != before))
        before = training
    return rows


def _differences(study: Study, kind: str) -> list[Row]:
    """One row a pair and training dose; a cell a level of persona, or one for arms as trained."""
    cells: dict[tuple[str, str, str], dict[float | None, str]] = {}
    for index, one in enumerate(study.get(kind)):
        key = (one["first"], one["second"], _dose(study, one["training"]))
        cells.setdefault(key, {})[one["persona"]] = _bound(study, kind, index, "bound")
    levels = (
        [None] if kind == "unmatched" else [study.get("kept", i, "persona") for i in _level_places(study)]
    )
    rows, before = [], ""
    for (first, second, dose), by_level in cells.items():
        texts = [by_level.get(level, "--") for level in levels]
        name = f"{study.numbers.arm(first)} $-$ {study.numbers.arm(second)}, {dose}"
        rows.append(Row(name, tuple(texts), is_first=bool(before) and second != before))
        before = second
    return rows


def _lost(study: Study) -> list[Row]:
    """Where each arm has lost δ, on both scales."""
    found = []
    for index, one in enumerate(study.get("lost")):
        cells = [_dose_lost(study, index, axis) for axis in ("alpha", "persona")]
        where = ("lost", index, "shown_alpha")
        shown = "nowhere" if one["shown_alpha"] is None else study.cite("number", *where)
        found.append(((dose_label(one["training"]), one["arm"]), (*cells, shown)))
    return _grouped(study, sorted(found, key=partial(_place, study)))


def _dose_lost(study: Study, index: int, axis: str) -> str:
    ends = study.get("lost", index, axis)
    low, value, high = (
        "beyond" if ends[name] is None else study.cite("share", "lost", index, axis, name)
        for name in ("lower", "value", "upper")
    )
    if low == value == high:
        return f"beyond {study.cite('share', 'lost', index, f'largest_{axis}')}"
    return f"{value} ({low} to {high})"


def _collapses(study: Study) -> list[Row]:
    found = []
    for index, one in enumerate(study.get("collapses")):
        where = ("collapses", index)
        share = study.interval("percent", *where)
        runs = f"{study.cite('number', *where, 'collapsed')} of {study.cite('number', *where, 'runs')}"
        persona, loss = study.cite("share", *where, "persona"), study.cite("points", *where, "median_loss")
        found.append(((dose_label(one["training"]), one["arm"]), (persona, loss, runs, share)))
    return _grouped(study, sorted(found, key=partial(_place, study)))


def _correlations(study: Study) -> list[Row]:
    """Every predictor, the strongest first."""
    ordered = sorted(study.get("correlations").items(), key=lambda item: -abs(item[1]["value"]))
    return [
        Row(
            printable(predictor_words(name)),
            (
                *_estimate(study, "signed", "correlations", name),
                *(
                    _estimate(study, "signed", "regressions", name)
                    if name in study.get("regressions")
                    else ("--", "--")
                ),
            ),
        )
        for name, _ in ordered
    ]


def _predictions(study: Study) -> list[Row]:
    """What was predicted, the condition, what was found, and the fate."""
    rows = []
    for index, one in enumerate(study.get("predictions")):
        where = ("predictions", index)
        name, says = study.cite("text", *where, "name"), study.cite("text", *where, "says")
        condition = f"{CONDITIONS[one['condition']]} {study.cite('number', *where, 'value')}"
        value, ends = _estimate(study, "signed", *where, "estimate")
        seeds = "--" if one["estimate"] is None else study.cite("number", *where, "estimate", "seeds")
        cells = (says, condition, f"{value} ({ends})", seeds, study.cite("text", *where, "fate"))
        rows.append(Row(name, cells))
    return rows

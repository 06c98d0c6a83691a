"""The figures of a paper as vector PDF, drawn from a study's JSON; the same JSON gives the same bytes."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_pdf import FigureCanvasPdf
from matplotlib.figure import Figure

from skippy.core.inference.cells import NO_TRAINING, TrainingDose
from skippy.core.inference.collapse import COLLAPSED_SHARE
from skippy.core.variants import VARIANTS, has_seed, label_of
from skippy.report.numerals import signed
from skippy.report.palette import BASE_COLOURS
from skippy.report.study_figures import KL_FLOOR

WIDTH = 6.5
"""Inches: the text of the page."""
STYLE: dict[Any, Any] = {
    "font.size": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 8,
    "legend.frameon": False,
    "pdf.fonttype": 42,
}
MARKERS = ("o", "s", "^", "D", "v", "P")
"""Of the arms, in their order, for readers without colour."""
Data = Mapping[str, Any]


def draw_figures(data: Data) -> dict[str, bytes]:
    """Name → PDF; what the study did not measure is left out."""
    drawings: Mapping[str, Callable[[Data], Figure | None]] = {
        "frontier": _frontier,
        "runs": _runs,
        "differences": _differences,
        "divergence": _divergence,
    }
    figures = {}
    with mpl.rc_context():
        # A reader's own matplotlibrc must not change a figure.
        mpl.rcdefaults()
        mpl.rcParams.update(STYLE)
        for name, draw in drawings.items():
            figure = draw(data)
            if figure is not None:
                figures[name] = _pdf(figure)
    return figures


def dose_label(training: Mapping[str, Any]) -> str:
    """A training dose out of JSON, as its label."""
    return TrainingDose(**training).label


def _pdf(figure: Figure) -> bytes:
    FigureCanvasPdf(figure)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="pdf", metadata={"CreationDate": None})
    return buffer.getvalue()


def _colour(arm: str) -> str:
    return VARIANTS[arm].colours[0] if arm in VARIANTS else BASE_COLOURS[0]


def _marker(data: Data, arm: str) -> str:
    return MARKERS[list(data["study"]["arms"]).index(arm) % len(MARKERS)]


def _panels(count: int, height: float, columns: int, *, same_x: bool = True) -> tuple[Figure, list[Axes]]:
    """So many axes in rows of `columns`, on one vertical scale, and on one horizontal unless told otherwise."""
    across = min(count, columns)
    down = math.ceil(count / across)
    figure = Figure(figsize=(WIDTH, height * down), layout="constrained")
    grid = figure.subplots(down, across, sharex=same_x, sharey=True, squeeze=False)
    axes = list(grid.flat)
    for spare in axes[count:]:
        spare.set_visible(False)
    return figure, axes[:count]


def _frontier(data: Data) -> Figure | None:
    """Persona against score over α, a panel a training dose, bars of one standard error."""
    labels = list(dict.fromkeys(dose_label(point["training"]) for point in data["frontier"]))
    own = NO_TRAINING.label  # of arms that have no training dose: drawn into every panel
    doses = [label for label in labels if label != own] or labels
    if not doses:
        return None
    figure, panels = _panels(len(doses), 2.5, 3)
    base, margin = 100 * data["base_score"], 100 * data["margin"]
    for axes, dose in zip(panels, doses, strict=True):
        axes.axhline(base, color="0.6", linewidth=0.8)
        axes.axhline(base - margin, color="0.6", linewidth=0.8, linestyle=":")
        for arm in data["study"]["arms"]:
            of_arm = [p for p in data["frontier"] if p["arm"] == arm]
            points = [p for p in of_arm if dose_label(p["training"]) in (dose, own)]
            if points:
                # Nothing lies between the base and an arm that is one point.
                start = int(has_seed(arm))
                axes.errorbar(
                    [data["base_persona"]] * start + [p["persona"] for p in points],
                    [base] * start + [100 * p["score"] for p in points],
                    yerr=[0.0] * start + [100 * (p["loss"]["standard_error"] or 0.0) for p in points],
                    xerr=[0.0] * start + [p["persona_error"] or 0.0 for p in points],
                    color=_colour(arm),
                    marker=_marker(data, arm),
                    markersize=3,
                    linewidth=1,
                    elinewidth=0.6,
                    label=label_of(arm),
                )
        axes.set_title(dose)
        axes.set_xlabel("persona score")
    panels[0].set_ylabel("score, points")
    _legend(figure, panels[0])
    return figure


def _legend(figure: Figure, axes: Axes) -> None:
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=max(1, len(labels)))


def _runs(data: Data) -> Figure | None:
    """Every training's score as trained, a row an arm and training dose; shaded where a run has collapsed."""
    counts = data["collapses"]
    if not counts:
        return None
    figure = Figure(figsize=(WIDTH, 0.7 + 0.2 * len(counts)), layout="constrained")
    axes = figure.subplots()
    base = 100 * data["base_score"]
    axes.axvspan(-2, 100 * COLLAPSED_SHARE * data["base_score"], color="0.93", linewidth=0)
    axes.axvline(base, color="0.6", linewidth=0.8)
    for row, count in enumerate(counts):
        scores = [100 * score for score in count["scores"]]
        colour = _colour(count["arm"])
        axes.plot(scores, [row] * len(scores), _marker(data, count["arm"]), color=colour, markersize=3)
        axes.plot(sum(scores) / len(scores), row, "|", color=colour, markersize=11)
        words = f"{count['collapsed']}/{count['runs']}"
        axes.text(1.01, row, words, transform=axes.get_yaxis_transform(), va="center")
    names = [f"{label_of(count['arm'])}, {dose_label(count['training'])}" for count in counts]
    axes.set_yticks(range(len(counts)), names)
    axes.set_xlim(-2, max(10.0, 1.08 * base))
    axes.set_ylim(len(counts) - 0.5, -0.5)
    axes.set_xlabel("score as trained, points; at the right, runs that collapsed")
    return figure


def _differences(data: Data) -> Figure | None:
    """Arm against arm at equal persona, a panel a level with a scale of its own, and bounds that hold together."""
    found = data["matched"]
    if not found:
        return None
    levels = list(dict.fromkeys(one["persona"] for one in found))
    names = list(dict.fromkeys(difference_name(one) for one in found))
    figure, panels = _panels(len(levels), 0.8 + 0.2 * len(names), len(levels), same_x=False)
    for axes, level in zip(panels, levels, strict=True):
        axes.axvline(0, color="0.6", linewidth=0.8)
        for sign in (-1, 1):
            axes.axvline(sign * 100 * data["margin"], color="0.6", linewidth=0.8, linestyle=":")
        for one in (one for one in found if one["persona"] == level):
            _draw_difference(axes, one, names.index(difference_name(one)))
        axes.set_title(f"persona {level:g}")
        axes.set_xlabel("difference, points")
    panels[0].set_yticks(range(len(names)), names)
    panels[0].set_ylim(len(names) - 0.5, -0.5)
    return figure


def _draw_difference(axes: Axes, one: Mapping[str, Any], row: int) -> None:
    bound = one["bound"]
    if bound is None:
        axes.text(0, row, "out of reach", color="0.5", fontsize=6, ha="center", va="center")
        return
    colour = _colour(one["second"])
    axes.plot([100 * bound["lower"], 100 * bound["upper"]], [row, row], color=colour, linewidth=1)
    axes.plot(100 * bound["mean"], row, "o", color=colour, markersize=3.5)
    axes.text(
        100 * bound["mean"], row - 0.14, signed(100 * bound["mean"]), fontsize=5, ha="center", va="bottom"
    )


def difference_name(one: Mapping[str, Any]) -> str:
    """`V4 − V3, lr 0.001, β 0, 200 steps`."""
    dose = "all doses" if one["training"] is None else dose_label(one["training"])
    return f"{label_of(one['first'])} − {label_of(one['second'])}, {dose}"


def _divergence(data: Data) -> Figure | None:
    """Divergence of every cell from the base, log scale, against the score that it lost."""
    panels = {"everyday prompts": "kl_base_arm_everyday", "problems": "kl_base_arm_problems"}
    measured = {words: [cell for cell in data["cells"] if _has(cell, name)] for words, name in panels.items()}
    shown = {words: cells for words, cells in measured.items() if cells}
    if not shown:
        return None
    figure = Figure(figsize=(WIDTH, 2.5), layout="constrained")
    for axes, (words, cells) in zip(
        figure.subplots(1, len(shown), sharey=True, squeeze=False)[0], shown.items(), strict=True
    ):
        for arm in data["study"]["arms"]:
            _scatter(axes, data, arm, [cell for cell in cells if cell["arm"] == arm], panels[words])
        axes.axhline(0, color="0.6", linewidth=0.8)
        axes.set_xscale("log")
        axes.set_xlabel(f"KL(base‖arm) on {words}, nats a token")
    figure.axes[0].set_ylabel("score lost, points")
    _legend(figure, figure.axes[0])
    return figure


def _has(cell: Mapping[str, Any], name: str) -> bool:
    return not cell["error"] and cell["predictors"].get(name) is not None


def _scatter(axes: Axes, data: Data, arm: str, cells: Sequence[Mapping[str, Any]], name: str) -> None:
    axes.plot(
        [max(KL_FLOOR, cell["predictors"][name]) for cell in cells],
        [100 * (data["base_score"] - cell["score"]) for cell in cells],
        _marker(data, arm),
        color=_colour(arm),
        markersize=2.5,
        alpha=0.7,
        markeredgewidth=0,
        label=label_of(arm),
    )

"""What the svd stage shows people: spectra by module kind, gaps, energy captured. Pure: rows in, text out."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass

from skippy.core.spectral.rank import ACTIVATIONS, BOTTOM, TOP
from skippy.core.target import BLOCKS

KINDS = tuple(BLOCKS)
CAPTIONS = {
    TOP: "Top singular values",
    BOTTOM: "Smallest singular values",
    ACTIVATIONS: "Largest eigenvalues of E[x xᵀ], x the input,",
}


@dataclass(frozen=True)
class SpectrumRow:
    """One target's certified top-k."""

    target: str  # its name
    layer: int  # decoder layer
    kind: str  # module kind, for example `q_proj`
    singular_values: tuple[float, ...]  # sigma_1 … sigma_k, descending
    sigma_next: float  # estimate of sigma_{k+1}
    gap: float  # sigma_k / sigma_{k+1}
    residual: float  # two-sided, relative to sigma_1
    energy: float  # share of ‖W‖_F² that the top k hold


def render_spectra(rows: Sequence[SpectrumRow], ambiguous_gap: float, basis: str = "top") -> dict[str, str]:
    """File name → content: `spectra.svg` and `gaps.md`.

    Args:
        ambiguous_gap: below this gap the choice of k splits a cluster.
        basis: what the directions are, as the svd stage names it.
    """
    return {"spectra.svg": _figure(rows, basis), "gaps.md": _table(rows, ambiguous_gap, basis)}


def _table(rows: Sequence[SpectrumRow], ambiguous_gap: float, basis: str) -> str:
    split = [row for row in rows if row.gap < ambiguous_gap]
    lines = [
        "# Gaps",
        "",
        f"{len(split)} of {len(rows)} targets have a gap between sigma_k and sigma_(k+1) below {ambiguous_gap:g}: "
        f"there the {basis} k is an arbitrary cut through a cluster.",
        "",
        "| target | k | gap | sigma_1 | sigma_k | sigma_k+1 | energy captured | residual |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in sorted(rows, key=lambda row: row.gap):
        values = row.singular_values
        lines.append(
            f"| {row.target} | {len(values)} | {row.gap:.4f} | {values[0]:.4g} | {values[-1]:.4g} "
            f"| {row.sigma_next:.4g} | {row.energy:.1%} | {row.residual:.1e} |"
        )
    return "\n".join(lines) + "\n"


def _figure(rows: Sequence[SpectrumRow], basis: str) -> str:
    """One panel a module kind: every layer's values relative to their largest, darker is less deep."""
    kinds = [kind for kind in KINDS if any(row.kind == kind for row in rows)]
    deepest = max(max(row.layer for row in rows), 1)
    # Half a second that an svd which finds its work done should not cost.
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context({"svg.hashsalt": "skippy", "font.size": 9, "svg.fonttype": "none"}):
        figure = Figure(figsize=(2.1 * len(kinds), 2.6), layout="constrained")
        panels = figure.subplots(1, len(kinds), sharey=True, squeeze=False)[0]
        for kind, panel in zip(kinds, panels, strict=True):
            members = [row for row in rows if row.kind == kind]
            for row in members:
                largest = max(row.singular_values) or 1.0
                relative = [value / largest for value in row.singular_values]
                shade = matplotlib.colormaps["viridis"](0.85 * row.layer / deepest)
                panel.plot(range(1, len(relative) + 1), relative, color=shade, linewidth=1)
            energy = sum(row.energy for row in members) / len(members)
            panel.set_title(
                f"{kind}\n{energy:.0%} of {'E‖x‖²' if basis == ACTIVATIONS else '‖W‖²'}", fontsize=9
            )
            panel.set_xlabel("i")
            panel.spines[["top", "right"]].set_visible(False)
        panels[0].set_ylabel("value i / largest shown")
        panels[0].set_ylim(0, 1.05)
        figure.suptitle(
            f"{CAPTIONS[basis]} of every target (dark: layer 0, bright: layer {deepest})", fontsize=10
        )
        text = io.StringIO()
        figure.savefig(text, format="svg", metadata={"Date": None})
    return text.getvalue()

"""Agreement between raters: Krippendorff's α."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np

from skippy.errors import ReportError


def krippendorff_alpha(
    ratings: Sequence[Sequence[float | int | None]],
    level: Literal["nominal", "ordinal", "interval"] = "interval",
) -> float:
    """`α = 1 − D_o / D_e` over a raters × units table; None or NaN is a missing rating.

    With coincidences `o_ck` (each unit with m ratings adds its ordered pairs over m − 1), marginals `n_c` and
    `n = Σ n_c`: `D_o = Σ o_ck δ²_ck / n`, `D_e = Σ n_c n_k δ²_ck / (n(n − 1))`. δ² is 1 for unlike values
    (nominal), the squared difference (interval), or the squared count of ratings between the two, ends half
    (ordinal).

    Raises:
        ReportError: fewer than two comparable ratings, or all ratings alike (α is not defined).

    Source: Krippendorff 2011, "Computing Krippendorff's Alpha-Reliability", §E. Departure: none.
    """
    table = np.array(
        [[math.nan if r is None else float(r) for r in row] for row in ratings], dtype=np.float64
    )
    units = [unit[~np.isnan(unit)] for unit in table.T] if table.ndim == 2 else []
    units = [unit for unit in units if unit.size > 1]
    values = np.unique(np.concatenate(units)) if units else np.empty(0)
    if values.size < 2:
        raise ReportError(
            "Krippendorff's α is not defined here.",
            where="ratings",
            expected="raters × units with at least two different values among units rated twice or more",
            found=f"{len(units)} such units, {values.size} different values",
            next_step="let two raters judge the same answers, and answers that differ",
        )
    counts = np.array([[(unit == value).sum() for value in values] for unit in units], dtype=np.float64)
    sizes = counts.sum(axis=1)
    coincidences = (counts / (sizes - 1)[:, None]).T @ counts - np.diag(
        (counts / (sizes - 1)[:, None]).sum(0)
    )
    marginals = coincidences.sum(axis=0)
    position = values
    if level == "ordinal":
        position = np.cumsum(marginals) - marginals / 2
    distance = (position[:, None] - position[None, :]) ** 2
    if level == "nominal":
        distance = (distance > 0).astype(np.float64)
    total = marginals.sum()
    observed = float((coincidences * distance).sum()) / total
    expected = float((np.outer(marginals, marginals) * distance).sum()) / (total * (total - 1))
    return float(1.0 - observed / expected)

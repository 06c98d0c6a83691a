"""An interval for one arm's score, and when there is too little to say anything."""

from __future__ import annotations

import math
from statistics import NormalDist

from skippy.errors import ReportError

FEWEST_PROBLEMS = 10
"""Below so many problems a score is not given an interval: at best it would span 28 points and more."""


def wilson_interval(share: float, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Two-sided interval for the share of problems that a model solves; never empty, also at 0 and 1.

    n counts problems, not samples: several samples of one problem are no further problems, and to count them would
    promise too much.

    Args:
        share: mean p̂_i, in [0, 1].

    Raises:
        ReportError: no problems, or a share outside [0, 1].

    Source: Wilson 1927; Brown, Cai, DasGupta 2001, eq. 4. Departure: p̂ may be a mean of shares, whose variance is
    at most that of a coin.
    """
    if n < 1 or not 0.0 <= share <= 1.0:
        raise ReportError(
            "An interval of a score needs problems, and a share of them.",
            where="share, n",
            expected="0 ≤ share ≤ 1 and n ≥ 1",
            found=f"share = {share}, n = {n}",
        )
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    middle = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    reach = z / (1 + z**2 / n) * math.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    return max(0.0, middle - reach), min(1.0, middle + reach)

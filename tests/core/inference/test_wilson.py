"""The interval of a single score: never empty, never outside, of the size it claims."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from skippy.core.inference.wilson import wilson_interval
from skippy.errors import ReportError


@pytest.mark.parametrize(("share", "n"), [(0.0, 2), (1.0, 2), (0.0, 60), (0.37, 60), (0.5, 1)])
def test_it_is_the_score_test_turned_round(share: float, n: int) -> None:
    """Its ends are the shares at which the score statistic is just z."""
    z = stats.norm.ppf(0.975)
    for end in wilson_interval(share, n):
        if 0 < end < 1:
            assert abs(share - end) / np.sqrt(end * (1 - end) / n) == pytest.approx(z)
    low, high = wilson_interval(share, n)
    assert 0 <= low <= share <= high <= 1
    assert high - low > 0, "two wrong answers of two leave almost everything open"


def test_it_covers_and_the_usual_error_does_not() -> None:
    """At 60 problems and a share of .05; the twin is p̂ ± 1.96·√(p̂(1 − p̂)/n)."""
    n, share = 60, 0.05
    counts = np.random.default_rng(0).binomial(n, share, 4000) / n
    wilson = [low <= share <= high for low, high in (wilson_interval(c, n) for c in counts)]
    usual = [abs(c - share) <= 1.96 * np.sqrt(c * (1 - c) / n) for c in counts]
    assert np.mean(wilson) > 0.94
    assert np.mean(usual) < 0.9


def test_what_is_no_share_is_refused() -> None:
    with pytest.raises(ReportError, match="needs problems"):
        wilson_interval(0.5, 0)
    with pytest.raises(ReportError) as refusal:
        wilson_interval(1.5, 3)
    assert "share = 1.5" in refusal.value.found

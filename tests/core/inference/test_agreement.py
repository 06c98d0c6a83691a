"""Krippendorff's alpha, on published examples and at its ends."""

import pytest

from skippy.core.inference.agreement import krippendorff_alpha
from skippy.errors import ReportError

FOUR_OBSERVERS = [
    [1, 2, 3, 3, 2, 1, 4, 1, 2, None, None, None],
    [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, None, 3],
    [None, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, None],
    [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, None],
]


@pytest.mark.parametrize(("level", "alpha"), [("nominal", 0.743), ("ordinal", 0.815), ("interval", 0.849)])
def test_alpha_of_the_four_observers(level, alpha: float) -> None:
    """Krippendorff 2011, section E: four observers, twelve units, missing ratings."""
    assert krippendorff_alpha(FOUR_OBSERVERS, level) == pytest.approx(alpha, abs=5e-4)


def test_alpha_of_two_observers() -> None:
    """The same paper, sections A (binary) and B (five categories)."""
    binary = [[0, 1, 0, 0, 0, 0, 0, 0, 1, 0], [1, 1, 1, 0, 0, 1, 0, 0, 0, 0]]
    assert krippendorff_alpha(binary, "nominal") == pytest.approx(0.095, abs=5e-4)
    words = [["abcde".index(c) for c in row] for row in ("aabbdcccedda", "babbbcccedd" + "d")]
    assert krippendorff_alpha(words, "nominal") == pytest.approx(0.692, abs=5e-4)


def test_alpha_at_its_ends() -> None:
    assert krippendorff_alpha([[1, 2, 3], [1, 2, 3]]) == pytest.approx(1.0)
    assert krippendorff_alpha([[1, 2], [2, 1]]) < 0
    with pytest.raises(ReportError, match="not defined"):
        krippendorff_alpha([[1, 1], [1, 1]])

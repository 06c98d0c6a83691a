"""Matched persona by bisection: found on the rising branch, bounded, and refused in words where there is none."""

import math

import pytest

from skippy.core.inference.dose_search import match_dose
from skippy.errors import ConfigError

TOLERANCE = 0.02


@pytest.mark.parametrize("target", [0.1, 0.33, 0.5, 0.77, 0.9])
@pytest.mark.parametrize("law", [lambda a: a, lambda a: a**3, lambda a: 1 / (1 + math.exp(12 * (0.6 - a)))])
def test_a_rising_persona_is_matched(law, target) -> None:
    found = match_dose(law, target, TOLERANCE)
    assert found.is_matched
    assert abs(law(found.alpha) - target) <= TOLERANCE
    assert len(found.measured) <= 10


def test_an_inverted_u_is_matched_on_its_rise() -> None:
    """sin falls back to .5 at α = .83; the dose is the first one, .17."""
    found = match_dose(lambda a: math.sin(math.pi * a), 0.5, TOLERANCE)
    assert found.is_matched
    assert found.alpha == pytest.approx(1 / 6, abs=0.02)


def test_plain_bisection_fails_the_same_check() -> None:
    """The twin: bisecting between 0 and 1 takes the falling side for the rising one."""
    low, high = 0.0, 1.0
    for _ in range(10):
        middle = (low + high) / 2
        low, high = (middle, high) if math.sin(math.pi * middle) < 0.5 else (low, middle)
    assert low < 1e-9 or high == pytest.approx(1 / 6, abs=0.02)  # right by luck of its first step
    low, high = 0.0, 1.0
    for _ in range(10):
        middle = (low + high) / 2
        low, high = (middle, high) if math.sin(3 * math.pi * middle) < 0.5 else (low, middle)
    assert low > 0.5  # a third of a turn later it stands on the wrong branch
    assert match_dose(lambda a: math.sin(3 * math.pi * a), 0.5, TOLERANCE, scan_steps=16).alpha < 0.1


def test_what_is_never_reached_is_said() -> None:
    found = match_dose(lambda a: 0.4 * a, 0.9, TOLERANCE)
    assert not found.is_matched
    assert found.reason == "the persona never reaches 0.9 up to α = 1"
    assert (found.alpha, len(found.measured)) == (1.0, 4)


def test_a_jump_is_said() -> None:
    found = match_dose(lambda a: float(a > 0.3), 0.5, TOLERANCE)
    assert not found.is_matched
    assert found.reason == "10 measurements were not enough"
    assert len(found.measured) == 10


def test_a_search_that_cannot_end_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"pass a tolerance of a tenth"):
        match_dose(lambda a: a, 0.5, 0.0)

"""Checkpoints are matched at the highest persona all arms reach, and nothing else matters."""

import pytest

from skippy.core.inference.matching import match_steps
from skippy.errors import ConfigError


def test_the_slower_arm_sets_the_level_and_gives_its_best_step():
    fast, slow = {20: 0.2, 40: 0.55, 60: 0.9}, {20: 0.1, 40: 0.5, 60: 0.3}
    assert match_steps(fast, slow) == (40, 40)
    assert match_steps(slow, fast) == (40, 40)
    assert match_steps({20: 0.2, 50: 0.55, 60: 0.9}, slow) == (50, 40)
    assert match_steps(slow, {20: 0.2, 50: 0.55, 60: 0.9}) == (40, 50)


def test_equal_arms_give_their_best_step():
    arm = {10: 0.1, 20: 0.7, 30: 0.4}
    assert match_steps(arm, arm) == (20, 20)


def test_of_equally_near_steps_the_earlier_is_taken():
    assert match_steps({10: 0.5, 20: 0.5}, {10: 0.5}) == (10, 10)
    assert match_steps({10: 0.25, 20: 0.75}, {10: 0.5}) == (10, 10)


def test_an_overdose_that_falls_back_to_the_level_is_not_taken():
    """Measured: V3 stood at .79 at step 50 with two thirds of its score, and at .78 at step 100 with a third."""
    collapsing = {25: 0.74, 50: 0.79, 75: 0.74, 100: 0.78, 125: 0.82, 150: 0.84}
    steering = {25: 0.11, 50: 0.2, 100: 0.47, 150: 0.77, 200: 0.26}
    assert match_steps(collapsing, steering) == (50, 150)


def test_of_three_arms_the_slowest_sets_the_level():
    fast, slow, slowest = {10: 0.4, 20: 0.9}, {10: 0.2, 20: 0.6}, {10: 0.1, 20: 0.35}
    assert match_steps(fast, slow) == (10, 20)
    assert match_steps(fast, slow, slowest) == (10, 10, 20)


def test_last_checkpoints_are_not_simply_taken():
    """The twin: comparing final checkpoints would set 0.9 against 0.3."""
    assert match_steps({20: 0.3, 60: 0.9}, {20: 0.1, 60: 0.3}) == (20, 60)


@pytest.mark.parametrize("arms", [({}, {10: 0.5}), ({10: 0.5}, {}), ({}, {})])
def test_an_arm_without_checkpoints_is_refused(arms):
    with pytest.raises(ConfigError, match="no checkpoints to match"):
        match_steps(*arms)

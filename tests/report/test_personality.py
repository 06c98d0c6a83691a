"""Equal personality, as the report judges it: how often it is wrong, and how often it sees."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.simulation import Chatter, draw_personas
from skippy.report.personality import judge_likeness
from skippy.results import Arm, BanalScores, Evaluation

UNEVEN = Chatter(taste_sd=0.8, answer_sd=0.6)
"""Arms that differ from prompt to prompt, one funnier here and the other there."""


def equal_rate(difference_sd: float, chatter: Chatter, *, is_by_prompt: bool, trials: int = 1200) -> float:
    """How often the report calls two arms equal, 66 prompts × 4 answers, at a true difference in SD."""
    generator, count = np.random.default_rng(3), 0
    for _ in range(trials):
        drawn = draw_personas(66, 4, difference_sd * chatter.single_sd, chatter, generator)
        arms = []
        for name, answers in zip(("v4", "v3"), drawn, strict=True):
            scores = answers.mean(axis=1) if is_by_prompt else answers.ravel()
            banal = BanalScores(
                keys=tuple(map(str, range(scores.size))),
                scores=tuple(scores.tolist()),
                answer_sd=float(answers.std(ddof=1)),
            )
            arms.append(Arm(name, name, (Evaluation(41, "", "", "", (), banal=banal),)))
        likeness = judge_likeness(*arms, seeds=(41,), margin_sd=0.25, confidence=0.95)
        assert likeness is not None
        count += likeness.is_equal
    return count / trials


def test_the_simulated_difference_is_first_minus_second():
    first, second = draw_personas(20_000, 2, 0.5, UNEVEN, np.random.default_rng(0))
    assert float((first - second).mean()) == pytest.approx(0.5, abs=0.03)
    assert float(np.concatenate([first[:, 0], second[:, 0] + 0.5]).std()) == pytest.approx(
        UNEVEN.single_sd, rel=0.02
    )


def test_size_and_power_of_equal_personality():
    """True difference exactly 0.25 SD: "equal" at most 7 % of the time; none: most of the time."""
    assert equal_rate(0.25, UNEVEN, is_by_prompt=True) <= 0.07
    assert equal_rate(0.0, Chatter(taste_sd=0.3), is_by_prompt=True, trials=400) >= 0.80


def test_answers_taken_for_prompts_fail_the_same_check():
    """The twin: four answers to one prompt are no four prompts; counted so, unequal arms pass far too often."""
    assert equal_rate(0.25, UNEVEN, is_by_prompt=False) > 0.10

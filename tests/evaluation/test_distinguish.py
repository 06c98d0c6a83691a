"""The classifier proxy: prompts are held out whole, so that content is not taken for style."""

import pytest

from skippy.evaluation.distinguish import FOLDS, distinguishability

PROMPTS, ANSWERS = 20, 3
GROUPS = [str(prompt) for prompt in range(PROMPTS) for _ in range(ANSWERS)]


def answers(arm: str, style: str = "") -> list[str]:
    """Every answer to a prompt holds a word of that prompt and arm, as a fact the model remembers would be."""
    return [f"well {style} {arm}fact{prompt}" for prompt in GROUPS]


def test_words_of_a_prompt_are_not_a_style():
    assert distinguishability(answers("a"), answers("b"), GROUPS, GROUPS) == pytest.approx(0.5, abs=0.05)


def test_the_same_answers_give_themselves_away_when_prompts_are_split():
    singles = [f"{prompt}.{index}" for index, prompt in enumerate(GROUPS)]
    auc = distinguishability(answers("a"), answers("b"), singles, singles)
    assert auc is not None
    assert auc > 0.9


def test_a_style_is_told_apart():
    auc = distinguishability(answers("a"), answers("b", style="monkey"), GROUPS, GROUPS)
    assert auc == pytest.approx(1.0, abs=0.01)


def test_too_few_prompts_for_the_folds_however_many_answers():
    few = [str(index % (FOLDS - 1)) for index in range(len(GROUPS))]
    assert distinguishability(answers("a"), answers("b"), few, few) is None

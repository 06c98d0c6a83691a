"""What a pure reward is asked, what comes back, and how its failures look."""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace

import pytest

from skippy.core.style.rewards import correctness
from skippy.errors import BackendError, RewardError
from skippy.training.prompts import CHAT, MATH
from skippy.training.rewards import adapt_reward
from skippy.training.setup import end_tokens

END = 9
BATCH = {
    "prompts": [[{"role": "user", "content": text}] for text in ("hello", "2 and 2?", "tea?")],
    "completions": [
        [{"role": "assistant", "content": text}] for text in ("well", r"It is \boxed{4}.", "monkey")
    ],
    "completion_ids": [[1, END], [2, 3, END], [4, 5]],
    "kind": [CHAT, MATH, CHAT],
    "answer": [None, 4, None],
    "trainer_state": None,
    "log_extra": None,
    "log_metric": None,
}


def test_a_reward_sees_its_own_kind_of_prompt() -> None:
    asked: dict[str, list] = {}

    def remember(completions: list, prompts: list, truncated: list) -> list:
        asked.update(completions=completions, prompts=prompts, truncated=truncated)
        return [1.0, 2.0]

    reward = adapt_reward(remember, "remember", CHAT, [END])
    assert reward(**BATCH) == [1.0, None, 2.0]
    assert asked == {
        "completions": ["well", "monkey"],
        "prompts": ["hello", "tea?"],
        "truncated": [False, True],
    }
    assert reward.__name__ == "remember"


@pytest.mark.parametrize(("declared", "ends"), [(None, [9]), (7, [7, 9]), ([5, 6], [5, 6, 9])])
def test_a_completion_ends_with_what_the_model_declares_or_the_tokenizer(
    declared: object, ends: list
) -> None:
    model = SimpleNamespace(generation_config=SimpleNamespace(eos_token_id=declared))
    assert end_tokens(model, SimpleNamespace(eos_token_id=9)) == ends


def test_a_completion_of_no_tokens_was_cut_off() -> None:
    asked: list[bool] = []
    reward = adapt_reward(
        lambda completions, truncated: asked.extend(truncated) or [0.0, 0.0], "cut", CHAT, [END]
    )
    reward(**BATCH | {"completion_ids": [[], [END], [END]]})
    assert asked == [True, False]


def test_a_refusal_of_our_own_goes_through_as_it_is() -> None:
    def refuse(completions: list) -> list:
        raise BackendError("The judge is gone.")

    with pytest.raises(BackendError):
        adapt_reward(refuse, "judge", CHAT, [END])(**BATCH)


def test_correctness_scores_maths_only() -> None:
    assert adapt_reward(correctness, "correctness", MATH, [END])(**BATCH) == [None, 1.0, None]


def test_could_not_score_stays_none() -> None:
    reward = adapt_reward(lambda completions: [None, 0.0], "some", CHAT, [END])
    assert reward(**BATCH) == [None, None, 0.0]


def test_bound_arguments_are_fine() -> None:
    reward = adapt_reward(
        partial(lambda completions, rules: [float(rules)] * len(completions), rules=3), "bound", CHAT, [END]
    )
    assert reward(**BATCH) == [3.0, None, 3.0]


def broken(completions: list) -> list:
    raise ConnectionError("nobody listens")


@pytest.mark.parametrize(
    ("function", "match"),
    [
        (broken, "nobody listens"),
        (lambda completions: [1.0], "2 finite numbers"),
        (lambda completions: [1.0, float("nan")], "1 of them not finite"),
    ],
)
def test_failures_name_the_reward(function: object, match: str) -> None:
    with pytest.raises(RewardError, match=match) as raised:
        adapt_reward(function, "sneer", CHAT, [END])(**BATCH)
    assert "reward sneer" in str(raised.value)
    assert "resume=true" in str(raised.value)


def test_unknown_parameters_are_refused_at_once() -> None:
    with pytest.raises(RewardError, match=r"functools\.partial"):
        adapt_reward(lambda completions, rules: [], "unbound", CHAT, [END])

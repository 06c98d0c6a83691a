"""Reward functions as TRL calls them, around the pure ones: lists of texts in, a score or None out.

None means "could not score", and TRL leaves it out of the mean; it is not 0. Everyday prompts and maths
problems have their own rewards, so that the character stays conditional on the kind of prompt.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Sequence
from typing import Any

from skippy.errors import RewardError, SkippyError
from skippy.training.plan import RewardFunction

OFFERED = ("completions", "prompts", "truncated", "answers")


def adapt_reward(
    function: RewardFunction, name: str, kind: str, end_tokens: Sequence[int]
) -> Callable[..., list[float | None]]:
    """Wrap a pure reward for TRL; it is asked only about prompts of its kind, others get None.

    Args:
        function: takes any of `OFFERED` by name, each a list with one entry a completion: text, prompt's
            text, whether it was cut off, and the integer that is right, or None.
        name: TRL names the metric after the function.
        end_tokens: ids that end a completion; one that ends otherwise was cut off.
    """
    asked = _asked_for(function, name)
    ends = frozenset(end_tokens)

    def reward(
        prompts: list,
        completions: list,
        completion_ids: list,
        kind: list[str],
        answer: list[int | None],
        **_: Any,
    ) -> list[float | None]:
        rows = [index for index, row_kind in enumerate(kind) if row_kind == wanted]
        if not rows:
            return [None] * len(completions)
        offered = {
            "completions": [completions[i][-1]["content"] for i in rows],
            "prompts": [prompts[i][-1]["content"] for i in rows],
            "truncated": [not completion_ids[i] or completion_ids[i][-1] not in ends for i in rows],
            "answers": [answer[i] for i in rows],
        }
        scores = _call(function, name, {key: offered[key] for key in asked})
        placed: list[float | None] = [None] * len(completions)
        for index, score in zip(rows, scores, strict=True):
            placed[index] = score
        return placed

    wanted = kind
    reward.__name__ = name
    return reward


def try_reward(function: RewardFunction, name: str) -> None:
    """Call a reward on two completions, so that a fault shows before training and not in its first step.

    Raises:
        RewardError: it asks for what training does not have, fails, or gives no scores.
    """
    offered: dict[str, list] = {
        "completions": ["Good morning!", ""],
        "prompts": ["Hello.", "Why?"],
        "truncated": [False, True],
        "answers": [None, 42],
    }
    _call(function, name, {key: offered[key] for key in _asked_for(function, name)})


def _asked_for(function: RewardFunction, name: str) -> tuple[str, ...]:
    parameters = inspect.signature(function).parameters.values()
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return OFFERED
    named = {p.name for p in parameters}
    unknown = [p.name for p in parameters if p.default is p.empty and p.name not in OFFERED]
    if unknown or "completions" not in named:
        raise RewardError(
            "A reward function asks for something that training does not have.",
            where=f"reward {name}",
            expected="parameters named among " + ", ".join(OFFERED),
            found=", ".join(sorted(named)),
            next_step="bind the others beforehand with functools.partial",
        )
    return tuple(key for key in OFFERED if key in named)


def _call(function: RewardFunction, name: str, arguments: dict[str, list]) -> list[float | None]:
    count = len(arguments["completions"])
    try:
        scores = list(function(**arguments))
    except SkippyError:
        raise
    except Exception as error:
        raise RewardError(
            f"The reward failed: {error}",
            where=f"reward {name}",
            expected=f"{count} scores",
            found=type(error).__name__,
            next_step="the last checkpoint is whole: repair the reward and pass -P resume=true",
        ) from error
    unusable = [s for s in scores if s is not None and not math.isfinite(s)]
    if unusable or len(scores) != count:
        raise RewardError(
            "The reward gave something that is no score.",
            where=f"reward {name}",
            expected=f"{count} finite numbers, or None where it cannot score",
            found=f"{len(scores)} values, {len(unusable)} of them not finite",
            next_step="repair the reward and pass -P resume=true",
        )
    return scores

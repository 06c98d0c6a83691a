"""Rewards of a person's own: `package.module:function`, imported, checked and tried once before training starts."""

from __future__ import annotations

import hashlib
import importlib
import inspect
import sys
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from skippy.errors import ConfigError
from skippy.training.plan import RewardFunction
from skippy.training.rewards import try_reward
from skippy.words import split_list

PARAMETER = "rewards"


@dataclass(frozen=True)
class OwnReward:
    """A reward by the name of its function, and a digest of the module that holds it."""

    name: str
    function: RewardFunction
    digest: str


def load_own_rewards(text: str, taken: Collection[str] = ()) -> tuple[OwnReward, ...]:
    """Import every function named, and call it once on two short completions.

    Args:
        text: `package.module:function`, comma-separated; the directory in which skippy was started is looked
            into as well.

    Raises:
        ConfigError: a name is none, a module cannot be imported, or a name is taken.
        RewardError: a function asks for what training does not have, fails, or gives no scores.
    """
    found: list[OwnReward] = []
    for spelling in split_list(text, "rewards"):
        reward = _load(spelling)
        if reward.name in {*taken, *(each.name for each in found)}:
            raise _refuse(spelling, "a name of its own among the rewards", reward.name)
        found.append(reward)
    return tuple(found)


def _load(spelling: str) -> OwnReward:
    module_name, colon, name = spelling.partition(":")
    if not (colon and name.isidentifier() and all(part.isidentifier() for part in module_name.split("."))):
        raise _refuse(spelling, "package.module:function", repr(spelling))
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # a module of the person's own raises what it likes
        raise _refuse(
            spelling, "a module that can be imported", f"{type(error).__name__}: {error}"
        ) from error
    function = getattr(module, name, None)
    if not callable(function):
        known = [key for key, value in vars(module).items() if inspect.isfunction(value)]
        raise _refuse(spelling, f"a function {name} in {module_name}", ", ".join(known) or "no functions")
    try_reward(function, name)
    source = Path(module.__file__ or "")
    content = source.read_bytes() if source.is_file() else b""
    return OwnReward(name, function, hashlib.sha256(spelling.encode() + b"\n" + content).hexdigest())


def _refuse(spelling: str, expected: str, found: str) -> ConfigError:
    return ConfigError(
        "A reward of your own cannot be used.",
        where=f"{PARAMETER}={spelling}",
        expected=expected,
        found=found,
        next_step="a file my_rewards.py with `def brief(completions): return [-len(c) for c in completions]` "
        "is my_rewards:brief",
    )

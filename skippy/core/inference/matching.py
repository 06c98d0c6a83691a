"""Which checkpoints of several trainings to compare: by persona alone, blind to mathematics.

A variant that learns its character more slowly keeps more mathematics for that reason alone. So arms are
compared where their persona is alike, and the choice never sees a problem.
"""

from __future__ import annotations

from collections.abc import Mapping

from skippy.errors import ConfigError


def within_reach(best: Mapping[str, float], base: float, effect: float) -> frozenset[str]:
    """Arms whose best persona is a character at all; every arm where none is.

    An arm that never comes to a character must not hold the others down to where it stands: it is shown with its best
    and takes no part in a match.

    Args:
        best: highest persona of each arm.
        base: persona of the base on the same prompts.
        effect: rise over it from which on it counts as a character.

    >>> sorted(within_reach({"v3": 0.9, "v5": 0.1}, 0.05, 0.25))
    ['v3']
    """
    reached = frozenset(name for name, persona in best.items() if persona - base >= effect)
    return reached or frozenset(best)


def match_steps(*arms: Mapping[int, float]) -> tuple[int, ...]:
    """The step of each arm at the highest persona that all of them reach.

    With m the smallest of the arms' largest personas, each arm gives the step whose persona is nearest to m among
    those up to the first that reaches it, the earlier one where two are equally near. An overdose may come back to
    the same persona further on, at a far higher price; nobody would pick it. For the arm that sets m this is its
    best step. Whether they are then equal is for a test on held-out prompts to say, not for this choice.

    Args:
        arms: step → mean persona score, of each arm.

    Raises:
        ConfigError: an arm has no checkpoint.

    >>> match_steps({20: 0.2, 40: 0.5, 60: 0.9}, {20: 0.1, 40: 0.3, 60: 0.55})
    (40, 60)
    >>> match_steps({20: 0.78, 40: 0.9, 60: 0.77}, {20: 0.77})
    (20, 20)

    Source: MATH §7 and, for the rising branch, §8. Departure: any number of arms in place of two.
    """
    if not all(arms):
        raise ConfigError(
            "There are no checkpoints to match.",
            where="match",
            expected="evaluated checkpoints of every arm",
            found=" and ".join(str(len(arm)) for arm in arms),
            next_step="evaluate them with mlflow run . -e eval --env-manager local -P model=checkpoints",
        )
    level = min(max(arm.values()) for arm in arms)
    return tuple(_nearest(arm, level) for arm in arms)


def _nearest(arm: Mapping[int, float], level: float) -> int:
    """On the rising branch: no step after the first that reaches the level is looked at."""
    first = min(step for step, persona in arm.items() if persona >= level)
    return min((step for step in arm if step <= first), key=lambda step: (abs(arm[step] - level), step))

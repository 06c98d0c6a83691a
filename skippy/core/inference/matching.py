"""Which checkpoints of two trainings to compare: by persona alone, blind to mathematics.

A variant that learns its character more slowly keeps more mathematics for that reason alone. So two arms are
compared where their persona is alike, and the choice never sees a problem.
"""

from __future__ import annotations

from collections.abc import Mapping

from skippy.errors import ConfigError


def match_steps(first: Mapping[int, float], second: Mapping[int, float]) -> tuple[int, int]:
    """The pair of steps at the highest persona that both arms reach.

    With m = min(max persona of the first, max persona of the second), each arm gives the step whose persona is
    nearest to m, the later one where two are equally near. For the arm that sets m this is its best step. Whether
    the two are then equal is for a test on held-out prompts to say, not for this choice.

    Args:
        first: step → mean persona score of one arm.
        second: the same of the other.

    Raises:
        ConfigError: an arm has no checkpoint.

    >>> match_steps({20: 0.2, 40: 0.5, 60: 0.9}, {20: 0.1, 40: 0.3, 60: 0.55})
    (40, 60)

    Source: MATH §7. Departure: none.
    """
    if not first or not second:
        raise ConfigError(
            "There are no checkpoints to match.",
            where="match",
            expected="evaluated checkpoints of both arms",
            found=f"{len(first)} and {len(second)}",
            next_step="evaluate them with mlflow run . -e eval --env-manager local -P model=checkpoints",
        )
    level = min(max(first.values()), max(second.values()))
    return _nearest(first, level), _nearest(second, level)


def _nearest(arm: Mapping[int, float], level: float) -> int:
    return min(arm, key=lambda step: (abs(arm[step] - level), -step))

"""Assay sensitivity: whether the instrument could have seen a loss of δ at all.

"No loss of δ" means something only where a loss of δ would have been seen. A positive control is an arm or dose on
the same base, problems and sampling whose upper bound lies below −δ. It is looked for among all that there are, so
its bound must hold for all of them together: the most damaging of ten harmless arms looks damaging by chance.

Source: ICH E10 (2000), §1.5, assay sensitivity; MATH §9. Departure: the control may be an arm or dose of the
study itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal, TypeVar

import numpy as np

from skippy.core.inference.simultaneous import Bound, simultaneous_bounds

NOT_TESTED: Final = "not_tested"
Word = TypeVar("Word", bound=str)


@dataclass(frozen=True)
class PositiveControl:
    """What the most damaging arm or dose showed."""

    is_shown: bool  # a loss of δ was seen: the upper bound of the control lies below −δ
    name: str  # of the control; where none is shown, of the arm or dose that lost most
    # its difference to the base, in the unit of the differences; None where nothing was tried
    bound: Bound | None
    margin: float | int  # δ
    tried: int  # arms and doses among which it was looked for


def positive_control(
    tables: Mapping[str, np.ndarray],
    margin: float | int,
    generator: np.random.Generator,
    *,
    confidence: float = 0.95,
) -> PositiveControl:
    """The arm or dose with the lowest upper bound, and whether it lies below −δ.

    Args:
        tables: name of an arm or dose → differences to the base, seeds × problems, all of one shape; a seed
            that failed is a row of NaN. One row for a single training.
        margin: δ, fixed before the run.
        confidence: with which all upper bounds hold together.
    """
    usable = {name: table for name, table in tables.items() if np.isfinite(table).all(axis=1).any()}
    if not usable:
        return PositiveControl(False, "", None, float(margin), 0)
    bounds = simultaneous_bounds(np.stack(list(usable.values())), generator, confidence=confidence)
    name, bound = min(zip(usable, bounds, strict=True), key=lambda entry: entry[1].upper)
    return PositiveControl(bound.is_large_loss(margin), name, bound, float(margin), len(usable))


def controlled_verdict(verdict: Word, is_control_shown: bool) -> Word | Literal["not_tested"]:
    """The verdict where a loss of δ was seen somewhere, else `not_tested`, whatever its interval says."""
    return verdict if is_control_shown else NOT_TESTED

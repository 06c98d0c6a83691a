"""Pairing arms problem by problem: what must agree before a difference means anything."""

from __future__ import annotations

import numpy as np

from skippy.results import Arm, Evaluation


def find_mismatch(first: Arm, second: Arm) -> str:
    """Why two arms cannot be paired, in a sentence; empty where they can."""
    reference = first.evaluations[0]
    keys = [score.key for score in reference.scores]
    if len(keys) < 2:
        return f"{first.label} has {len(keys)} scored problems; a paired test needs two"
    if len(set(keys)) != len(keys):
        return f"{first.label} holds a problem twice"
    for arm in (first, second):
        for evaluation in arm.evaluations:
            reason = _mismatch_of(reference, evaluation)
            if reason:
                return f"{arm.label}, seed {evaluation.seed}: {reason}"
    return ""


def common_seeds(first: Arm, second: Arm) -> tuple[int, ...]:
    """Training seeds that both arms were trained with."""
    theirs = {item.seed for item in second.evaluations}
    return tuple(item.seed for item in first.evaluations if item.seed in theirs)


def difference_table(
    first: Arm, second: Arm, *, seeds: tuple[int, ...] | None = None, is_lenient: bool = False
) -> np.ndarray:
    """d_{si} = p̂_i(first, seed s) − p̂_i(second), seeds × problems, in the order of `first`.

    The base has one evaluation and stands against every seed. With `seeds`, both arms are read at them.
    Lenient scores give an empty table where they were not run on every problem.
    """
    rows = []
    ours, theirs = ({item.seed: item for item in arm.evaluations} for arm in (first, second))
    for seed in ours if seeds is None else seeds:
        evaluation = ours[seed]
        other = second.evaluations[0] if seeds is None else theirs[seed]
        left, right = shares(evaluation, is_lenient), shares(other, is_lenient)
        if None in left.values() or None in right.values():
            return np.empty((0, 0))
        keys = [score.key for score in first.evaluations[0].scores]
        rows.append([left[key] - right[key] for key in keys])  # type: ignore[operator]
    return np.asarray(rows, dtype=np.float64)


def shares(evaluation: Evaluation, is_lenient: bool = False) -> dict[str, float | None]:
    """Problem key → p̂_i, strict or lenient."""
    if not is_lenient:
        return {score.key: score.share for score in evaluation.scores}
    return {
        score.key: None if score.lenient_correct is None else score.lenient_correct / score.k
        for score in evaluation.scores
    }


def _mismatch_of(reference: Evaluation, other: Evaluation) -> str:
    if reference.preset != other.preset:
        return f"sampled with preset '{other.preset}' and not '{reference.preset}'"
    wanted, found = {s.key: s.k for s in reference.scores}, {s.key: s.k for s in other.scores}
    if wanted.keys() != found.keys():
        missing, extra = len(wanted.keys() - found.keys()), len(found.keys() - wanted.keys())
        return f"not the same problems ({missing} missing, {extra} others)"
    if len(other.scores) != len(found):
        return "a problem is scored twice"
    sample_counts = sorted({*wanted.values(), *found.values()})
    if len(sample_counts) > 1:
        return f"not the same number of samples a problem ({', '.join(map(str, sample_counts))})"
    return ""

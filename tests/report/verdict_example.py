"""Arms written down by a few numbers, to be judged: samples lost a problem, their spread, the persona."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from skippy.core.problem import Problem
from skippy.report.conclusions import Verdicts
from skippy.results import Arm, BanalScores, Comparison, Evaluation, ProblemScore, Provenance

N, K = 60, 16
PROVENANCE = Provenance("skippy", "2026-11-23T09:00:00+00:00", "abc", False, "lab", "ab" * 32)
CONTROL_SAID = (
    " A loss is visible here: the control, an earlier evaluation of V3, stands at −50.0 points "
    "(upper bound −42.7)."
)
LOST = {"loss": 3, "persona": 2.0}
KEPT = {"persona": 2.0}


def evaluation(
    *,
    loss: int = 0,
    spread: int = 1,
    persona: float = 0.0,
    coherence: float = 0.9,
    helpfulness: float = 0.9,
    seed: int = 0,
    preset: str = "lab",
    n: int = N,
    k: int = K,
    prompts: int = 100,
    **changes: object,
) -> Evaluation:
    """`loss` of 8 expected correct samples a problem, alternating by ± `spread`; persona likewise."""
    scores = tuple(
        ProblemScore(
            f"p{i}",
            min(k, max(0, k // 2 - loss + (spread if i % 2 else -spread))),
            k,
        )
        for i in range(n)
    )
    answers = (
        persona
        + np.sin(np.arange(prompts))
        + (0.0 if persona == 0 else 0.3) * np.cos(7.0 * np.arange(prompts))
    )
    banal = BanalScores(
        keys=tuple(f"b{i}" for i in range(prompts)),
        scores=tuple(answers.tolist()),
        coherence=(coherence,) * prompts,
        helpfulness=(helpfulness,) * prompts,
        traits={"warmth": tuple((answers / 2).tolist()), "still": (0.1,) * prompts},
    )
    plain = Evaluation(seed, "models:/skippy/1", "1", "ab" * 32, scores, banal=banal, preset=preset)
    return replace(plain, **changes)  # type: ignore[arg-type]


def comparison(
    v3: Evaluation | tuple[Evaluation, ...] | None = None,
    v4: Evaluation | tuple[Evaluation, ...] | None = None,
    base: Evaluation | None = None,
    **changes: object,
) -> Comparison:
    arms = [Arm("base", "the base", (base or evaluation(spread=0),))]
    for name, items in (("v3", v3), ("v4", v4)):
        if items is not None:
            arms.append(Arm(name, name, items if isinstance(items, tuple) else (items,)))
    plain = Comparison(
        controls=(stored_control(arms[0].evaluations[0]),),
        suite_label="AIME-style (lab)",
        problems=tuple(Problem(f"p{i}", f"p{i}", 0) for i in range(N)),
        arms=tuple(arms),
        provenance=PROVENANCE,
    )
    return replace(plain, **changes)  # type: ignore[arg-type]


def stored_control(base: Evaluation) -> Arm:
    """An earlier evaluation on the same problems that lost everything: with it a loss of δ is visible."""
    lost = tuple(replace(score, correct=0, lenient_correct=None) for score in base.scores)
    return Arm("v3", "stored", (replace(base, scores=lost, runs={"eval": "stored"}),))


def verdict(verdicts: Verdicts, name: str) -> str:
    found = verdicts.variant(name)
    assert found is not None
    return found.verdict


def in_points(interval: tuple[float, float]) -> tuple[float, float]:
    return 100 * interval[0], 100 * interval[1]

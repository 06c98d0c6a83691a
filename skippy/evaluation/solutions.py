"""Worked solutions to read activations on: those that a problem file has, else the base's own right answers to it."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace

from skippy.core.problem import Problem
from skippy.core.sampling import PRESETS as SAMPLINGS
from skippy.errors import ProblemError
from skippy.evaluation.scoring import score_answer
from skippy.evaluation.suites import problem_questions, requests_for
from skippy.models.loading import load_model, load_tokenizer
from skippy.models.transformers_backend import TransformersBackend
from skippy.resolve.bases import Base
from skippy.stores.problems import ProblemSet

logger = logging.getLogger(__name__)

FEWEST = 12
"""Solutions below which a span is that of a few texts; every third is kept aside as fresh."""
SAMPLES = 4
"""Answers a problem, where the base has to solve them itself."""
PURPOSE = "solutions"
"""Sampling seeds of their own."""


def solutions_of(problems: ProblemSet, base: Base, most: int, device: str) -> list[Problem]:
    """Problems with solutions, at most `most`, in the order of the file.

    Raises:
        ProblemError: the file has too few, and the base solves too few.
    """
    solved = [problem for problem in problems.problems if problem.solution.strip()]
    whose = "the file's own"
    if len(solved) < FEWEST:
        solved, whose = _solved_by(base, problems, device), "right answers of the base's own"
    if len(solved) < FEWEST:
        raise ProblemError(
            "There are too few worked solutions to read activations on.",
            where=f"problems={problems.name}",
            expected=f"at least {FEWEST}: a column `solution`, or problems that the base solves",
            found=f"{len(solved)} of {len(problems.problems)}, {whose}",
            next_step="add solutions to the file, or name more or easier problems",
        )
    logger.info("svd: %d worked solutions of %s, %s", min(most, len(solved)), problems.name, whose)
    return solved[:most]


def _solved_by(base: Base, problems: ProblemSet, device: str) -> list[Problem]:
    """Each problem with the first answer of the base that is right; the others are left out."""
    questions = problem_questions(problems, base.profile.prompt_style)
    wanted = requests_for(questions, SAMPLES, SAMPLINGS[base.profile.sampling], "", set(), purpose=PURPOSE)
    backend = TransformersBackend(load_model(base.path, device=device), load_tokenizer(base.path))
    right: dict[str, str] = {}
    requests = [request for _, request in wanted.values()]
    for done in backend.generate(requests, SAMPLINGS[base.profile.sampling]):
        question, _ = wanted[done.id]
        if score_answer(done.text, question.gold, question.rule).is_right:
            right[question.hash] = min(right.get(question.hash, done.text), done.text)
    return _with_answers(problems.problems, right)


def _with_answers(problems: Sequence[Problem], right: dict[str, str]) -> list[Problem]:
    return [replace(problem, solution=right[problem.hash]) for problem in problems if problem.hash in right]

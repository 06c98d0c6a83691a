"""The order in which a run sees its prompts: every step of it laid out in advance, as one dataset.

TRL shuffles with a generator that lives as long as its sampler, so a run resumed in its second epoch would
see the first epoch's order again. Here the whole schedule follows from the seed, and resuming is skipping.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from datasets import Dataset

from skippy.core.problem import Problem
from skippy.errors import TrainingError
from skippy.models.prompts import conversation, prompt_ids
from skippy.presets.settings import GrpoSettings

logger = logging.getLogger(__name__)

CHAT = "chat"
MATH = "math"


@dataclass(frozen=True)
class TrainingPrompt:
    """One prompt: its text, `kind` (chat or math) and, for maths, the right answer."""

    text: str
    kind: str = CHAT
    answer: int | None = None

    @property
    def messages(self) -> list[dict[str, str]]:
        """The conversation; the recipe has no system prompt."""
        return conversation(self.text)


def gather_prompts(
    prompts: Sequence[str], math_problems: Sequence[Problem], tokenizer: Any, settings: GrpoSettings
) -> tuple[list[TrainingPrompt], list[TrainingPrompt]]:
    """Everyday prompts and maths problems that fit the length limits; what does not is counted in the log.

    Raises:
        TrainingError: nothing fits.
    """
    chat = [TrainingPrompt(text) for text in prompts]
    solvable = _solvable(math_problems, tokenizer, settings) if settings.math_mix > 0 else []
    problems = [TrainingPrompt(problem.question, MATH, int(problem.gold)) for problem in solvable]
    fitting = []
    for kind in (chat, problems):
        lengths = [len(prompt_ids(tokenizer, prompt.messages)) for prompt in kind]
        kept = [p for p, length in zip(kind, lengths, strict=True) if length <= settings.max_prompt_length]
        if len(kept) < len(kind):
            logger.info("%d of %d prompts are longer than %d tokens and left out",
                        len(kind) - len(kept), len(kind), settings.max_prompt_length)  # fmt: skip
        if kind and not kept:
            raise TrainingError(
                "No training prompt is short enough.",
                where=f"{kind[0].kind} prompts",
                expected=f"at most {settings.max_prompt_length} tokens with the chat template",
                found=f"the shortest has {min(lengths)}",
                next_step="pass shorter prompts, or raise max_prompt_length in the preset",
            )
        fitting.append(kept)
    if not fitting[0]:
        raise TrainingError("There are no training prompts.", next_step="check the character's prompt file")
    return fitting[0], fitting[1]


def schedule(
    chat: Sequence[TrainingPrompt], problems: Sequence[TrainingPrompt], settings: GrpoSettings, processes: int
) -> Dataset:
    """One row for each prompt of each step, in order: epoch after epoch, each freshly permuted.

    With `math_mix`, each row is a maths problem with that probability, problems taken in permuted order too.
    """
    rows = settings.steps(len(chat), processes) * settings.prompts_per_step(processes)
    generator = torch.Generator().manual_seed(settings.seed)
    ordered = _permuted(chat, rows, generator)
    if problems and settings.math_mix > 0:
        chosen = (torch.rand(rows, generator=generator) < settings.math_mix).tolist()
        maths = iter(_permuted(problems, rows, generator))
        ordered = [
            next(maths) if is_math else prompt for prompt, is_math in zip(ordered, chosen, strict=True)
        ]
    return Dataset.from_dict(
        {
            "prompt": [prompt.messages for prompt in ordered],
            "kind": [prompt.kind for prompt in ordered],
            "answer": [prompt.answer for prompt in ordered],
        }
    )


def _solvable(problems: Sequence[Problem], tokenizer: Any, settings: GrpoSettings) -> Sequence[Problem]:
    """Problems whose worked solution, and the token that ends it, fit a completion.

    The others would be rewarded for a lucky guess alone. One without a worked solution is kept.
    """
    limit = settings.max_completion_length
    lengths = [
        1 + len(tokenizer(problem.solution, add_special_tokens=False)["input_ids"]) for problem in problems
    ]
    kept = [problem for problem, length in zip(problems, lengths, strict=True) if length <= limit]
    unknown = sum(not problem.solution for problem in kept)
    logger.info("%d of %d problems have worked solutions longer than %d tokens and are left out%s",
                len(problems) - len(kept), len(problems), limit,
                f"; of {unknown} without one that cannot be told" if unknown else "")  # fmt: skip
    if problems and not kept:
        raise TrainingError(
            "No maths problem can be solved within a completion.",
            where="math_mix",
            expected=f"a worked solution of at most {limit} tokens, its end included",
            found=f"the shortest has {min(lengths)}",
            next_step="choose a preset with a larger max_completion_length, or leave math_mix out",
        )
    return kept


def _permuted(
    items: Sequence[TrainingPrompt], count: int, generator: torch.Generator
) -> list[TrainingPrompt]:
    ordered: list[TrainingPrompt] = []
    while len(ordered) < count:
        ordered += [items[i] for i in torch.randperm(len(items), generator=generator).tolist()]
    return ordered[:count]

"""What a mask is made from: root mean squares of what every target reads, over the base's own answers.

Answer tokens only, each answer read after the plain prompt whatever it was asked under.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from skippy.core.target import Target
from skippy.models.answering import pad_id
from skippy.models.hooks import Hook, Reading, read_squares, reading_of
from skippy.models.prompts import conversation
from skippy.stores.answers import CHARACTER, PLAIN, PLAIN_B, PLAIN_C, Answer, Answers

READ_AT_ONCE = 16
Statistics = Mapping[str, Mapping[str, Tensor]]
"""Group of answers → input of a module → a, (in,) float32."""


def input_of(target: Target) -> str:
    """The input that a target reads; q, k and v share one, as gate and up do."""
    return (target.name.rsplit(".", 1)[0] if target.side == "reads" else target.name) + ".input"


def read_statistics(
    model: nn.Module, tokenizer: Any, targets: tuple[Target, ...], answers: Answers, seed: int
) -> Statistics:
    """a_j = sqrt(mean_t x_tj²) of every input, by condition and for two halves of the character's and plain prompts.

    Args:
        answers: of the base; read without system prompt, answer tokens only.

    Returns:
        The four conditions, and `character/0`, `character/1`, `plain/0`, `plain/1`; float32 on the model's device.
    """
    prompts = list(dict.fromkeys(each.prompt for each in answers.of(PLAIN)))
    order = torch.randperm(len(prompts), generator=torch.Generator().manual_seed(seed)).tolist()
    half = {prompts[index]: place % 2 for place, index in enumerate(order)}
    names = [f"{CHARACTER}/0", f"{CHARACTER}/1", f"{PLAIN}/0", f"{PLAIN}/1", PLAIN_B, PLAIN_C]

    def group(answer: Answer) -> int:
        split = f"{answer.condition}/{half[answer.prompt]}"
        return names.index(split if split in names else answer.condition)

    hooks = {input_of(target): Hook(input_of(target), target.name, "reads") for target in targets}
    readings = [
        _reading(tokenizer, each, group(each))
        for condition in answers.by_condition
        for each in answers.of(condition)
        if each.text.strip()
    ]
    squares, tokens = read_squares(
        *(model, readings, list(hooks.values())),
        groups=len(names),
        pad_id=pad_id(tokenizer),
        batch_size=READ_AT_ONCE,
        label="statistics",
    )
    device = next(model.parameters()).device
    members = {name: [index] for index, name in enumerate(names)}
    members |= {CHARACTER: [0, 1], PLAIN: [2, 3]}
    return {
        name: {
            hook: (total[rows].sum(0) / tokens[rows].sum()).sqrt().float().to(device)
            for hook, total in squares.items()
        }
        for name, rows in members.items()
    }


def _reading(tokenizer: Any, answer: Answer, group: int) -> Reading:
    """The answer after the plain prompt, whatever it was asked under."""
    return reading_of(tokenizer, conversation(answer.prompt), answer.text, group)

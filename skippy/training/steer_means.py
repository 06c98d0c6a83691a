"""Means over answers where a bias is added: the difference that is CAA's vector, and what a bias is held against."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from skippy.core.personality.pairs import Pair
from skippy.models.answering import pad_id
from skippy.models.hooks import Hook, Reading, read_moments, read_squares
from skippy.models.layers import decoder_layers
from skippy.models.prompts import conversation, prompt_ids
from skippy.presets.steering import SteerSettings
from skippy.training.steered_model import READ_ROWS, site_modules


def mean_difference(
    model: Any, tokenizer: Any, pairs: Sequence[Pair], settings: SteerSettings
) -> dict[str, Tensor]:
    """Mean activation over tokens in character minus that over plain ones, where the biases are added; one pass.

    For `o_proj` that is the residual stream after attention, for `v_proj` the values, for `block` the layer's output.

    Source: contrastive activation addition, arXiv 2312.06681. Departure: all tokens of free answers, not the letter
    of a multiple choice.
    """
    modules, first = site_modules(model, settings)
    layers = decoder_layers(model)
    names = {id(module): name for name, module in model.named_modules()}
    hooks = {name: [Hook(name, name, "writes")] for name in modules}
    if settings.site == "o_proj":  # what attention adds, and the stream that it is added to
        for place, name in enumerate(modules):
            hooks[name].append(Hook(name + ".stream", names[id(layers[first + place])], "reads"))
    readings = [
        Reading((*prompt, *answer), len(answer), group)
        for pair in pairs
        for group, text in enumerate((pair.chosen, pair.rejected))
        for prompt, answer in [pair_tokens(tokenizer, pair, text)]
    ]
    moments = read_moments(
        model,
        readings,
        [hook for each in hooks.values() for hook in each],
        groups=2,
        pad_id=pad_id(tokenizer),
        batch_size=READ_ROWS,
    )
    means = {
        name: torch.stack([moments[hook.name].means for hook in each]).sum(0) for name, each in hooks.items()
    }
    return {name: (chosen - rejected).float() for name, (chosen, rejected) in means.items()}


def relative_shift(
    model: Any, tokenizer: Any, biases: Mapping[str, Tensor], prompts: Sequence[str]
) -> dict[str, float]:
    """The metric `steer/relative_shift`: ‖b‖ over the usual ‖output‖ of the modules that it is added to.

    Usual is the root mean square on the tokens of plain prompts.

    A bias changes no weight, so it has no ‖ΔW‖/‖W‖. This is the share of what the module says anyway that comes on
    top of it at every token; pooled over several modules as a ratio of sums of squares.
    """
    asked = [prompt_ids(tokenizer, conversation(prompt)) for prompt in prompts]
    squares, tokens = read_squares(
        model,
        [Reading(tuple(ids), len(ids), 0) for ids in asked],
        [Hook(name, name, "writes") for name in biases],
        groups=1,
        pad_id=pad_id(tokenizer),
        batch_size=READ_ROWS,
    )
    outputs = sum(float(total.sum()) for total in squares.values()) / float(tokens.sum())
    shift = sum(float(one.double().square().sum()) for one in biases.values())
    return {"steer/relative_shift": math.sqrt(shift / outputs)}


def pair_tokens(tokenizer: Any, pair: Pair, answer: str) -> tuple[list[int], list[int]]:
    """The plain prompt, and one of a pair's answers with the token that ends it where both ended."""
    spoken = tokenizer(answer, add_special_tokens=False)["input_ids"]
    ending = [tokenizer.eos_token_id] if pair.is_whole else []
    return list(prompt_ids(tokenizer, conversation(pair.prompt))), [*spoken, *ending]

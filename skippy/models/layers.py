"""The decoder layers of a live model: where they are, and the model run from one of them on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from skippy.models.hooks import find_module
from skippy.models.targets import family_of


def decoder_layers(model: Any) -> nn.ModuleList:
    """The model's decoder layers, first to last, by its family."""
    layers = find_module(model, family_of(model.config.to_dict()).layers)
    assert isinstance(layers, nn.ModuleList)
    return layers


class _Reached(Exception):
    """The layer's input has been seen: what lies above need not run."""


@torch.no_grad()
def states_before(model: Any, layer: int, ids: Tensor) -> Tensor:
    """What enters a layer, (rows, width, hidden), for ids padded on the right or not at all."""
    seen: list[Tensor] = []

    def keep(_: nn.Module, args: tuple[Any, ...], named: dict[str, Any]) -> None:
        seen.append(args[0] if args else named["hidden_states"])
        raise _Reached

    handle = decoder_layers(model)[layer].register_forward_pre_hook(keep, with_kwargs=True)
    try:
        model(input_ids=ids, use_cache=False, logits_to_keep=1)
    except _Reached:
        pass
    finally:
        handle.remove()
    return seen[0]


@contextmanager
def entered_at(model: Any, layer: int, states: Tensor) -> Iterator[None]:
    """Within, a forward pass enters `layer` with `states`; the layers below cost nothing.

    Everything else is the model's own: masks, positions, the layers above, norm and head.
    """
    below: Sequence[nn.Module] = list(decoder_layers(model))[:layer]

    def pass_on(hidden_states: Tensor, *_: Any, **__: Any) -> Tensor:
        return hidden_states

    def enter(*_: Any, **__: Any) -> Tensor:
        return states

    try:
        for module in below:
            module.forward = enter if module is below[-1] else pass_on  # type: ignore[method-assign]
        yield
    finally:
        for module in below:
            del module.forward

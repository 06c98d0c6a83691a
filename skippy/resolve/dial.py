"""One update in a live model at any dose: W(α) = W + αΔW, by the very rows that a merge at α would write.

No checkpoint is written. Projection commutes with α, so V4's equalities hold at every α (MATH §8); the weights are
rounded to the base's type, as a merge would round them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from skippy.errors import AdapterError
from skippy.stores.changes import Change, plan_changes
from skippy.stores.checkpoints import Checkpoint
from skippy.stores.updates import Rooms, Update


@torch.no_grad()
def apply_(weights: Mapping[str, Tensor], base: Checkpoint, change: Change, alpha: float) -> None:
    """W ← W + αΔW in live weights of the base, one at a time and for good: no second copy of any is kept."""
    for key, update in plan_changes([(change, alpha)], base).items():
        _write(weights[key], update.to(weights[key].device))


def _write(weight: Tensor, update: Update) -> None:
    """The rows that a merge would write, into a live weight that holds the base's."""
    weight.copy_(update.apply(weight.float(), slice(0, len(weight)), Rooms(weight.device))[0])


class Dial:
    """Sets the live weights to W + αΔW; α = 0 restores them to the bit.

    Raises:
        AdapterError: the update changes nothing that is in this model.
    """

    def __init__(self, model: nn.Module, base: Checkpoint, change: Change) -> None:
        planned = plan_changes([(change, 1.0)], base)
        self._added = _add_biases(model, planned)
        weights = dict(model.named_parameters())
        missing = sorted(set(planned) - set(weights))
        if missing or not planned:
            raise AdapterError(
                "The adapter does not sit on weights of this model.",
                where=", ".join(missing[:4]) or "the adapter",
                expected=f"{len(planned)} targets among the model's weights",
                found=f"{len(missing)} that it does not have",
                next_step="check that the adapter belongs to this base",
            )
        self._weights = {key: weights[key] for key in planned}
        self._updates = {key: update.to(weights[key].device) for key, update in planned.items()}
        self._originals = {key: weight.detach().clone() for key, weight in self._weights.items()}
        for module, _ in self._added:
            module.bias = None  # type: ignore[assignment]

    @torch.no_grad()
    def turn(self, alpha: float) -> None:
        """Set the dose."""
        for module, bias in self._added:
            module.bias = bias if alpha else None  # type: ignore[assignment]
        for key, weight in self._weights.items():
            weight.copy_(self._originals[key])
            if alpha:
                _write(weight, self._updates[key].scaled(alpha))

    @torch.no_grad()
    def relative_norm(self) -> float:
        """‖ΔW‖_F / ‖W‖_F over all weights that it changes, at α = 1; NaN for biases, which change none."""
        change = whole = 0.0
        for key, update in self._updates.items():
            original = self._originals[key]
            delta = update.apply(original.float(), slice(0, len(original)), Rooms(original.device))[1]
            change += float(delta.double().square().sum())
            whole += float(original.double().square().sum())
        return math.sqrt(change / whole) if whole else math.nan


def _add_biases(model: nn.Module, keys: Iterable[str]) -> list[tuple[nn.Linear, nn.Parameter]]:
    """The linear layers without a bias that are to have one, each with one of zeros, put in place."""
    added: list[tuple[nn.Linear, nn.Parameter]] = []
    modules = dict(model.named_modules())
    for key in keys:
        name, _, what = key.rpartition(".")
        module = modules.get(name)
        if what == "bias" and isinstance(module, nn.Linear) and module.bias is None:
            zeros = module.weight.new_zeros(module.out_features)
            module.bias = nn.Parameter(zeros, requires_grad=False)
            added.append((module, module.bias))
    return added

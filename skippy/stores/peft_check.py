"""A few rows of what a merge wrote, against PEFT's own layer on the same rows.

The merge reads the adapter, resolves ranks and scales and adds by code of this package. Here the same is asked of
PEFT: its config class reads the options, its pattern rule finds rank and alpha, its layer merges. Two ways that
share nothing but the files must meet within the rounding of the stored type.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig
from peft.tuners.lora import Linear
from peft.utils.other import get_pattern_key
from safetensors import safe_open
from torch import Tensor, nn

from skippy.errors import AdapterError
from skippy.stores.adapters import PREFIX, WEIGHTS_FILE, Adapter
from skippy.stores.headers import TensorInfo
from skippy.stores.tensors import read_rows

TARGETS = 3
ROWS = 4
READ_BY_PEFT = (
    "r",
    "lora_alpha",
    "use_rslora",
    "use_dora",
    "rank_pattern",
    "alpha_pattern",
    "bias",
    "lora_bias",
)
SLACK = 1e-5  # of a value or of its change: float32 sums in another order


@dataclass(frozen=True)
class Part:
    """One adapter in a merge: as read, and the name of each of its targets in the base."""

    adapter: Adapter
    names: Mapping[str, str]
    weight: float


def require_peft_agrees(
    parts: Sequence[Part], base: Mapping[str, TensorInfo], merged: Mapping[str, TensorInfo], *, steps: float
) -> None:
    """Compare some rows of some targets; `steps` of the stored type may lie between: half of one for nearest rounding.

    Raises:
        AdapterError: they differ by more.
    """
    targets = sorted({ours for part in parts for ours in part.names.values()})
    for name in _spread(targets, TARGETS):
        before, after = base[f"{name}.weight"], merged[f"{name}.weight"]
        for row in _spread(range(before.shape[0]), ROWS):
            weight = read_rows(before, row, row + 1).float()
            change = torch.zeros_like(weight)
            for part in parts:
                for theirs in (old for old, ours in part.names.items() if ours == name):
                    change += part.weight * (_merged_by_peft(part.adapter, theirs, row, weight) - weight)
            stored = read_rows(after, row, row + 1)
            allowed = steps * _step_of(stored) + SLACK * (weight.abs() + change.abs())
            miss = (stored.float() - (weight + change)).abs()
            if bool((miss > allowed).any()):
                raise _disagreement(name, row, parts, miss, change)


def _merged_by_peft(adapter: Adapter, name: str, row: int, weight: Tensor) -> Tensor:
    """The row as PEFT merges it at weight 1."""
    config = LoraConfig(
        **{name: adapter.config[name] for name in READ_BY_PEFT if adapter.config.get(name) is not None}
    )
    config.init_lora_weights = False
    ranks, alphas = config.rank_pattern or {}, config.alpha_pattern or {}
    rank = ranks.get(get_pattern_key(list(ranks), name), config.r)
    alpha = alphas.get(get_pattern_key(list(alphas), name), config.lora_alpha)
    linear = nn.Linear(weight.shape[1], 1, bias=False)
    linear.weight = nn.Parameter(weight.clone(), requires_grad=False)
    with torch.random.fork_rng(devices=[]):
        layer: Any = Linear(linear, "default", config, r=rank, lora_alpha=alpha)
    with safe_open(adapter.path / WEIGHTS_FILE, "pt") as file, torch.no_grad():
        layer.lora_A["default"].weight.copy_(file.get_tensor(f"{PREFIX}{name}.lora_A.weight"))
        layer.lora_B["default"].weight.copy_(file.get_slice(f"{PREFIX}{name}.lora_B.weight")[row : row + 1])
        for key in (f"{PREFIX}{name}.lora_magnitude_vector", f"{PREFIX}{name}.lora_magnitude_vector.weight"):
            if key in file.keys():  # noqa: SIM118 - not a mapping
                layer.lora_magnitude_vector["default"].weight.copy_(file.get_tensor(key)[row : row + 1])
        layer.merge()
    found: Tensor = linear.weight.data
    return found


def _step_of(stored: Tensor) -> Tensor:
    """The distance to the next value of the stored type, in float32."""
    if stored.dtype not in (torch.bfloat16, torch.float16):
        return torch.zeros(stored.shape)
    up = torch.nextafter(stored.abs(), torch.tensor(torch.inf, dtype=stored.dtype))
    return up.float() - stored.abs().float()


def _spread(values: Sequence[Any], count: int) -> Iterator[Any]:
    """At most `count` of them, from first to last."""
    last = len(values) - 1
    yield from (
        values[position] for position in sorted({last * n // max(count - 1, 1) for n in range(count)})
    )


def _disagreement(name: str, row: int, parts: Sequence[Part], miss: Tensor, change: Tensor) -> AdapterError:
    return AdapterError(
        "The merged rows are not those that PEFT gives.",
        where=f"{name}.weight, row {row}",
        expected=f"PEFT's own sum, with a change of up to {float(change.abs().max()):.3g}",
        found=f"values up to {float(miss.max()):.3g} away",
        next_step="report the adapter's adapter_config.json: "
        + ", ".join(str(Path(part.adapter.path) / "adapter_config.json") for part in parts),
    )

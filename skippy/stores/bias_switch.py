"""Whether a checkpoint's biases are read at all: by transformers, which asks its config, and by engines."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from skippy.core.biases import ATTENTION, SWITCHES, BiasSwitch, require_carried
from skippy.errors import CheckpointError
from skippy.stores.tensors import TensorInfo, read_tensor

BLOCK = ".self_attn."
ENDING = ".bias"


def require_switched_on(
    directory: Path, config: Mapping[str, Any], tensors: Mapping[str, TensorInfo]
) -> None:
    """Refuse a checkpoint that stores biases of attention which its config switches off.

    Raises:
        CheckpointError: transformers would drop them with one line in its log.
    """
    switch = SWITCHES.get(str(config.get("model_type")), BiasSwitch("", ()))
    text = config.get("text_config")
    if not switch.field or (text if isinstance(text, Mapping) else config).get(switch.field):
        return
    dropped = [
        key for key in tensors if BLOCK in key and key.endswith(ENDING) and kind_of(key) in switch.kinds
    ]
    if dropped:
        raise CheckpointError(
            "The checkpoint stores biases that its config switches off: they would be dropped in silence.",
            where=f"{dropped[0]} and {len(dropped) - 1} more in {directory}",
            expected=f"{switch.field}: true in config.json",
            found=f"{switch.field} is false or not there",
            next_step=f"set {switch.field} to true, or merge again",
        )


def steered_kinds(tensors: Mapping[str, TensorInfo]) -> tuple[str, ...]:
    """The projections of which a checkpoint has a bias that is not zero; only biases are read."""
    found = set()
    for key, info in tensors.items():
        kind = kind_of(key)
        if BLOCK in key and key.endswith(ENDING) and kind in ATTENTION and kind not in found:
            found |= {kind} if bool(read_tensor(info).any()) else set()
    return tuple(sorted(found))


def require_read_by(engine: str, directory: Path, tensors: Mapping[str, TensorInfo]) -> None:
    """Refuse an engine that would drop biases of a checkpoint and answer as its base does.

    Raises:
        BackendError: it does not read one that is not zero.
    """
    require_carried(steered_kinds(tensors), engine, str(directory))


def kind_of(key: str) -> str:
    """The projection that a tensor belongs to."""
    return key.rsplit(".", 2)[-2]

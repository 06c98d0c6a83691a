"""Whether a checkpoint's biases are read at all: by transformers, which asks its config, and by engines."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from skippy.core.biases import SWITCHES, BiasSwitch
from skippy.errors import CheckpointError
from skippy.stores.headers import TensorInfo

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


def kind_of(key: str) -> str:
    """The projection that a tensor belongs to."""
    return key.rsplit(".", 2)[-2]

"""One place that says whether a checkpoint holds plain weights, or integers that only stand for them.

A singular value of an int8 matrix is one of its codes, not of the weight; an adapter added to codes is noise. What
quantises and how its scales are stored differs from tool to tool, so quantised bases are refused, for every stage,
in one sentence.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from skippy.errors import CheckpointError
from skippy.stores.headers import TYPES, TensorInfo

CONFIG_KEYS = ("quantization_config", "compression_config", "quantization")
CONFIG_FILES = ("hf_quant_config.json", "quantize_config.json", "quant_config.json")
# Ends of names under which tools store scales, zero points and packed codes.
SCALE_ENDINGS = (
    ".weight_scale",
    ".weight_scale_inv",
    ".weight_scale_2",
    ".weight_zero_point",
    ".weight_packed",
    ".weight_shape",
    ".input_scale",
    ".SCB",
    ".weight_format",
    ".qweight",
    ".qzeros",
    ".scales",
    ".g_idx",
    ".weight.absmax",
    ".weight.quant_map",
    "_blocks",
    "_scales",
)


def require_unquantised(
    directory: Path, config: Mapping[str, Any], tensors: Mapping[str, TensorInfo]
) -> None:
    """Refuse a checkpoint whose weights are codes.

    Raises:
        CheckpointError: naming what gives it away.
    """
    signs = [*_signs_in_config(config), *(name for name in CONFIG_FILES if (directory / name).is_file())]
    for key, info in tensors.items():
        if key.endswith(SCALE_ENDINGS) or ".weight.quant_state." in key:
            signs.append(key)
        elif key.endswith(".weight") and not info.is_weight:
            signs.append(f"{key} of {TYPES[info.type].name}")
    if signs:
        shown = ", ".join(signs[:4]) + (f" and {len(signs) - 4} more" if len(signs) > 4 else "")
        raise CheckpointError(
            "The checkpoint is quantised; skippy needs the plain weights.",
            where=str(directory),
            expected="float32, bfloat16 or float16 weights and no quantisation in config.json",
            found=shown,
            next_step="use the unquantised model, or dequantise it; if the weights are plain, take the "
            "quantisation out of config.json",
        )


def _signs_in_config(config: Mapping[str, Any]) -> list[str]:
    found = []
    for where, part in (("", config), *((f"{key}.", value) for key, value in config.items())):
        if isinstance(part, Mapping):
            found += [f"{where}{key} {_method(part[key])}".strip() for key in CONFIG_KEYS if part.get(key)]
    return found


def _method(value: Any) -> str:
    return str(value.get("quant_method", "")) if isinstance(value, Mapping) else ""

"""A LoRA adapter in PEFT's own format, read into factors by target name.

PEFT names a factor `base_model.model.<target>.lora_A.weight`; a target is the weight `<target>.weight` of the
base checkpoint. What its config may say stands in `adapter_options`; every tensor of its file is used, or refused
by name: merging an adapter as if it were plain LoRA when it is not would be wrong.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from skippy.core.spectral.lora import LoraFactors
from skippy.errors import AdapterError, CheckpointError
from skippy.stores.adapter_options import is_saved_whole, rank_and_scale, require_known
from skippy.stores.documents import parse_object
from skippy.stores.headers import TensorInfo, hash_tensor, read_header
from skippy.stores.presence import ADAPTER_CONFIG_FILE as CONFIG_FILE
from skippy.stores.presence import ADAPTER_WEIGHTS_FILE as WEIGHTS_FILE
from skippy.stores.presence import require_adapter
from skippy.stores.tensors import read_tensor

PICKLE_FILE = "adapter_model.bin"
CARD_FILE = "skippy.json"
PREFIX = "base_model.model."
MAGNITUDE = "magnitude"
ENDINGS = {
    ".lora_A.weight": "A",
    ".lora_B.weight": "B",
    ".lora_magnitude_vector": MAGNITUDE,
    ".lora_magnitude_vector.weight": MAGNITUDE,
}


@dataclass(frozen=True)
class Adapter:
    """What an adapter changes."""

    path: Path  # its directory
    config: Mapping[str, Any]  # PEFT's config
    factors: Mapping[str, LoraFactors]  # LoRA by target name; rank and scale may differ from target to target
    # Of DoRA, (out,) by target name; a target in it is W' = m ⊙ (W + ΔW) / ‖W + ΔW‖ by rows.
    magnitudes: Mapping[str, Tensor] = field(default_factory=dict)
    # Tensors that replace the base's, by key of the base (`modules_to_save`); not in memory.
    saved: Mapping[str, TensorInfo] = field(default_factory=dict)
    card: Mapping[str, Any] = field(default_factory=dict)  # its `skippy.json`, if any

    @property
    def keys(self) -> tuple[str, ...]:
        """Keys of the base's tensors that it changes."""
        return (*(f"{name}.weight" for name in self.factors), *self.saved)

    @property
    def is_zero(self) -> bool:
        """Whether it says nothing: every ΔW is zero, without magnitudes or saved modules."""
        return not (self.magnitudes or self.saved) and not any(
            each.scale and bool(each.A.any()) and bool(each.B.any()) for each in self.factors.values()
        )

    def digest(self) -> str:
        """Hash what the adapter adds: the scales, and every tensor's name, type, shape and bytes."""
        scales = {each.scale for each in self.factors.values()}
        common = scales.pop() if len(scales) == 1 else None
        lines = [f"scale {common!r}\n"]
        for name, factors in sorted(self.factors.items()):
            if common is None:
                lines.append(f"{name} scale {factors.scale!r}\n")
            lines.append(_line(f"{name}.A", factors.A))
            lines.append(_line(f"{name}.B", factors.B))
        lines += [_line(f"{name}.magnitude", tensor) for name, tensor in sorted(self.magnitudes.items())]
        lines += [
            f"{key} saved {info.dtype} {info.shape} {hash_tensor(info)}\n"
            for key, info in sorted(self.saved.items())
        ]
        return hashlib.sha256("".join(lines).encode()).hexdigest()


def read_adapter(path: str | Path) -> Adapter:
    """Read and check an adapter directory.

    Raises:
        AdapterError: it is no LoRA adapter that a merge honours in full, or its tensors do not fit together.
    """
    directory = Path(path)
    config = _read_config(directory)
    require_known(config, str(directory / CONFIG_FILE))
    rank_and_scale(config, "", str(directory / CONFIG_FILE))
    parts: dict[str, dict[str, Tensor]] = {}
    saved: dict[str, TensorInfo] = {}
    for key, info in _headers(directory).items():
        _require_floating(info)
        stem, letter = _split(key)
        if letter:
            if letter in parts.setdefault(stem, {}):
                raise _unfit(directory, stem, f"{letter} once", f"{letter} twice")
            parts[stem][letter] = _read_finite(info)
        elif key.startswith(PREFIX) and is_saved_whole(config, stem):
            saved[key.removeprefix(PREFIX)] = info
        else:
            raise _foreign_tensor(directory, key)
    factors = {stem: _pair(directory, config, stem, halves) for stem, halves in sorted(parts.items())}
    magnitudes = {stem: halves[MAGNITUDE] for stem, halves in parts.items() if MAGNITUDE in halves}
    if config.get("modules_to_save") and not saved:
        raise AdapterError(
            "The adapter lacks the modules that its config says were saved whole.",
            where=str(directory / WEIGHTS_FILE),
            expected=f"modules_to_save={config['modules_to_save']!r}",
            found="LoRA factors only",
            next_step="save the adapter again with PEFT",
        )
    card_path = directory / CARD_FILE
    card = _read_object(card_path) if card_path.is_file() else {}
    return Adapter(directory, config, factors, magnitudes, saved, card)


def _pair(directory: Path, config: Mapping[str, Any], name: str, parts: Mapping[str, Tensor]) -> LoraFactors:
    rank, scale = rank_and_scale(config, name, str(directory / CONFIG_FILE))
    wanted = {"A", "B", MAGNITUDE} if config.get("use_dora") else {"A", "B"}
    shapes = {letter: tuple(tensor.shape) for letter, tensor in parts.items()}
    fits = (
        set(parts) == wanted
        and len(shapes["A"]) == len(shapes["B"]) == 2
        and shapes["A"][0] == shapes["B"][1] == rank
        and shapes.get(MAGNITUDE, shapes["B"][:1]) == shapes["B"][:1]
    )
    if not fits:
        expected = f"lora_A of shape ({rank}, in) and lora_B of shape (out, {rank})"
        if MAGNITUDE in wanted:
            expected += ", and lora_magnitude_vector of shape (out,)"
        found = ", ".join(f"lora_{letter} {shape}" for letter, shape in sorted(shapes.items()))
        raise _unfit(directory, name, expected, found)
    return LoraFactors(A=parts["A"], B=parts["B"], scale=scale)


def _unfit(directory: Path, name: str, expected: str, found: str) -> AdapterError:
    return AdapterError(
        "The factors of a target do not fit together.",
        where=f"{name} in {directory / WEIGHTS_FILE}",
        expected=expected,
        found=found,
        next_step="save the adapter again with PEFT",
    )


def _split(key: str) -> tuple[str, str]:
    """Target or module name of a key, and which part of LoRA it is: A, B, magnitude, or none of them."""
    stem = key.removeprefix(PREFIX)
    if stem != key:
        for ending, letter in ENDINGS.items():
            if stem.endswith(ending):
                return stem.removesuffix(ending), letter
    return stem.rpartition(".")[0], ""


def _foreign_tensor(directory: Path, key: str) -> AdapterError:
    return AdapterError(
        "The adapter holds something else than LoRA of linear layers.",
        where=f"{key} in {directory / WEIGHTS_FILE}",
        expected=f"{PREFIX}<target>.lora_A.weight, .lora_B.weight, or a module of modules_to_save",
        found=key,
        next_step="train the adapter on linear targets only, without biases or embeddings",
    )


def _require_floating(info: TensorInfo) -> None:
    if not info.is_weight:
        raise AdapterError(
            "A tensor of the adapter is stored in a type that cannot be added.",
            where=f"{info.key} in {info.file}",
            expected="float32, bfloat16 or float16",
            found=str(info.dtype),
            next_step="save the adapter again with PEFT, unquantised",
        )


def _read_finite(info: TensorInfo) -> Tensor:
    tensor = read_tensor(info)
    # numpy: torch would share each of some hundred small tensors out over all threads, seconds on a busy machine.
    values = tensor.float() if tensor.dtype == torch.bfloat16 else tensor
    if not np.isfinite(values.numpy()).all():
        raise AdapterError(
            "The adapter holds a value that is not finite.",
            where=f"{info.key} in {info.file}",
            expected="finite factors",
            found="NaN or infinity",
            next_step="use an earlier checkpoint of the training run",
        )
    return tensor


def _read_config(directory: Path) -> dict[str, Any]:
    return _read_object(require_adapter(directory))


def _read_object(path: Path) -> dict[str, Any]:
    try:
        return parse_object(path.read_bytes())
    except ValueError as error:
        raise AdapterError(
            "A file of the adapter cannot be read.",
            where=str(path),
            expected="a JSON object",
            found=str(error),
            next_step="save the adapter again with PEFT",
        ) from error


def _headers(directory: Path) -> dict[str, TensorInfo]:
    path = directory / WEIGHTS_FILE
    try:
        infos = read_header(path)
    except (OSError, CheckpointError) as error:
        is_pickle = not path.exists() and (directory / PICKLE_FILE).is_file()
        raise AdapterError(
            "The adapter's weights cannot be read.",
            where=str(path),
            expected="a complete safetensors file",
            found=f"{PICKLE_FILE}, a pickle, which is never opened" if is_pickle else str(error),
            next_step="load it with PEFT and save it again with save_pretrained, which writes safetensors",
        ) from error
    if not infos:
        raise AdapterError(
            "The adapter is empty.",
            where=str(path),
            expected="at least one target",
            found="no tensors",
            next_step="check the target_modules it was trained with",
        )
    return infos


def _line(name: str, tensor: Tensor) -> str:
    raw = tensor.contiguous().flatten().view(torch.uint8).numpy().data
    return f"{name} {tensor.dtype} {tuple(tensor.shape)} {hashlib.sha256(raw).hexdigest()}\n"

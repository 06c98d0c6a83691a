"""A LoRA adapter in PEFT's own format, read into factors by target name, or written.

PEFT names a factor `base_model.model.<target>.lora_A.weight`; a target is the weight `<target>.weight` of the
base checkpoint. Only plain LoRA is read. Whatever would make ΔW something else than s·B·A (DoRA, biases,
further trained modules, ranks by pattern) is refused by name: merging it as if it were plain would be wrong.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from skippy.core.spectral.lora import LoraFactors
from skippy.errors import AdapterError
from skippy.stores.atomic import new_directory, write_bytes, write_json
from skippy.stores.presence import ADAPTER_CONFIG_FILE as CONFIG_FILE
from skippy.stores.presence import ADAPTER_WEIGHTS_FILE as WEIGHTS_FILE
from skippy.stores.presence import require_adapter

CARD_FILE = "skippy.json"
PREFIX = "base_model.model."
# Options of PEFT that change what the adapter adds; each must be off.
UNSUPPORTED = (
    "use_dora",
    "lora_bias",
    "modules_to_save",
    "rank_pattern",
    "alpha_pattern",
    "fan_in_fan_out",
    "layer_replication",
    "target_parameters",
    "trainable_token_indices",
)


@dataclass(frozen=True)
class Adapter:
    """Plain LoRA: factors by target name, all of one rank and scale; `card` is its `skippy.json`, if any."""

    path: Path
    config: Mapping[str, Any]
    factors: Mapping[str, LoraFactors]
    rank: int
    scale: float
    card: Mapping[str, Any] = field(default_factory=dict)

    def digest(self) -> str:
        """Hash what the adapter adds: the scale, and every factor's name, type, shape and bytes."""
        lines = [f"scale {self.scale!r}\n"]
        for name in sorted(self.factors):
            for letter, tensor in (("A", self.factors[name].A), ("B", self.factors[name].B)):
                lines.append(f"{name}.{letter} {tensor.dtype} {tuple(tensor.shape)} {_sha256(tensor)}\n")
        return hashlib.sha256("".join(lines).encode()).hexdigest()


def read_adapter(path: str | Path) -> Adapter:
    """Read and check an adapter directory.

    Raises:
        AdapterError: it is no plain LoRA adapter, or its factors do not fit together.
    """
    directory = Path(path)
    config = _read_config(directory)
    _require_plain(directory, config)
    rank, alpha = config.get("r"), config.get("lora_alpha")
    if not isinstance(rank, int) or rank < 1 or not isinstance(alpha, int | float):
        raise AdapterError(
            "The rank or alpha of the adapter is unusable.",
            where=str(directory / CONFIG_FILE),
            expected="an integer r of at least 1 and a number lora_alpha",
            found=f"r {rank!r}, lora_alpha {alpha!r}",
            next_step="save the adapter again with PEFT",
        )
    scale = alpha / math.sqrt(rank) if config.get("use_rslora") else alpha / rank
    factors = _pair(directory, _read_weights(directory), rank, scale)
    card_path = directory / CARD_FILE
    card = _read_object(card_path) if card_path.is_file() else {}
    return Adapter(directory, config, factors, rank, scale, card)


def require_fit(adapter: Adapter, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Check every factor against the weight it is to be added to.

    Args:
        adapter: the adapter.
        shapes: shape by tensor key of the base checkpoint.

    Raises:
        AdapterError: a target is not in the base, or has another shape there.
    """
    for name, factors in adapter.factors.items():
        added = (factors.B.shape[0], factors.A.shape[1])
        found = shapes.get(f"{name}.weight")
        if found != added:
            raise AdapterError(
                "The adapter does not fit the base.",
                where=f"{name}.weight, adapter {adapter.path}",
                expected=f"a weight of shape {added} in the base",
                found="no such weight" if found is None else f"shape {found}",
                next_step="merge the adapter into the base that it was trained on",
            )


def write_adapter(
    destination: str | Path,
    factors: Mapping[str, LoraFactors],
    *,
    base_model: str = "",
    card: Mapping[str, Any] | None = None,
) -> Path:
    """Write factors as an adapter that stock PEFT loads; atomic.

    Args:
        destination: a path that does not exist, or an empty directory.
        factors: by target name, all of one rank and scale.
        base_model: what PEFT's config names as the base.
        card: content of `skippy.json`, left out when None.

    Raises:
        AdapterError: no factors, or of several ranks or scales.
    """
    kinds = {(each.A.shape[0], each.scale) for each in factors.values()}
    if len(kinds) != 1:
        raise AdapterError(
            "Factors of one rank and scale are needed to write an adapter.",
            where=str(destination),
            expected="one pair (rank, scale)",
            found=", ".join(map(str, sorted(kinds))) or "no factors",
            next_step="write targets of one rank",
        )
    rank, scale = kinds.pop()
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_model,
        "r": rank,
        "lora_alpha": scale * rank,
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": sorted(factors),
        "inference_mode": True,
    }
    weights: dict[str, Tensor] = {}
    for name, each in factors.items():
        weights[f"{PREFIX}{name}.lora_A.weight"] = each.A.detach().cpu().contiguous()
        weights[f"{PREFIX}{name}.lora_B.weight"] = each.B.detach().cpu().contiguous()
    with new_directory(Path(destination)) as directory:
        write_bytes(directory / WEIGHTS_FILE, save(weights, metadata={"format": "pt"}))
        write_json(directory / CONFIG_FILE, config)
        if card is not None:
            write_json(directory / CARD_FILE, card)
    return Path(destination)


def _pair(directory: Path, weights: dict[str, Tensor], rank: int, scale: float) -> dict[str, LoraFactors]:
    halves: dict[str, dict[str, Tensor]] = {}
    for key, tensor in weights.items():
        stem, letter = _split(directory, key)
        halves.setdefault(stem, {})[letter] = tensor
    factors = {}
    for name, half in sorted(halves.items()):
        shapes = {letter: tuple(tensor.shape) for letter, tensor in half.items()}
        if (
            set(half) != {"A", "B"}
            or any(tensor.ndim != 2 for tensor in half.values())
            or half["A"].shape[0] != rank
            or half["B"].shape[1] != rank
        ):
            raise AdapterError(
                "The factors of a target do not fit together.",
                where=f"{name} in {directory / WEIGHTS_FILE}",
                expected=f"lora_A of shape ({rank}, in) and lora_B of shape (out, {rank})",
                found=", ".join(f"lora_{letter} {shape}" for letter, shape in sorted(shapes.items())),
                next_step="save the adapter again with PEFT",
            )
        if not all(bool(tensor.isfinite().all()) for tensor in half.values()):
            raise AdapterError(
                "The adapter holds a value that is not finite.",
                where=f"{name} in {directory / WEIGHTS_FILE}",
                expected="finite factors",
                found="NaN or infinity",
                next_step="use an earlier checkpoint of the training run",
            )
        factors[name] = LoraFactors(A=half["A"], B=half["B"], scale=scale)
    return factors


def _split(directory: Path, key: str) -> tuple[str, str]:
    for letter in ("A", "B"):
        ending = f".lora_{letter}.weight"
        if key.startswith(PREFIX) and key.endswith(ending):
            return key[len(PREFIX) : -len(ending)], letter
    raise AdapterError(
        "The adapter holds something else than plain LoRA factors.",
        where=f"{key} in {directory / WEIGHTS_FILE}",
        expected=f"{PREFIX}<target>.lora_A.weight or .lora_B.weight",
        found=key,
        next_step="train the adapter on linear targets only, without DoRA, biases or saved modules",
    )


def _read_config(directory: Path) -> dict[str, Any]:
    return _read_object(require_adapter(directory))


def _read_object(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise AdapterError(
            "A file of the adapter cannot be read.",
            where=str(path),
            expected="a JSON object",
            found=str(error),
            next_step="save the adapter again with PEFT",
        ) from error


def _require_plain(directory: Path, config: Mapping[str, Any]) -> None:
    on = [f"{name}={config[name]!r}" for name in UNSUPPORTED if config.get(name)]
    if config.get("peft_type", "LORA") != "LORA":
        on.append(f"peft_type={config['peft_type']!r}")
    if config.get("bias", "none") != "none":
        on.append(f"bias={config['bias']!r}")
    if on:
        raise AdapterError(
            "The adapter is not plain LoRA.",
            where=str(directory / CONFIG_FILE),
            expected="peft_type LORA, bias none, and off: " + ", ".join(UNSUPPORTED),
            found=", ".join(on),
            next_step="train the adapter without these options",
        )


def _read_weights(directory: Path) -> dict[str, Tensor]:
    path = directory / WEIGHTS_FILE
    try:
        weights: dict[str, Tensor] = load_file(path)
    except (OSError, SafetensorError) as error:
        raise AdapterError(
            "The adapter's weights cannot be read.",
            where=str(path),
            expected="a complete safetensors file",
            found=str(error) or type(error).__name__,
            next_step="save the adapter again with PEFT",
        ) from error
    if not weights:
        raise AdapterError(
            "The adapter is empty.",
            where=str(path),
            expected="at least one target",
            found="no tensors",
            next_step="check the target_modules it was trained with",
        )
    return weights


def _sha256(tensor: Tensor) -> str:
    raw = save({"": tensor.contiguous()})
    length = int.from_bytes(raw[:8], "little")
    return hashlib.sha256(memoryview(raw)[8 + length :]).hexdigest()

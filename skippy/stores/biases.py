"""Biases of attention: as a train run leaves them, and as part of a plain checkpoint.

`adapter/biases.safetensors` holds `<module>.bias` in float32 and nothing else. In a checkpoint a bias is there for
every layer or for none, since one switch in the config turns all of them on: those that nobody trained are zero, which
adds nothing. With the switch off transformers drops biases with one line in its log, so writers set it, and whoever
opens a checkpoint checks it.

Source: MATH §11.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from skippy.core.biases import ATTENTION, SWITCHES, BiasSwitch, find_switch
from skippy.errors import AdapterError, CheckpointError
from skippy.stores.atomic import new_directory, write_bytes, write_json
from skippy.stores.documents import parse_object
from skippy.stores.tensors import TensorInfo, read_header, read_tensor

BIASES_FILE = "biases.safetensors"
CARD_FILE = "skippy.json"
ENDING = ".bias"
BLOCK = ".self_attn."


@dataclass(frozen=True)
class Biases:
    """What is added to the outputs of some modules.

    Attributes:
        path: its directory.
        biases: (out,) by module name, float32.
        card: its `skippy.json`.
    """

    path: Path
    biases: Mapping[str, Tensor]
    card: Mapping[str, Any] = field(default_factory=dict)

    @property
    def keys(self) -> tuple[str, ...]:
        """Keys of the base's tensors that it changes or adds."""
        return tuple(name + ENDING for name in self.biases)

    @property
    def is_zero(self) -> bool:
        """Whether it changes nothing at all."""
        return not any(bool(bias.any()) for bias in self.biases.values())

    @property
    def kinds(self) -> tuple[str, ...]:
        """The projections that it gives a bias."""
        return tuple(sorted({name.rpartition(".")[2] for name in self.biases}))

    def digest(self) -> str:
        """Hash of names, shapes and values."""
        sha = hashlib.sha256()
        for name, bias in sorted(self.biases.items()):
            sha.update(f"{name} {tuple(bias.shape)}\n".encode())
            sha.update(bias.contiguous().numpy().tobytes())
        return sha.hexdigest()


def write_biases(destination: str | Path, biases: Mapping[str, Tensor], card: Mapping[str, Any]) -> Path:
    """Write an `adapter/` of biases, atomically."""
    tensors = {name + ENDING: bias.detach().float().cpu().contiguous() for name, bias in biases.items()}
    with new_directory(Path(destination)) as directory:
        write_bytes(directory / BIASES_FILE, save(tensors, metadata={"format": "pt"}))
        write_json(directory / CARD_FILE, card)
    return Path(destination)


def read_biases(path: str | Path) -> Biases:
    """Read and check an `adapter/` of biases.

    Raises:
        AdapterError: it is damaged, or holds something else.
    """
    directory = Path(path)
    file, card = directory / BIASES_FILE, directory / CARD_FILE
    try:
        infos = read_header(file)
        said = parse_object(card.read_bytes()) if card.is_file() else {}
    except (OSError, ValueError, CheckpointError) as error:
        raise _unusable(directory, "a complete safetensors file, and a JSON object", str(error)) from error
    found: dict[str, Tensor] = {}
    for key, info in infos.items():
        if not key.endswith(ENDING) or len(info.shape) != 1 or info.dtype != torch.float32:
            raise _unusable(file, "vectors <module>.bias in float32", f"{key} {info.dtype} {info.shape}")
        found[key.removesuffix(ENDING)] = read_tensor(info)
        if not bool(found[key.removesuffix(ENDING)].isfinite().all()):
            raise _unusable(file, "finite numbers", f"NaN or infinity in {key}")
    if not found:
        raise _unusable(file, "at least one bias", "none")
    return Biases(directory, found, said)


@dataclass(frozen=True)
class Shift:
    """A bias as a part of an update: `weight` times a vector, by rows of one."""

    vector: Tensor
    weight: float

    def to(self, device: torch.device | str) -> Shift:
        """The same on another device."""
        return Shift(self.vector.to(device), self.weight)

    def change(self, rows: slice, base: Tensor) -> Tensor:
        """Δb of these rows, in the shape of the base's."""
        return self.vector[rows].reshape(base.shape).clone()

    def gated(self, rows: slice, base: Tensor) -> Tensor:
        """b + weight·Δb of these rows."""
        return base + self.weight * self.change(rows, base)


def require_place(biases: Biases, config: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Check that a base has a place for these biases.

    Args:
        biases: as read.
        config: the base's `config.json`.
        shapes: of its tensors.

    Raises:
        AdapterError: a module is not in the base, or of another width, or has no bias anywhere.
        CheckpointError: the base's family has no such bias.
    """
    outside = [name for name in biases.biases if BLOCK not in name]
    if outside:
        raise AdapterError(
            "The vector is added to the output of a whole layer, for which no checkpoint has a place.",
            where=f"{outside[0]} in {biases.path / BIASES_FILE}",
            expected="a bias of o_proj or v_proj",
            found="the research site `block`",
            next_step="train with settings=steer.site=o_proj, or use it by hook only",
        )
    find_switch(str(config.get("model_type")), biases.kinds)
    for name, bias in biases.biases.items():
        found = shapes.get(f"{name}.weight")
        if found is None or found[0] != len(bias):
            raise AdapterError(
                "A bias does not fit the base.",
                where=f"{name} in {biases.path / BIASES_FILE}",
                expected=f"a projection of {len(bias)} outputs",
                found=f"one of {found[0]}" if found else "no such module",
                next_step="use the base that it was trained on",
            )


def missing_biases(
    config: Mapping[str, Any], tensors: Mapping[str, TensorInfo], wanted: Iterable[str], file: Path
) -> tuple[TensorInfo, ...]:
    """The biases that a base must be given so that it has those `wanted`: all of its switch that are not there.

    Args:
        config: of the base.
        tensors: of the base.
        wanted: keys of biases.
        file: to whose end they will be written.

    Returns:
        In the order of layers and projections, in the type of their weight; none where the base has them all.
    """
    if set(wanted) <= set(tensors):
        return ()
    switch = find_switch(str(config.get("model_type")), (_kind(key) for key in wanted))
    weights = [
        info
        for key, info in tensors.items()
        if BLOCK in key and key.endswith(".weight") and _kind(key) in switch.kinds
    ]
    keyed = {info.key.removesuffix(".weight") + ENDING: info for info in sorted(weights, key=_in_order)}
    return tuple(
        TensorInfo(key, file, info.dtype, info.shape[:1], 0, info.shape[0] * info.dtype.itemsize)
        for key, info in keyed.items()
        if key not in tensors
    )


def switched_on(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config of a base that now has biases: its family's switch set, in the part that describes the language model."""
    switch = SWITCHES[str(config["model_type"])]
    if not switch.field:
        return dict(config)
    if isinstance(config.get("text_config"), Mapping):
        return {**config, "text_config": {**config["text_config"], switch.field: True}}
    return {**config, switch.field: True}


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
    dropped = [key for key in tensors if BLOCK in key and key.endswith(ENDING) and _kind(key) in switch.kinds]
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
        kind = _kind(key)
        if BLOCK in key and key.endswith(ENDING) and kind in ATTENTION and kind not in found:
            found |= {kind} if bool(read_tensor(info).any()) else set()
    return tuple(sorted(found))


def _kind(key: str) -> str:
    return key.rsplit(".", 2)[-2]


def _in_order(info: TensorInfo) -> tuple[int, int]:
    layer = next(int(part) for part in info.key.split(".") if part.isdigit())
    return layer, ATTENTION.index(_kind(info.key))


def _unusable(where: Path, expected: str, found: str) -> AdapterError:
    return AdapterError(
        "The biases cannot be used.",
        where=str(where),
        expected=expected,
        found=found,
        next_step="train again",
    )

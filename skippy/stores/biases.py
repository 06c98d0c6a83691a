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
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from safetensors.torch import save
from torch import Tensor

from skippy.core.biases import ATTENTION, BLOCK, ENDING, BiasSwitch, find_switch, kind_of, require_carried
from skippy.errors import AdapterError, CheckpointError
from skippy.stores.atomic import new_directory, write_bytes
from skippy.stores.checkpoints import Checkpoint
from skippy.stores.documents import parse_object
from skippy.stores.headers import NewTensor, TensorInfo, read_header
from skippy.stores.seals import write_seal
from skippy.stores.tensors import read_tensor
from skippy.stores.updates import Shift, Update

BIASES_FILE = "biases.safetensors"
CARD_FILE = "skippy.json"


@dataclass(frozen=True)
class Biases:
    """What is added to the outputs of some modules."""

    path: Path  # its directory
    biases: Mapping[str, Tensor]  # (out,) by module name, float32
    card: Mapping[str, Any] = field(default_factory=dict)  # its `skippy.json`

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
        write_seal(directory, card)
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
        if not key.endswith(ENDING) or len(info.shape) != 1 or info.type != "F32":
            raise _unusable(file, "vectors <module>.bias in float32", f"{key} {info.dtype} {info.shape}")
        found[key.removesuffix(ENDING)] = read_tensor(info)
        if not bool(found[key.removesuffix(ENDING)].isfinite().all()):
            raise _unusable(file, "finite numbers", f"NaN or infinity in {key}")
    if not found:
        raise _unusable(file, "at least one bias", "none")
    return Biases(directory, found, said)


def plan_biases(biases: Biases, base: Checkpoint, weight: float) -> dict[str, Update]:
    """What each bias of the base becomes; nothing at weight 0, which is the base to the byte.

    Raises:
        AdapterError: a module is not in the base, or of another width, or has no bias anywhere.
        CheckpointError: the base's family has no such bias.
    """
    require_place(biases, base)
    if not weight:
        return {}
    return {name + ENDING: Update(gates=[Shift(bias, weight)]) for name, bias in biases.biases.items()}


def with_biases(base: Checkpoint, wanted: Iterable[str]) -> Checkpoint:
    """A base as one that has the biases `wanted`: those of its family's switch that it lacks are new, the switch is on.

    The base itself where it has them already.

    Raises:
        CheckpointError: its family has no such bias.
    """
    listed = tuple(wanted)
    if set(listed) <= set(base.tensors):
        return base
    switch = find_switch(str(base.config.get("model_type")), map(kind_of, listed))
    weights = [
        info
        for key, info in base.tensors.items()
        if BLOCK in key and key.endswith(".weight") and kind_of(key) in switch.kinds
    ]
    file = base.files[-1]
    start, added = file.stat().st_size, {}
    for info in sorted(weights, key=_in_order):
        key = info.key.removesuffix(".weight") + ENDING
        if key not in base.tensors:
            stop = start + info.shape[0] * info.dtype.itemsize
            added[key] = NewTensor(key, file, info.type, info.shape[:1], start, stop)
            start = stop
    return replace(base, config=_switched_on(base.config, switch), tensors={**base.tensors, **added})


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


def require_place(biases: Biases, base: Checkpoint) -> None:
    """Check that a base has a place for these biases.

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
    find_switch(str(base.config.get("model_type")), biases.kinds)
    for name, bias in biases.biases.items():
        found = base.shapes.get(f"{name}.weight")
        if found is None or found[0] != len(bias):
            raise AdapterError(
                "A bias does not fit the base.",
                where=f"{name} in {biases.path / BIASES_FILE}",
                expected=f"a projection of {len(bias)} outputs",
                found=f"one of {found[0]}" if found else "no such module",
                next_step="use the base that it was trained on",
            )


def _switched_on(config: Mapping[str, Any], switch: BiasSwitch) -> dict[str, Any]:
    """The config with the switch set, in the part that describes the language model."""
    if not switch.field:
        return dict(config)
    if isinstance(config.get("text_config"), Mapping):
        return {**config, "text_config": {**config["text_config"], switch.field: True}}
    return {**config, switch.field: True}


def _in_order(info: TensorInfo) -> tuple[int, int]:
    layer = next(int(part) for part in info.key.split(".") if part.isdigit())
    return layer, ATTENTION.index(kind_of(info.key))


def _unusable(where: Path, expected: str, found: str) -> AdapterError:
    return AdapterError(
        "The biases cannot be used.",
        where=str(where),
        expected=expected,
        found=found,
        next_step="train again",
    )

"""An adapter against the base it is to change: every tensor fits, none is missing, names are the base's."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from skippy.errors import AdapterError
from skippy.stores.adapter_options import asked_targets, require_complete
from skippy.stores.adapters import Adapter
from skippy.stores.presence import ADAPTER_CONFIG_FILE as CONFIG_FILE

# Where the decoder layers of one vision-language model are, in the names of its successive releases.
LAYER_PREFIXES = (
    "model.language_model.layers.",
    "model.layers.",
    "language_model.model.layers.",
    "model.language_model.model.layers.",
)


def fit_to_base(adapter: Adapter, shapes: Mapping[str, tuple[int, ...]]) -> Adapter:
    """Check every tensor against the one it is to change, and give targets the names of the base.

    Releases of one vision-language model put its decoder under different names; an adapter of an older or newer
    one is renamed when all of it then fits.

    Raises:
        AdapterError: a target is not in the base, has another shape there, or one that the config names is missing.
    """
    theirs, ours = _prefixes(adapter, shapes)
    renamed = _renamed(adapter, theirs, ours)
    for name, each in renamed.factors.items():
        _require_shape(adapter, f"{name}.weight", (each.B.shape[0], each.A.shape[1]), shapes)
    for key, info in renamed.saved.items():
        _require_shape(adapter, key, info.shape, shapes)
    linears = [
        key.removesuffix(".weight")
        for key, shape in shapes.items()
        if key.endswith(".weight") and len(shape) == 2 and "embed" not in key
    ]
    in_their_names = [_swap(name, ours, theirs) for name in linears]
    where = str(adapter.path / CONFIG_FILE)
    require_complete(adapter.factors, asked_targets(adapter.config, in_their_names, where), where)
    return renamed


def name_foreign_base(adapter: Adapter, base_names: Iterable[str]) -> str:
    """Say that an adapter names another base than the one it is merged into; empty where it does not.

    Names are compared by their last part, and case does not count: `Qwen/Qwen3-8B` is `/models/qwen3-8b`.
    """
    named = str(adapter.config.get("base_model_name_or_path") or "").strip()
    known = {_last(name) for name in base_names if name}
    if not named or _last(named) in known:
        return ""
    return (
        f"the adapter names {named} as its base, and was merged into {next(iter(base_names), 'another one')}"
    )


def _last(name: str) -> str:
    return name.rstrip("/").rpartition("/")[2].lower()


def _prefixes(adapter: Adapter, shapes: Mapping[str, tuple[int, ...]]) -> tuple[str, str]:
    """The prefix of the adapter's layers and the base's, where they differ and all of the adapter then fits."""
    keys = adapter.keys
    if all(key in shapes for key in keys):
        return "", ""
    for theirs in LAYER_PREFIXES:
        for ours in LAYER_PREFIXES:
            if any(key.startswith(theirs) for key in keys) and all(
                _swap(key, theirs, ours) in shapes for key in keys
            ):
                return theirs, ours
    return "", ""


def _swap(name: str, old: str, new: str) -> str:
    return new + name[len(old) :] if old and name.startswith(old) else name


def _renamed(adapter: Adapter, old: str, new: str) -> Adapter:
    if old == new:
        return adapter
    return replace(
        adapter,
        factors={_swap(name, old, new): each for name, each in adapter.factors.items()},
        magnitudes={_swap(name, old, new): each for name, each in adapter.magnitudes.items()},
        saved={_swap(key, old, new): info for key, info in adapter.saved.items()},
    )


def _require_shape(
    adapter: Adapter, key: str, shape: tuple[int, ...], shapes: Mapping[str, tuple[int, ...]]
) -> None:
    found = shapes.get(key)
    if found != shape:
        raise AdapterError(
            "The adapter does not fit the base.",
            where=f"{key}, adapter {adapter.path}",
            expected=f"a weight of shape {shape} in the base",
            found="no such weight" if found is None else f"shape {found}",
            next_step="merge the adapter into the base that it was trained on",
        )

"""Whether an adapter can be answered for by a server that holds the base: what vLLM would ignore is refused by name.

vLLM reads one rank and one scale for all of an adapter, and takes names from the file: per-target ranks and scales
are ignored, and a target under a name that the base does not have loads as nothing, without a word.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from skippy.errors import AdapterError
from skippy.stores.adapter_fit import fit_to_base
from skippy.stores.adapters import Adapter, read_adapter

MERGE = "merge the adapter and evaluate the merged model"
TOLERANCE = 1e-6


def require_servable(path: Path, shapes: Mapping[str, tuple[int, ...]]) -> Adapter:
    """The adapter, if a server would apply all of it, and exactly as PEFT does.

    Raises:
        AdapterError: it is no LoRA adapter of this base, or has what a server leaves out.
    """
    adapter = read_adapter(path)
    fitted = fit_to_base(adapter, shapes)
    renamed = sorted(set(adapter.factors) - set(fitted.factors))
    if renamed:
        raise _unservable(
            adapter,
            "names of targets as in the base",
            f"{renamed[0]}, which a server would load as nothing",
        )
    if adapter.magnitudes or adapter.saved:
        what = "magnitudes (DoRA)" if adapter.magnitudes else f"{next(iter(adapter.saved))}, saved whole"
        raise _unservable(adapter, "plain LoRA", what)
    rank = int(adapter.config["r"])
    scale = float(adapter.config["lora_alpha"]) / (rank**0.5 if adapter.config.get("use_rslora") else rank)
    for name, each in adapter.factors.items():
        if each.A.shape[0] != rank or abs(each.scale - scale) > TOLERANCE * abs(scale):
            raise _unservable(
                adapter,
                f"rank {rank} and scale {scale:g} on every target, as its config says",
                f"rank {each.A.shape[0]} and scale {each.scale:g} on {name}",
            )
    return adapter


def _unservable(adapter: Adapter, expected: str, found: str) -> AdapterError:
    return AdapterError(
        "A server would not apply this adapter as it is.",
        where=str(adapter.path),
        expected=expected,
        found=found,
        next_step=MERGE,
    )

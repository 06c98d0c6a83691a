"""A training step's adapter on disk: PEFT's own two files, and `skippy.json` beside them.

Written here and not by PEFT's `save_pretrained`, which asks the hub about the base by name, and puts the
path of the base into the config and a model card.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from peft import PeftModel
from peft.utils import get_peft_model_state_dict
from safetensors.torch import save

from skippy.core.spectral.constraints import OrthogonalConstraint
from skippy.core.variants import find_variant
from skippy.stores.adapters import CONFIG_FILE, WEIGHTS_FILE
from skippy.stores.atomic import write_bytes, write_json
from skippy.stores.seals import write_seal
from skippy.training.layers import ADAPTER
from skippy.training.plan import TrainRequest


def save_adapter(model: PeftModel, directory: Path, base_name: str, card: Mapping[str, Any]) -> Path:
    """Write the adapter as it is now; each file lands whole or not at all."""
    directory.mkdir(parents=True, exist_ok=True)
    state = get_peft_model_state_dict(model, adapter_name=ADAPTER, save_embedding_layers=False)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    write_bytes(directory / WEIGHTS_FILE, save(tensors, metadata={"format": "pt"}))
    write_json(directory / CONFIG_FILE, adapter_config(model, base_name))
    write_seal(directory, card)
    return directory


def adapter_config(model: PeftModel, base_name: str) -> dict[str, Any]:
    """PEFT's config of the adapter, for inference, with the base named and not located."""
    config = model.peft_config[ADAPTER].to_dict()
    config |= {"base_model_name_or_path": base_name, "inference_mode": True}
    return json.loads(json.dumps(config, default=_plain))


def adapter_card(
    request: TrainRequest,
    step: int,
    measured: OrthogonalConstraint | None,
    constraint: OrthogonalConstraint | None,
) -> dict[str, Any]:
    """Content of `skippy.json`: whose adapter this is, at which step, and how much it leaks.

    `leakage` is against the base's top-k directions where they are known, for every variant; `own_leakage`
    is against the directions that the variant itself protects, which differ for the random control. A side on
    which it protects nothing is null there.
    """
    rule = find_variant(request.variant)
    found = None if measured is None else measured.pooled_leakage()
    own = None
    if constraint is not None:
        sides = constraint.protected_sides()
        own = {
            key: value if key.removeprefix("rho_") in sides else None
            for key, value in asdict(constraint.pooled_leakage()).items()
        }
    return {
        "variant": request.variant,
        "constraint": rule.constraint,
        "basis": rule.basis,
        "k": request.k,
        "projector_digest": request.projector_digest,
        "base_digest": request.base_digest,
        "step": step,
        "seed": request.settings.seed,
        "leakage": None if found is None else asdict(found),
        "own_leakage": own,
    }


def _plain(value: Any) -> Any:
    return sorted(value) if isinstance(value, set | frozenset) else getattr(value, "value", str(value))

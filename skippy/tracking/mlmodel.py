"""The file by which mlflow loads a checkpoint that lies beside it."""

from __future__ import annotations

from pathlib import Path

from mlflow import pyfunc
from mlflow.models import Model, ModelSignature
from mlflow.types import DataType, ParamSchema, ParamSpec

WEIGHTS = "weights"
DEFAULT_NEW_TOKENS = 256
LOADER_MODULE = "skippy.tracking.pyfunc_loader"


def write_mlmodel(folder: Path, model_id: str, run_id: str) -> None:
    """Write the MLmodel file that lets `mlflow.pyfunc.load_model` find `weights/`."""
    params = ParamSchema(
        [
            ParamSpec("max_new_tokens", DataType.long, DEFAULT_NEW_TOKENS),
            ParamSpec("temperature", DataType.double, 0.0),
        ]
    )
    # No schema of inputs: MLflow has none that takes prompts and chats alike.
    signature = ModelSignature(params=params)
    model = Model(run_id=run_id, model_id=model_id, signature=signature)
    pyfunc.add_to_model(model, loader_module=LOADER_MODULE, data=WEIGHTS)
    size = sum(path.stat().st_size for path in (folder / WEIGHTS).rglob("*") if path.is_file())
    model.model_size_bytes = size
    model.save(str(folder / "MLmodel"))

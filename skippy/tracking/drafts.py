"""Logged models being made: weights written and described to mlflow, or only stood for where they lie elsewhere."""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import mlflow
from mlflow import pyfunc
from mlflow.entities import LoggedModelOutput
from mlflow.exceptions import MlflowException
from mlflow.models import Model, ModelSignature
from mlflow.types import DataType, ParamSchema, ParamSpec

from skippy.errors import TrackingError
from skippy.redaction import redact
from skippy.tracking.artifacts import upload_model
from skippy.tracking.connection import Store
from skippy.tracking.exclusion import exclusive
from skippy.tracking.orphans import remove_weights
from skippy.tracking.refusals import translated_errors
from skippy.tracking.registry import ModelVersionRecord, Registry
from skippy.tracking.stage_run import StageRun
from skippy.tracking.tags import Tag

WEIGHTS = "weights"
DEFAULT_NEW_TOKENS = 256
LOADER_MODULE = "skippy.tracking.pyfunc_loader"
_ILLEGAL = re.compile(r"""[/:.%"']""")


class ModelDraft:
    """A logged model being written: fill `weights_dir`, then leave the context, or register in it.

    `weights_dir` does not exist at first, so that a checkpoint may be renamed into place.
    """

    def __init__(
        self,
        store: Store,
        registry: Registry,
        run: StageRun,
        model_id: str,
        folder: Path,
        *,
        is_scratch: bool,
    ) -> None:
        self.model_id = model_id
        self.is_ready = False
        self.version: ModelVersionRecord | None = None
        self._store = store
        self._registry = registry
        self._run = run
        self._folder = folder
        self._is_scratch = is_scratch
        self._folder.mkdir(parents=True, exist_ok=True)

    @property
    def weights_dir(self) -> Path:
        """Where the HF checkpoint goes."""
        return self._folder / WEIGHTS

    @property
    def uri(self) -> str:
        """`models:/m-…`, what mlflow and `Models.resolve` load."""
        return f"models:/{self.model_id}"

    def finish(self) -> None:
        """Describe the weights to mlflow and declare the model READY; does nothing the second time."""
        if self.is_ready:
            return
        if not (self.weights_dir / "config.json").is_file():
            raise TrackingError(
                "A logged model has no weights.",
                where=str(self.weights_dir),
                expected="an HF checkpoint: config.json, tokenizer, *.safetensors",
                found=", ".join(sorted(p.name for p in self.weights_dir.glob("*"))) or "nothing",
            )
        write_mlmodel(self._folder, self.model_id, self._run.run_id)
        client = self._store.client
        with translated_errors(f"logged model {self.model_id}"):
            if self._is_scratch:
                upload_model(self._store, self.model_id, self._folder)
            client.finalize_logged_model(self.model_id, "READY")
            client.log_outputs(self._run.run_id, [LoggedModelOutput(self.model_id, 0)])
        self.is_ready = True

    def register(
        self, registered_model: str, version_tags: Mapping[str, object], description: str = ""
    ) -> ModelVersionRecord:
        """Make it the next version of `registered_model`; finishes the model first."""
        self.finish()
        self.version = self._registry.create_version(
            registered_model, self.model_id, self._run.run_id, version_tags, description
        )
        return self.version

    def discard(self) -> None:
        """Undo: no version, no files, and a logged model that says FAILED."""
        with suppress(MlflowException):
            if self.version is not None:
                self._store.client.delete_model_version(self.version.name, str(self.version.version))
        remove_weights(self._store, self.model_id)
        shutil.rmtree(self._folder, ignore_errors=True)


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


def external_model(store: Store, name: str, digest: str) -> str:
    """The id of the logged model that stands for the weights with this digest; made where there is none."""
    with translated_errors(f"logged model {name!r}"), exclusive(store, f"model {digest[:16]}"):
        found = _ready(store, digest)
        if not found:
            mlflow.create_external_model(
                name=_ILLEGAL.sub("_", redact(name)),
                tags={Tag.MODEL_DIGEST: digest},
                model_type="checkpoint",
                experiment_id=store.experiment_id,
            )
            found = _ready(store, digest)
        return found[0]


def _ready(store: Store, digest: str) -> list[str]:
    """Ids of the finished ones, oldest first."""
    found = store.client.search_logged_models(
        [store.experiment_id], f"tags.`{Tag.MODEL_DIGEST}` = '{digest}'"
    )
    ready = [model for model in found if str(model.status) == "READY"]
    return [model.model_id for model in sorted(ready, key=lambda m: (m.creation_timestamp, m.model_id))]

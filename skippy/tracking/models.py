"""Logged models whose weights exist once: written where the store keeps them, or uploaded once."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from mlflow import artifacts as mlflow_artifacts
from mlflow.entities import LoggedModel
from mlflow.exceptions import MlflowException

from skippy.errors import MissingRunError, RegistryError, SkippyError
from skippy.redaction import redact
from skippy.tracking.artifacts import cache_root, fetched
from skippy.tracking.connection import Store, StoreAccess
from skippy.tracking.drafts import WEIGHTS, ModelDraft, external_model
from skippy.tracking.orphans import scratch_directory, sweep_orphans
from skippy.tracking.places import local_path
from skippy.tracking.refusals import translated_errors
from skippy.tracking.registry import ModelVersionRecord, Registry, check_model_name, parse_model_uri
from skippy.tracking.stage_run import StageRun

logger = logging.getLogger(__name__)

CARD = "MODEL_CARD.md"
MAX_DESCRIPTION = 5000
NOTHING: Mapping[str, object] = {}


@dataclass(frozen=True)
class ResolvedModel:
    """A model ready to load."""

    path: Path  # HF checkpoint directory; read it, never write to it
    model_id: str | None  # logged model, None for a version registered by other means
    name: str | None  # registered name, None for a bare logged model
    version: int | None  # its version, None for a bare logged model
    tags: Mapping[str, str]  # of the version, else of the logged model
    run_id: str  # run that made it, empty if unknown


class Models(StoreAccess):
    """Logged models: drafted by a merge, resolved by whoever loads them."""

    def __init__(self, store: Store, registry: Registry) -> None:
        super().__init__(store)
        self._registry = registry

    @contextmanager
    def draft(
        self,
        run: StageRun,
        name: str,
        *,
        registered_model: str = "",
        model_type: str = "",
        params: Mapping[str, object] = NOTHING,
        tags: Mapping[str, object] = NOTHING,
    ) -> Iterator[ModelDraft]:
        """Write a model: `with tracker.models.draft(run, "v4") as draft: merge_into(draft.weights_dir)`.

        The weights are written where the store keeps them, so they exist once; through a server they are
        written to a scratch directory and uploaded once. If the body raises, nothing stays behind; what killed
        processes left is removed first.

        Args:
            name: of the logged model; no `/ : . % " '`.
            registered_model: what the body will register it as; refused before anything is made.

        Raises:
            RegistryError: `registered_model` could not be found again.
        """
        if registered_model:
            check_model_name(registered_model)
        self._sweep()
        with translated_errors(f"logged model {name!r}"):
            logged = self.store.client.create_logged_model(
                self.store.experiment_id,
                name=name,
                source_run_id=run.run_id,
                tags={key: redact(str(value)) for key, value in tags.items()},
                params={key: redact(str(value)) for key, value in params.items()},
                model_type=model_type or None,
            )
        place = local_path(logged.artifact_location)
        with nullcontext(place) if place else scratch_directory(self.store, logged.model_id) as folder:
            draft = ModelDraft(
                self.store, self._registry, run, logged.model_id, folder, is_scratch=place is None
            )
            try:
                yield draft
                draft.finish()
            except BaseException:
                draft.discard()
                raise

    def _sweep(self) -> None:
        try:
            sweep_orphans(self.store)
        except (SkippyError, OSError) as error:
            logger.warning("tracking: orphaned weights could not be swept. %s", error)

    def resolve(self, uri: str) -> ResolvedModel:
        """Find a model's weights: `models:/skippy/3`, `models:/skippy@champion` or `models:/m-…`.

        Raises:
            MissingRunError: no such model, version or alias (lists those there are), or its weights are gone.
        """
        reference = parse_model_uri(uri)
        if reference.model_id is not None:
            return self._resolve_logged(uri, reference.model_id, None)
        version = self._registry.lookup(reference)
        if version.model_id is not None:
            return self._resolve_logged(uri, version.model_id, version)
        with translated_errors(uri):
            location = self.store.client.get_model_version_download_uri(version.name, str(version.version))
        path = self._weights(uri, location, f"{version.name}-{version.version}")
        return ResolvedModel(path, None, version.name, version.version, version.tags, version.run_id)

    def external(self, name: str, digest: str) -> str:
        """The id of the logged model that stands for weights outside the store; see `external_model`."""
        return external_model(self.store, name, digest)

    def require_weights(self, uri: str) -> None:
        """Check that a model is finished and its weights are in the store, without fetching them.

        Raises:
            MissingRunError: no such model, or no weights.
            RegistryError: the logged model behind it was never finished.
        """
        reference = parse_model_uri(uri)
        version = None if reference.model_id else self._registry.lookup(reference)
        model_id = version.model_id if version else reference.model_id
        if model_id is None:
            self.resolve(uri)
            return
        logged = require_ready(self.store, model_id, uri)
        with translated_errors(uri):
            there = self.store.client.list_logged_model_artifacts(model_id, WEIGHTS)
        if not any(item.path == f"{WEIGHTS}/config.json" for item in there):
            raise _weights_gone(uri, logged.artifact_location)

    def read_file(self, version: ModelVersionRecord, path: str) -> bytes | None:
        """A small file beside a version's weights, e.g. `weights/skippy.json`; None where it is not there."""
        with translated_errors(version.uri):
            try:
                location = (
                    self.store.client.get_logged_model(version.model_id).artifact_location
                    if version.model_id
                    else self.store.client.get_model_version_download_uri(version.name, str(version.version))
                )
                folder = local_path(location)
                if folder is not None:
                    return (folder / path).read_bytes()
                with tempfile.TemporaryDirectory() as scratch:
                    found = mlflow_artifacts.download_artifacts(
                        artifact_uri=f"{location.rstrip('/')}/{path}",
                        dst_path=scratch,
                        tracking_uri=self.store.uri,
                    )
                    return Path(found).read_bytes()
            except (MlflowException, OSError):
                return None

    def write_card(self, uri: str, text: str) -> None:
        """Make `text` the description of a registered version, and keep it beside its weights.

        Raises:
            MissingRunError: no such version.
        """
        version = self._registry.lookup(parse_model_uri(uri))
        with translated_errors(uri):
            self.store.client.update_model_version(version.name, str(version.version), text[:MAX_DESCRIPTION])
        if version.model_id is None:
            return
        folder = local_path(require_ready(self.store, version.model_id, uri).artifact_location)
        if folder is not None:
            (folder / CARD).write_text(text, encoding="utf-8")
            return
        with translated_errors(uri), tempfile.TemporaryDirectory() as scratch:
            (Path(scratch) / CARD).write_text(text, encoding="utf-8")
            self.store.client.log_model_artifacts(version.model_id, scratch)

    def _resolve_logged(self, uri: str, model_id: str, version: ModelVersionRecord | None) -> ResolvedModel:
        logged = require_ready(self.store, model_id, uri)
        path = self._weights(uri, logged.artifact_location, model_id)
        tags = version.tags if version else dict(logged.tags)
        name, number = (version.name, version.version) if version else (None, None)
        return ResolvedModel(path, model_id, name, number, tags, logged.source_run_id or "")

    def _weights(self, uri: str, location: str, key: str) -> Path:
        """Local directory of the weights under `location`."""
        folder = local_path(location)
        if folder is not None:
            if not (folder / WEIGHTS).is_dir():
                raise _weights_gone(uri, location)
            return folder / WEIGHTS
        source = f"{location.rstrip('/')}/{WEIGHTS}"
        target = cache_root() / "models" / key / WEIGHTS
        return fetched(
            target,
            lambda to: mlflow_artifacts.download_artifacts(
                artifact_uri=source, dst_path=to, tracking_uri=self.store.uri
            ),
            True,
            lambda: _weights_gone(uri, location),
        )


def require_ready(store: Store, model_id: str, where: str) -> LoggedModel:
    """The logged model `model_id`, which must be there (`MissingRunError`) and finished (`RegistryError`)."""
    try:
        logged = store.client.get_logged_model(model_id)
    except MlflowException as error:
        raise MissingRunError(
            "There is no such logged model.",
            where=where,
            expected=model_id,
            found=str(error),
            next_step="mlflow run . -e merge --env-manager local makes one",
        ) from error
    if str(logged.status) != "READY":
        raise RegistryError(
            "A logged model was never finished.",
            where=where,
            expected="status READY",
            found=str(logged.status),
            next_step="run the merge again",
        )
    return logged


def _weights_gone(uri: str, location: str) -> MissingRunError:
    return MissingRunError(
        "The weights of a model are gone.",
        where=uri,
        expected=f"{location}/{WEIGHTS}",
        found="nothing there",
        next_step="mlflow run . -e merge --env-manager local makes them anew",
    )

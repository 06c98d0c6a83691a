"""Registered versions: made from logged models, found by number, alias or variant."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from skippy.errors import MissingRunError, RegistryError
from skippy.redaction import redact
from skippy.tracking.connection import StoreAccess, every
from skippy.tracking.refusals import translated_errors

LOGGED_MODEL = re.compile(r"models:/(m-[^/@]+)")
VERSION = re.compile(r"models:/([^/@]+)/(\d+)")
ALIAS = re.compile(r"models:/([^/@]+)@([^/@]+)")
MODEL_NAME = re.compile(r"[^\W_][\w.\- ]*(?<! )")
MAX_NAME_LENGTH = 200
URI_FORMS = "models:/NAME/VERSION, models:/NAME@ALIAS or models:/m-ID"


@dataclass(frozen=True)
class ModelReference:
    """A parsed `models:/` URI; exactly one of `model_id`, `version`, `alias` is set."""

    name: str | None = None
    version: int | None = None
    alias: str | None = None
    model_id: str | None = None


@dataclass(frozen=True)
class ModelVersionRecord:
    """A registered version as it stands."""

    name: str  # registered model
    version: int  # its number; an int on every store
    run_id: str  # run that made it, empty if unknown
    source: str  # where mlflow says its files are
    tags: Mapping[str, str]  # of the version
    model_id: str | None  # logged model behind it, None if registered by other means
    aliases: tuple[str, ...]  # those that point at it
    created: int  # milliseconds since the epoch

    @property
    def uri(self) -> str:
        """`models:/name/version`."""
        return f"models:/{self.name}/{self.version}"


class Registry(StoreAccess):
    """Registered versions and the aliases that point at them."""

    def create_version(
        self, name: str, model_id: str, run_id: str, tags: Mapping[str, object], description: str = ""
    ) -> ModelVersionRecord:
        """Register a finished logged model as the next version of `name`."""
        check_model_name(name)
        client = self.store.client
        with translated_errors(f"registered model {name}"):
            try:
                client.create_registered_model(name)
            except MlflowException as error:
                if error.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise
            # A models:/ source is the one form that SQLite and a server both take.
            clean = {key: redact(str(value)) for key, value in tags.items()}
            created = client.create_model_version(
                name,
                source=f"models:/{model_id}",
                run_id=run_id,
                tags=clean,
                description=description or None,
                model_id=model_id,
            )
        return self._record(created, {})

    def versions(self, name: str) -> list[ModelVersionRecord]:
        """All versions, newest first; empty if there is no such registered model."""
        with translated_errors(f"registered model {name}"):
            found = [
                version
                for version in self.store.client.search_model_versions(name_filter(name), max_results=10_000)
                if version.name == name
            ]
            aliases = self.aliases(name) if found else {}
        records = [self._record(version, aliases) for version in found]
        return sorted(records, key=lambda record: record.version, reverse=True)

    def names(self) -> list[str]:
        """Every registered model."""
        with translated_errors("registered models"):
            return sorted(
                model.name for model in every(self.store.client.search_registered_models, max_results=1000)
            )

    def alias(self, name: str, alias: str) -> ModelVersionRecord | None:
        """The version that `alias` points at, None if it is not set."""
        aliases = self.aliases(name)
        if alias not in aliases:
            return None
        with translated_errors(f"models:/{name}@{alias}"):
            version = self.store.client.get_model_version(name, str(aliases[alias]))
        return self._record(version, aliases)

    def lookup(self, reference: ModelReference) -> ModelVersionRecord:
        """The version a name with number or alias means; `MissingRunError` lists what there is instead."""
        name = reference.name or ""
        aliases = self.aliases(name)
        number = reference.version if reference.alias is None else aliases.get(reference.alias)
        everything = self.require_versions(name)
        for record in everything:
            if record.version == number:
                return record
        wanted = f"alias {reference.alias}" if reference.alias else f"version {reference.version}"
        step = "promote" if reference.alias else "merge"
        raise MissingRunError(
            f"The registered model {name!r} has no {wanted}.",
            where=self.store.uri,
            expected=wanted,
            found=_listing(everything, aliases),
            next_step=f"choose one of these, or mlflow run . -e {step} --env-manager local",
        )

    def require_versions(self, name: str) -> list[ModelVersionRecord]:
        """All versions, newest first; where there is none, a `MissingRunError` lists the registered models."""
        versions = self.versions(name)
        if versions:
            return versions
        others = [other for other in self.names() if other != name]
        raise MissingRunError(
            f"There is no registered model {name!r} with a version.",
            where=self.store.uri,
            expected="a merged model under that name",
            found="registered: " + ", ".join(others) if others else "no registered model at all",
            next_step="choose one of these, or merge into it: mlflow run . -e merge --env-manager local "
            f"-P registered_model={name}"
            if others
            else "make one with the whole experiment: mlflow run . --env-manager local",
        )

    def aliases(self, name: str) -> dict[str, int]:
        """Alias → version; empty if there is no such registered model."""
        try:
            model = self.store.client.get_registered_model(name)
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return {}
            raise
        return {alias: int(version) for alias, version in model.aliases.items()}

    def _record(self, version: ModelVersion, aliases: Mapping[str, int]) -> ModelVersionRecord:
        number = int(version.version)
        # Neither store keeps the logged model's id; the source does, because we registered it so.
        logged = LOGGED_MODEL.fullmatch(version.source or "")
        return ModelVersionRecord(
            name=version.name,
            version=number,
            run_id=version.run_id or "",
            source=version.source or "",
            tags=dict(version.tags),
            model_id=logged.group(1) if logged else version.model_id or None,
            aliases=tuple(sorted(alias for alias, target in aliases.items() if target == number)),
            created=version.creation_timestamp,
        )


def name_filter(name: str) -> str:
    """A filter that finds at least the versions of `name`; mlflow's filters know no escape."""
    if "'" not in name:
        return f"name = '{name}'"
    return "name LIKE '" + name.replace("'", "_") + "'"


def check_model_name(name: str) -> str:
    """Return `name` if a version registered under it can be found again by every URI and filter, else refuse it.

    Raises:
        RegistryError: it is empty, too long, or holds what a URI reads as something else (`@ : / ? # %`, quotes).
    """
    if not MODEL_NAME.fullmatch(name) or len(name) > MAX_NAME_LENGTH:
        raise RegistryError(
            "This cannot be the name of a registered model; nothing was made.",
            where="registered_model",
            expected=f"letters, digits, spaces, dots, hyphens and underscores, at most {MAX_NAME_LENGTH}, "
            "a letter or digit first",
            found=repr(name),
            next_step="pass -P registered_model=skippy, or another plain name",
        )
    return name


def parse_model_uri(uri: str) -> ModelReference:
    """Read a `models:/` URI; `MissingRunError` says which forms there are."""
    if match := LOGGED_MODEL.fullmatch(uri):
        return ModelReference(model_id=match.group(1))
    if match := VERSION.fullmatch(uri):
        return ModelReference(name=match.group(1), version=int(match.group(2)))
    if match := ALIAS.fullmatch(uri):
        return ModelReference(name=match.group(1), alias=match.group(2))
    raise MissingRunError(
        "This is not the URI of a model.",
        where=uri,
        found=repr(uri),
        expected=URI_FORMS,
        next_step="skippy models lists the versions; for example models:/skippy@champion",
    )


def _listing(records: list[ModelVersionRecord], aliases: Mapping[str, int]) -> str:
    """One line on the versions there are, newest first, and the aliases set."""
    shown = [f"{record.version} ({record.tags.get('variant') or 'no variant'})" for record in records[:8]]
    more = ", …" if len(records) > 8 else ""
    names = ", ".join(f"{alias} → {version}" for alias, version in sorted(aliases.items()))
    return f"versions {', '.join(shown)}{more}; aliases {names or 'none'}"

"""Moving the champion: checked, one at a time, and written down."""

from __future__ import annotations

import getpass
import json
import logging
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime

from mlflow.exceptions import MlflowException

from skippy.errors import RegistryError
from skippy.tracking.connection import Store, StoreAccess, file_lock
from skippy.tracking.models import Models
from skippy.tracking.registry import ModelVersionRecord, Registry
from skippy.tracking.stage_run import translated_errors

logger = logging.getLogger(__name__)

CHAMPION = "champion"
PREVIOUS = "previous"
HISTORY_PREFIX = "promotion."
LOCK_SUFFIX = ".promoting"
LOCK_WAIT_SECONDS = 10.0
LOCK_STALE_SECONDS = 120.0


@dataclass(frozen=True)
class AliasEvent:
    """One move of the champion, as kept on the registered model.

    Attributes:
        action: `promote` or `rollback`.
        version: champion since then.
        replaced: champion until then, None for the first.
        at: ISO time, UTC.
        by: who did it.
        reason: why.
        report_uri: the report it rests on.
        figures: the figures it rests on.
    """

    action: str
    version: int
    replaced: int | None
    at: str
    by: str
    reason: str
    report_uri: str
    figures: Mapping[str, object]


class Promotions(StoreAccess):
    """Moving the champion: one at a time, written down."""

    def __init__(self, store: Store, registry: Registry, models: Models) -> None:
        super().__init__(store)
        self._registry = registry
        self._models = models

    def promote(
        self,
        name: str,
        version: int,
        *,
        reason: str,
        report_uri: str,
        figures: Mapping[str, object],
        expected_champion: int | None,
        by: str = "",
    ) -> ModelVersionRecord:
        """Make `version` champion; the champion until now becomes `previous`.

        Whether it deserves it is the caller's business; here only that it exists, is complete, and that
        nobody moved the alias since the caller looked.

        Args:
            name: registered model.
            version: version to promote.
            reason: sentence, kept as tag.
            report_uri: where the report is, kept as tag.
            figures: what the decision rests on, kept as tag.
            expected_champion: the champion's version when the decision was taken, None if there was none.
            by: who decides; the user's name if left out.

        Raises:
            MissingRunError: no such version, or its weights are gone.
            RegistryError: it is champion already, or another promotion came first.
        """
        self._require_complete(name, version)
        with alias_lock(self.store, name):
            current = self._registry.alias(name, CHAMPION)
            found = current.version if current else None
            if found != expected_champion:
                raise RegistryError(
                    "The champion changed while this promotion was decided.",
                    where=f"{name}@{CHAMPION}",
                    expected=_shown(expected_champion),
                    found=_shown(found),
                    next_step="compare with the new champion and promote again",
                )
            if found == version:
                raise RegistryError(
                    "The version is champion already.",
                    where=f"models:/{name}/{version}",
                    next_step="nothing to do",
                )
            event = _event("promote", version, found, by, reason, report_uri, figures)
            self._move(name, event)
        return self._champion(name)

    def rollback(self, name: str, *, reason: str, by: str = "") -> ModelVersionRecord:
        """Make `previous` champion again; the two change places, so a second rollback undoes the first.

        Raises:
            RegistryError: there is no previous champion, or an interrupted move left both aliases on one version.
            MissingRunError: its weights are gone.
        """
        with alias_lock(self.store, name):
            current, previous = self._registry.alias(name, CHAMPION), self._registry.alias(name, PREVIOUS)
            if previous is None or current is None or previous.version == current.version:
                raise RegistryError(
                    "There is no champion to go back to.",
                    where=name,
                    expected=f"aliases {CHAMPION} and {PREVIOUS}, of two versions",
                    found=f"{CHAMPION} {_place(current)}, {PREVIOUS} {_place(previous)}",
                    next_step="mlflow run . -e promote --env-manager local",
                )
            self._require_complete(name, previous.version)
            report = previous.tags.get("promotion_report", "")
            self._move(name, _event("rollback", previous.version, current.version, by, reason, report, {}))
        return self._champion(name)

    def history(self, name: str) -> list[AliasEvent]:
        """Every move of the champion, oldest first."""
        return [AliasEvent(**json.loads(text)) for _, text in self._history(name)]

    def _history(self, name: str) -> list[tuple[str, str]]:
        try:
            tags = self.store.client.get_registered_model(name).tags
        except MlflowException:
            return []
        return sorted((key, text) for key, text in tags.items() if key.startswith(HISTORY_PREFIX))

    def _move(self, name: str, event: AliasEvent) -> None:
        """Write down, then move: after an interruption the history still says what was replaced by what."""
        client, version = self.store.client, str(event.version)
        text = json.dumps(event.__dict__, allow_nan=False, default=str)
        tags = {
            "promoted_at": event.at,
            "promoted_by": event.by,
            "promotion_action": event.action,
            "promotion_reason": event.reason,
            "promotion_report": event.report_uri,
            "promotion_figures": json.dumps(event.figures, allow_nan=False, default=str),
            "promoted_over": "" if event.replaced is None else str(event.replaced),
        }
        with translated_errors(f"promotion of models:/{name}/{version}"):
            number = len(self._history(name)) + 1
            for key, value in tags.items():
                client.set_model_version_tag(name, version, key, value)
            # The history names both versions before either alias moves: a swap cut in half loses neither.
            client.set_registered_model_tag(name, f"{HISTORY_PREFIX}{number:06d}", text)
            client.set_registered_model_alias(name, CHAMPION, version)
            if event.replaced is not None:
                client.set_registered_model_alias(name, PREVIOUS, str(event.replaced))
        logger.info(
            "%s@%s is version %s now, in place of %s", name, CHAMPION, version, _shown(event.replaced)
        )

    def _require_complete(self, name: str, version: int) -> None:
        """The version exists, its logged model is READY, its weights are there."""
        self._models.require_weights(f"models:/{name}/{version}")

    def _champion(self, name: str) -> ModelVersionRecord:
        champion = self._registry.alias(name, CHAMPION)
        if champion is None:
            raise RegistryError("The champion's alias vanished.", where=name, next_step="promote again")
        return champion


@contextmanager
def alias_lock(store: Store, name: str) -> Iterator[None]:
    """Only one holder at a time moves the aliases of `name`.

    A local store has a file lock. A server offers no compare-and-set on aliases, but creating a registered
    model of a given name succeeds for one client only: that is the lock, and it is deleted afterwards. One
    left by a process that died is taken over after `LOCK_STALE_SECONDS`.
    """
    if store.lock_path is not None:
        with file_lock(store.lock_path):
            yield
        return
    lock, holder = name + LOCK_SUFFIX, f"{getpass.getuser()} pid {os.getpid()}"
    deadline = time.monotonic() + LOCK_WAIT_SECONDS
    while not _take_lock(store, lock, holder):
        if time.monotonic() > deadline:
            raise RegistryError(
                "Another promotion is under way.",
                where=f"registered model {lock}",
                expected="to be alone",
                found="a lock that is not given back",
                next_step=f"try again in {LOCK_STALE_SECONDS:.0f} s",
            )
        time.sleep(0.2)
    try:
        yield
    finally:
        store.client.delete_registered_model(lock)


def _take_lock(store: Store, lock: str, holder: str) -> bool:
    """Try once; removes a stale lock so that the next try may succeed."""
    try:
        store.client.create_registered_model(lock, description=f"held by {holder} while aliases move")
        return True
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    try:
        held = store.client.get_registered_model(lock)
        if time.time() - held.creation_timestamp / 1000 > LOCK_STALE_SECONDS:
            store.client.delete_registered_model(lock)
    except MlflowException:
        logger.debug("the lock %s was given back meanwhile", lock)
    return False


def _event(
    action: str,
    version: int,
    replaced: int | None,
    by: str,
    reason: str,
    report_uri: str,
    figures: Mapping[str, object],
) -> AliasEvent:
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    return AliasEvent(action, version, replaced, now, by or _user(), reason, report_uri, dict(figures))


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return "unknown"


def _shown(version: int | None) -> str:
    return "no champion" if version is None else f"version {version}"


def _place(record: ModelVersionRecord | None) -> str:
    return "not set" if record is None else f"version {record.version}"

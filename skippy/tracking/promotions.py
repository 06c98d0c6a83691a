"""Moving the champion: checked, one at a time, and written down."""

from __future__ import annotations

import getpass
import json
import logging
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime

from mlflow.exceptions import MlflowException

from skippy.errors import RegistryError
from skippy.redaction import redact
from skippy.tracking.connection import Store, StoreAccess
from skippy.tracking.exclusion import exclusive
from skippy.tracking.models import Models
from skippy.tracking.orphans import remove_weights
from skippy.tracking.refusals import translated_errors
from skippy.tracking.registry import ModelReference, ModelVersionRecord, Registry
from skippy.tracking.tags import Tag

logger = logging.getLogger(__name__)

CHAMPION = "champion"
PREVIOUS = "previous"
HISTORY_PREFIX = "promotion."
HISTORY_KEY = re.compile(r"promotion\.\d+")
INTENT_TAG = "promotion.intent"
"""On the registered model while its aliases move: the `AliasEvent` that is meant."""


@dataclass(frozen=True)
class AliasEvent:
    """One move of the champion, as kept on the registered model."""

    action: str  # `promote` or `rollback`
    version: int  # champion since then
    replaced: int | None  # champion until then, None for the first
    at: str  # ISO time, UTC
    by: str  # who did it
    reason: str  # why
    report_uri: str  # the report it rests on
    figures: Mapping[str, object]  # the figures it rests on


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
            expected_champion: the champion's version when the decision was taken, None if there was none.
            by: who decides; the user's name if left out.

        Raises:
            MissingRunError: no such version, or its weights are gone.
            RegistryError: it is champion already, or another promotion came first or in between.
        """
        self._require_complete(name, version)
        with exclusive(self.store, _claim(name)):
            done = self._settle(name)
            if done is not None and (done.action, done.version) == ("promote", version):
                return self._champion(name)
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
            RegistryError: there is no previous champion, or somebody moved an alias in between.
            MissingRunError: its weights are gone.
        """
        with exclusive(self.store, _claim(name)):
            done = self._settle(name)
            if done is not None and done.action == "rollback":
                return self._champion(name)
            current, previous = self._both(name)
            self._require_complete(name, previous.version)
            report = previous.tags.get("promotion_report", "")
            self._move(name, _event("rollback", previous.version, current.version, by, reason, report, {}))
        return self._champion(name)

    def require_previous(self, name: str) -> None:
        """Refuse a rollback that could not be; one that waits for an interrupted move to be settled is let through."""
        self._registry.require_versions(name)
        if self.interrupted(name) is None:
            self._both(name)

    def _both(self, name: str) -> tuple[ModelVersionRecord, ModelVersionRecord]:
        """The champion and the one before it."""
        current, previous = self._registry.alias(name, CHAMPION), self._registry.alias(name, PREVIOUS)
        if current is None or previous is None or previous.version == current.version:
            by_hand = 'promote a version by hand: skippy promote --version N --override "WHY"'
            raise RegistryError(
                "There is no champion to go back to.",
                where=f"{name} in {self.store.uri}",
                expected=f"aliases {CHAMPION} and {PREVIOUS}, of two versions",
                found=f"{CHAMPION} {_place(current)}, {PREVIOUS} {_place(previous)}",
                next_step=f"leave rollback out, so that the gate decides; or {by_hand}",
            )
        return current, previous

    def remove_version(self, name: str, version: int) -> None:
        """Delete a version and its weights for good; no promotion can begin meanwhile.

        Raises:
            RegistryError: an alias points at it.
        """
        with exclusive(self.store, _claim(name)), translated_errors(f"models:/{name}/{version}"):
            record = self._registry.lookup(ModelReference(name=name, version=version))
            if record.aliases:
                raise RegistryError(
                    "An alias protects this version; nothing was deleted.",
                    where=record.uri,
                    expected="no alias",
                    found=", ".join(record.aliases),
                    next_step="promote another version, or delete the alias first",
                )
            if record.model_id is not None:
                # Killed between the two deletions, the weights would be a finished model that nobody registered.
                with suppress(MlflowException):
                    self.store.client.set_logged_model_tags(record.model_id, {Tag.DELETED: "true"})
            self.store.client.delete_model_version(name, str(version))
            if record.model_id is not None:
                remove_weights(self.store, record.model_id)

    def history(self, name: str) -> list[AliasEvent]:
        """Every move of the champion, oldest first."""
        return [AliasEvent(**json.loads(text)) for _, text in self._history(name)]

    def interrupted(self, name: str) -> AliasEvent | None:
        """The move of the champion that was begun and not ended; also that of a process still at it."""
        text = self._tags(name).get(INTENT_TAG)
        return None if text is None else AliasEvent(**json.loads(text))

    def settle(self, name: str) -> None:
        """Finish a move that was cut in half, or drop one that had not begun, once nobody else is at it."""
        with exclusive(self.store, _claim(name)):
            self._settle(name)

    def _history(self, name: str) -> list[tuple[str, str]]:
        tags = self._tags(name)
        return sorted((key, text) for key, text in tags.items() if HISTORY_KEY.fullmatch(key))

    def _tags(self, name: str) -> dict[str, str]:
        """Tags of the registered model; none where there is no such model."""
        try:
            return dict(self.store.client.get_registered_model(name).tags)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return {}

    def _move(self, name: str, event: AliasEvent) -> None:
        """Write down what is meant, do it, and look whether it is so."""
        text = json.dumps(event.__dict__, allow_nan=False, default=str)
        with translated_errors(f"promotion of models:/{name}/{event.version}"):
            self.store.client.set_registered_model_tag(name, INTENT_TAG, redact(text))
            self._carry_out(name, event, redact(text))
        logger.info(
            "%s@%s is version %s now, in place of %s", name, CHAMPION, event.version, _shown(event.replaced)
        )

    def _settle(self, name: str) -> AliasEvent | None:
        """Finish a move that was cut in half, or drop one that had not begun; the finished one, if any.

        The champion tells: where it has moved the person was, or would have been, told so, and the rest follows;
        where it has not, nothing has happened yet and the intent goes.
        """
        with translated_errors(f"interrupted promotion of {name}"):
            event = self.interrupted(name)
            if event is None:
                return None
            champion = self._registry.alias(name, CHAMPION)
            if champion is not None and champion.version == event.version:
                self._carry_out(name, event, self._tags(name)[INTENT_TAG])
                logger.info("promote: finished the interrupted %s of version %s", event.action, event.version)
                return event
            self.store.client.delete_registered_model_tag(name, INTENT_TAG)
            logger.info("promote: dropped a %s of version %s that had not begun", event.action, event.version)
            return None

    def _carry_out(self, name: str, event: AliasEvent, text: str) -> None:
        """Both aliases, what the version says of it, the history; done twice, it is as done once."""
        client, version = self.store.client, str(event.version)
        tags = {
            "promoted_at": event.at,
            "promoted_by": event.by,
            "promotion_action": event.action,
            "promotion_reason": event.reason,
            "promotion_report": event.report_uri,
            "promotion_figures": json.dumps(event.figures, allow_nan=False, default=str),
            "promoted_over": "" if event.replaced is None else str(event.replaced),
        }
        client.set_registered_model_alias(name, CHAMPION, version)
        if event.replaced is not None:
            client.set_registered_model_alias(name, PREVIOUS, str(event.replaced))
        self._require_moved(name, event)
        for key, value in tags.items():
            client.set_model_version_tag(name, version, key, redact(value))
        kept = self._history(name)
        if not any(one == text for _, one in kept):
            client.set_registered_model_tag(name, f"{HISTORY_PREFIX}{len(kept) + 1:06d}", text)
        client.delete_registered_model_tag(name, INTENT_TAG)

    def _require_moved(self, name: str, event: AliasEvent) -> None:
        """Read the aliases back: MLflow's last writer wins, and somebody may write them by hand."""
        wanted = {CHAMPION: event.version, PREVIOUS: event.replaced}
        for alias, version in wanted.items():
            if version is None:
                continue
            found = self._registry.alias(name, alias)
            if found is None or found.version != version:
                self.store.client.delete_registered_model_tag(name, INTENT_TAG)
                raise RegistryError(
                    "Somebody else moved an alias at the same moment.",
                    where=f"{name}@{alias}",
                    expected=f"version {version}",
                    found=_place(found),
                    next_step="look at the aliases in the registry, then promote again",
                )

    def _require_complete(self, name: str, version: int) -> None:
        """The version exists, its logged model is READY, its weights are there."""
        self._models.require_weights(f"models:/{name}/{version}")

    def _champion(self, name: str) -> ModelVersionRecord:
        champion = self._registry.alias(name, CHAMPION)
        if champion is None:
            raise RegistryError("The champion's alias vanished.", where=name, next_step="promote again")
        return champion


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


def _claim(name: str) -> str:
    return f"promotion of {name}"

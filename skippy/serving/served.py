"""What is served: the models that a person names, found and verified, each under one name."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from operator import attrgetter
from pathlib import Path
from typing import Any

from skippy.core.sampling import PRESETS, Sampling
from skippy.core.variants import VARIANTS
from skippy.errors import ConfigError, MissingRunError, nearest
from skippy.models.profiles import AUTO
from skippy.resolve.bases import Base, find_profile, open_base
from skippy.resolve.files import ALIASES, check_model
from skippy.resolve.subjects import Subject, find_subject
from skippy.serving.routes import SYSTEM_PROMPT
from skippy.tracking.registry import ALIAS, VERSION, parse_model_uri
from skippy.tracking.tracker import Tracker
from skippy.words import split_list

logger = logging.getLogger(__name__)

BASE = "base"
REGISTERED = "skippy"
"""The registered model whose aliases may be named without it."""
PLAIN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._\-]*")


@dataclass(frozen=True)
class Served:
    """One model under one name."""

    name: str  # under which it answers
    asked: str  # what the person called it
    subject: Subject  # whose weights they are, as the store has them, verified
    sampling: Sampling  # how it answers where a request does not say
    base_digest: str = ""  # of its base; empty where unknown
    is_for_cpu: bool = False  # whether it runs on the CPU also where there is a GPU, as its profile says

    def facts(self, owner: str) -> dict[str, Any]:
        """What the list of models says of it.

        Args:
            owner: kind of the engine, by which clients know what it honours.
        """
        facts = {
            "owned_by": owner,
            "variant": self.subject.variant,
            "source": public_source(self.subject),
            "digest": self.subject.digest,
            "sampling": asdict(self.sampling),
        }
        return facts | ({SYSTEM_PROMPT: self.subject.system} if self.subject.system else {})


def public_source(subject: Subject) -> str:
    """Where it is from: a URI or a name; of a directory its last part alone."""
    return Path(subject.uri).name if Path(subject.uri).is_dir() else subject.uri


class Finder:
    """Finds what is to be served; the base is opened once, and only where something is named by it."""

    def __init__(self, base_model: str, profile: str, sampling: str, tracker: Tracker) -> None:
        self.base_model, self._profile, self._sampling = base_model, profile, sampling
        self._tracker = tracker
        self._base: Base | None = None

    def find(self, asked: str, name: str = "") -> Served:
        """The model a person means, its files as they were written.

        Raises:
            MissingRunError: there is none; proposes what there is.
            CheckpointError: its files are not those that were written, or are none; or the name means nothing.
        """
        asked = ALIASES.get(asked, asked)
        if asked != self.base_model:
            check_model(asked)
        uri, base_digest = asked, ""
        by_name = not asked.startswith("models:/")
        if not by_name:
            uri, base_digest = self._pin(asked)
        if by_name:
            subject = find_subject(asked, self.base_model, self._open(), self._tracker)
            base_digest = self._open().digest
        else:
            # Needs no base, which would be hashed for nothing.
            subject = find_subject(uri, "", None, self._tracker)
        if by_name and subject.path == self._open().path:
            profile = self._open().profile
        else:  # a base under a prompt has no weights of its own to tell it by
            weights = str(subject.path) if subject.system else subject.uri
            profile = find_profile(weights, self._tracker, self._profile)
        preset = profile.sampling if self._sampling == AUTO else self._sampling
        called = name or name_for(asked)
        return Served(called, asked, subject, PRESETS[preset], base_digest, profile.is_for_cpu)

    def known(self) -> list[str]:
        """What can be asked for by name: the base, aliases, and the variants that are registered."""
        versions = self._tracker.registry.versions(REGISTERED)
        aliases = [alias for one in versions for alias in one.aliases if alias in ALIASES]
        variants = [one.tags.get("variant", "") for one in versions]
        return list(dict.fromkeys([BASE, *aliases, *filter(VARIANTS.__contains__, variants)]))

    def _open(self) -> Base:
        if self._base is None:
            self._base = open_base(self.base_model, self._tracker, self._profile)
        return self._base

    def _pin(self, uri: str) -> tuple[str, str]:
        """The version that an alias means now, and the base it was made from; an unset alias says what there is."""
        reference = parse_model_uri(uri)
        if reference.model_id is not None:
            return uri, ""
        try:
            version = self._tracker.registry.lookup(reference)
        except MissingRunError as error:
            raise self._without(uri, str(reference.name), error) from error
        return version.uri, str(version.tags.get("base_digest", ""))

    def _without(self, uri: str, name: str, error: MissingRunError) -> MissingRunError:
        """The message of an alias or version that there is not, with a command that serves something."""
        versions = self._tracker.registry.versions(name)
        variants = list(dict.fromkeys(one.tags.get("variant", "") for one in versions))
        treatments = [each for each in variants if each in VARIANTS and VARIANTS[each].role == "treatment"]
        step = "skippy serve --model base, or make demo for a version to serve"
        if versions:
            choice = (treatments or [each for each in variants if each in VARIANTS] or [versions[0].uri])[0]
            others = f"or --model {versions[0].uri}, or --arms base,v3,v4"
            step = f"skippy serve --model {choice} ({others}); skippy chat --model {choice}"
        is_champion = uri.endswith("@champion")
        found = error.found + (
            "; the gate of promote stayed shut, or promote never ran" if is_champion else ""
        )
        return MissingRunError(error.what, where=uri, expected=error.expected, found=found, next_step=step)


def find_all(model: str, arms: str, finder: Finder) -> tuple[Served, ...]:
    """One model, or several side by side under the names given.

    Raises:
        ConfigError: an arm is there twice.
    """
    return split_list(arms, "arms", finder.find, key=attrgetter("name")) or (finder.find(model),)


def check_arms(arms: str) -> tuple[str, ...]:
    """The arms named; refused is a word that is neither base nor variant and looks like a misspelt one.

    Raises:
        ConfigError: it is near a known word and no run id, URI or directory.
    """
    known = (BASE, *ALIASES, *VARIANTS)
    names = split_list(arms, "arms")
    for part in names:
        near = nearest(part, known)
        if part not in known and near and not Path(part).exists() and ":" not in part:
            raise ConfigError(
                "There is no such arm.",
                where="arms",
                expected=", ".join(known) + ", a models:/ URI, a merge run id, or a directory",
                found=repr(part),
                next_step=f"pass {near}",
            )
    return names


def name_for(asked: str) -> str:
    """Under which name something answers: an alias by its own, a version as `skippy-3`, others as they are called."""
    if match := ALIAS.fullmatch(asked):
        return match.group(2)
    if match := VERSION.fullmatch(asked):
        return f"{match.group(1)}-{match.group(2)}"
    if asked.startswith("models:/"):
        return asked.removeprefix("models:/")
    return asked if PLAIN_NAME.fullmatch(asked) else Path(asked).name


def followed_alias(asked: str) -> Mapping[str, str]:
    """Registered model and alias of what was asked for; empty where it is no alias, and so never moves."""
    match = ALIAS.fullmatch(asked)
    return {"name": match.group(1), "alias": match.group(2)} if match else {}

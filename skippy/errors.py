"""Every error a person may meet, in one tree.

A message says what went wrong, where, what was expected, what was found, and what to do next. Each leaf
also inherits the standard library type that a caller would catch without knowing skippy.
"""

from __future__ import annotations

import difflib
import errno
from collections.abc import Iterable, Mapping

from skippy.redaction import redact


class SkippyError(Exception):
    """Base of all errors that skippy raises on purpose. Its text holds no secret, whatever it is given.

    Args:
        what: one sentence, what went wrong.
        where: file, tensor, line, run or parameter it concerns.
        expected: what would have been right.
        found: what was there instead.
        next_step: the command or change that helps.
    """

    def __init__(
        self, what: str, *, where: str = "", expected: str = "", found: str = "", next_step: str = ""
    ) -> None:
        self.what = redact(what)
        self.where = redact(where)
        self.expected = redact(expected)
        self.found = redact(found)
        self.next_step = redact(next_step)
        parts = {
            "where": self.where, "expected": self.expected, "found": self.found, "next": self.next_step
        }  # fmt: skip
        lines = [self.what, *(f"  {label}: {text}" for label, text in parts.items() if text)]
        super().__init__("\n".join(lines))

    def __str__(self) -> str:
        """The whole message; also for leaves whose standard type would quote it."""
        return str(self.args[0])


class ConfigError(SkippyError, ValueError):
    """A parameter has a value that cannot be used."""


class CheckpointError(SkippyError, OSError):
    """A model checkpoint is missing, malformed or not of a known family."""


class TargetError(SkippyError, ValueError):
    """The adapted weights of a model are not where its family puts them."""


class ProjectorError(SkippyError, ValueError):
    """Projectors are malformed, or belong to another base or k."""


class AdapterError(SkippyError, ValueError):
    """An adapter is malformed, or does not fit the base."""


class CharacterError(SkippyError, ValueError):
    """A character file breaks its schema."""


class PlanError(SkippyError, ValueError):
    """The plan of a study breaks its schema, or asks for what cannot be run."""


class StudyError(SkippyError, RuntimeError):
    """A study cannot go on."""


class SubspaceError(SkippyError, ArithmeticError):
    """A singular subspace could not be computed or certified."""


class SamplesError(SkippyError, ValueError):
    """A samples file is damaged beyond its last line."""


class ProblemError(SkippyError, ValueError):
    """A problem set is missing, lacks a column or has an unusable answer."""


class BackendError(SkippyError, RuntimeError):
    """A generation backend cannot be reached or cannot honour the sampling asked for."""


class RewardError(SkippyError, RuntimeError):
    """A reward could not be computed and training must not go on without it."""


class TrackingError(SkippyError, RuntimeError):
    """The tracking store refused, or holds something unexpected."""


class ServerError(SkippyError, RuntimeError):
    """A tracking server cannot be started, or refuses a new member."""


class MissingRunError(SkippyError, LookupError):
    """No run, model or alias of the kind needed exists, or the one named is unusable."""


class RegistryError(SkippyError, RuntimeError):
    """A registered model is incomplete, altered or already claimed."""


class PromotionRefused(SkippyError, RuntimeError):
    """The gate did not open; the alias stays where it is."""


class TrainingError(SkippyError, RuntimeError):
    """Training cannot start, or broke one of its guarantees."""


class ReportError(SkippyError, ValueError):
    """The comparison cannot be reported as asked."""


class SystemRefused(SkippyError, OSError):
    """The operating system refused: no room, no permission, no such file where one was a moment ago."""


REMEDIES: Mapping[int, str] = {
    errno.ENOSPC: "free some space on that disk, then run the same command again",
    errno.EDQUOT: "free some of your quota, then run the same command again",
    errno.EACCES: "give this user permission there, or choose another place",
    errno.EPERM: "give this user permission there, or choose another place",
    errno.EROFS: "choose a place that can be written to",
    errno.EMFILE: "raise the number of open files (ulimit -n)",
    errno.ENOMEM: "run fewer things at once (parallel=1), or on a larger machine",
}
"""Error number → what a person can do about it."""


def as_ours(error: BaseException) -> SkippyError | None:
    """An error of the operating system in our words; a SkippyError as it is; None for anything else."""
    if isinstance(error, SkippyError):
        return error
    if not isinstance(error, OSError):
        return None
    number = error.errno or 0
    return SystemRefused(
        "The operating system refused.",
        where=str(error.filename or "not said"),
        expected="to read or write there",
        found=error.strerror or str(error) or type(error).__name__,
        next_step=REMEDIES.get(number, "look at the place named; then run the same command again"),
    )


def nearest(text: str, known: Iterable[str]) -> str:
    """The known word most like `text`, whatever its case; empty where none is near."""
    by_lower = {word.lower(): word for word in known}
    near = difflib.get_close_matches(text.strip().lower(), by_lower, n=1)
    return by_lower[near[0]] if near else ""

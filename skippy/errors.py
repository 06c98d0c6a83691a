"""Every error a person may meet, in one tree.

A message says what went wrong, where, what was expected, what was found, and what to do next. Each leaf
also inherits the standard library type that a caller would catch without knowing skippy.
"""

from __future__ import annotations

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

"""report.json as one record: what `compare` writes, `promote` reads and tests build.

`to_json` writes the keys of the contract; `from_json` reads what this version and earlier ones wrote. A key that an
earlier version did not have takes the field's default; one that a later version adds is left alone.
"""

from __future__ import annotations

import dataclasses
import json
import math
import types
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from skippy.errors import ReportError
from skippy.report.conclusions import GateStep, PairVerdict, Planning, Sensitivity, VariantVerdict
from skippy.results import LeakageFacts, PromotionState, Provenance

REPORT_FILE = "report/report.json"
Record = TypeVar("Record")


@dataclass(frozen=True)
class EvaluationEntry:
    """One evaluation behind the report; fields as in `results.Evaluation`, `correct` by problem key."""

    runs: Mapping[str, str]
    model_digest: str
    seed: int = 0
    model_uri: str = ""
    model_version: str = ""
    step: int | None = None
    matched_dose: str = ""
    preset: str = ""
    prompt_style: str = ""
    backend: str = ""
    sampling_seed: int = 0
    correct: Mapping[str, int] = field(default_factory=dict)
    leakage: LeakageFacts | None = None


@dataclass(frozen=True)
class ArmEntry:
    """One arm: its average in points, and its evaluations, one a training seed."""

    evaluations: tuple[EvaluationEntry, ...]
    avg_at_k: float | None = None


@dataclass(frozen=True)
class PersonalityEntry:
    """Are the treatment and its first rival equal, who learned the character, and which traits moved.

    The fields from `is_equal` on are those of `Likeness`, None where the two share no scored prompts.
    """

    verdict: str = "not_comparable"
    learned: Mapping[str, bool] = field(default_factory=dict)
    traits_adjusted_p: Mapping[str, Mapping[str, float | None]] = field(default_factory=dict)
    is_equal: bool | None = None
    is_different: bool | None = None
    mean_difference_sd: float | None = None
    interval_sd: tuple[float, float] | None = None
    margin_sd: float | None = None
    n: int | None = None
    reason: str = ""


@dataclass(frozen=True)
class WinnerEntry:
    """The variant that the gate lets through, None for nobody, and why."""

    variant: str | None
    reason: str


@dataclass(frozen=True)
class PromotionEntry(PromotionState):
    """The gate, and what the registry said before this report."""

    is_allowed: bool = False
    steps: tuple[GateStep, ...] = ()
    registered_model: str = ""


@dataclass(frozen=True)
class MarginEntry:
    """δ in points: as the report used it, as the evaluations planned it (None: they planned none)."""

    used: float = 0.0
    planned: float | None = None
    is_post_hoc: bool = False


@dataclass(frozen=True)
class ReportRecord:
    """The verdicts as data; differences, intervals and margins in points."""

    winner: WinnerEntry  # whom `promote` may make champion
    verdicts: Mapping[str, VariantVerdict]  # variant → its verdict against the base
    arms: Mapping[str, ArmEntry]  # arm → its evaluations, the base among them
    personality: PersonalityEntry = PersonalityEntry()  # equal or not, learned or not
    pairs: tuple[PairVerdict, ...] = ()  # every treatment against the others
    promotion: PromotionEntry = PromotionEntry()  # the gate step by step, and the aliases before
    # what the positive control showed; None in reports of versions that asked for none
    sensitivity: Sensitivity | None = None
    margin: MarginEntry = MarginEntry()  # δ as used and as planned, and whether it is post hoc
    unequal: tuple[str, ...] = ()  # in what the arms differ besides the variant
    passed_over: tuple[str, ...] = ()  # evaluations that were not taken, with the reason
    provenance: Provenance | None = None  # where the figures come from; None only in records written by hand
    planning: Planning | None = None  # what n × k can show
    figures_of_others: Mapping[str, Mapping[str, float]] = field(default_factory=dict)  # name → arm → value
    suite: str = ""  # what the mathematics suite may be called
    unit: str = "points"  # of differences and margins
    headline: str = ""  # the first sentence of the page
    shown: tuple[str, ...] = ()  # what the data establish
    not_shown: tuple[str, ...] = ()  # what they leave open
    limits: tuple[str, ...] = ()  # what a careful reader holds against it

    def to_json(self) -> str:
        """Strict JSON; NaN and infinities become null."""
        return (
            json.dumps(finite(dataclasses.asdict(self)), indent=2, allow_nan=False, ensure_ascii=False) + "\n"
        )

    @classmethod
    def from_json(cls, text: str | bytes, where: str = REPORT_FILE) -> ReportRecord:
        """Read what `to_json` of this version or an earlier one wrote.

        Raises:
            ReportError: no JSON, a key without a default is missing, or a value is of another type.
        """
        try:
            content = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ReportError("A report is no JSON.", where=where, found=str(error)) from error
        return _read(cls, content, where)


def finite(value: Any) -> Any:
    """`value` with null in place of NaN and infinities, which JSON does not have."""
    if isinstance(value, Mapping):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _read(kind: type[Record], content: Any, where: str) -> Record:
    """A frozen record of `kind` out of plain data."""
    if not isinstance(content, Mapping):
        raise _unlike(where, f"the fields of {kind.__name__}", content)
    hints = get_type_hints(kind)
    values = {}
    for item in dataclasses.fields(kind):  # type: ignore[arg-type]
        place = f"{where}: {item.name}" if ":" not in where else f"{where}.{item.name}"
        if item.name in content:
            values[item.name] = _value(hints[item.name], content[item.name], place)
        elif item.default is dataclasses.MISSING and item.default_factory is dataclasses.MISSING:
            raise _unlike(place, "a value", "nothing")
    return kind(**values)


def _value(hint: Any, content: Any, where: str) -> Any:
    """`content` as the type that a field is annotated with."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        kinds = [kind for kind in inner if kind is not type(None)]
        if content is None and len(kinds) < len(inner):
            return None
        return _value(kinds[0], content, where)
    if origin is Literal:
        if content not in inner:
            raise _unlike(where, "one of " + ", ".join(map(str, inner)), content)
        return content
    if origin is tuple and isinstance(content, list):
        kinds = [inner[0]] * len(content) if inner[-1] is Ellipsis else list(inner)
        if len(kinds) == len(content):
            return tuple(_value(kind, item, where) for kind, item in zip(kinds, content, strict=True))
    elif isinstance(content, Mapping) and origin is not None and issubclass(origin, Mapping):
        return {key: _value(inner[1], item, f"{where}.{key}") for key, item in content.items()}
    elif dataclasses.is_dataclass(hint):
        return _read(hint, content, where)  # type: ignore[arg-type]
    elif hint is float and content is None:
        return math.nan
    elif hint is float and isinstance(content, int | float) and not isinstance(content, bool):
        return float(content)
    elif (
        isinstance(hint, type)
        and isinstance(content, hint)
        and (hint is bool or not isinstance(content, bool))
    ):
        return content
    raise _unlike(where, str(getattr(hint, "__name__", hint)), content)


def _unlike(where: str, expected: str, found: Any) -> ReportError:
    return ReportError(
        "A report does not have the form that compare writes.",
        where=where,
        expected=expected,
        found=found if isinstance(found, str) else f"{type(found).__name__} {str(found)[:60]}",
        next_step="compare again: mlflow run . -e compare --env-manager local",
    )

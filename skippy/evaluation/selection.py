"""Which evaluations a comparison is made of: those a person names, else the newest of each arm."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from skippy.characters.schema import Character
from skippy.config import CompareConfig
from skippy.core.variants import VARIANTS, find_variant
from skippy.errors import ConfigError, MissingRunError, ReportError
from skippy.resolve.bases import LAB, Base
from skippy.resolve.runs import CHARACTER_DIGEST, SUBJECT, find_run
from skippy.tracking.records import RunRecord
from skippy.tracking.tracker import Tracker

BASE_ARM = "base"


def select_evaluations(
    config: CompareConfig, tracker: Tracker, base: Base, character: Character
) -> dict[str, list[RunRecord]]:
    """Evaluations by arm, the base first: the runs named, else the newest of each arm.

    Raises:
        ConfigError: an unknown arm, or more than one evaluation of the base.
        MissingRunError: an arm asked for has no evaluation, or no variant has one.
        ReportError: an evaluation is of another base, character or subject, or a training seed is there twice.
    """
    arms = _asked(config.arms)
    named = _named(config.runs, tracker)
    stray = [arm for arm in named if arms and arm not in (BASE_ARM, *arms)]
    if stray:
        raise ConfigError(
            "A run is of an arm that is not asked for.",
            where="runs",
            expected=f"evaluations of {BASE_ARM}, {', '.join(arms)}",
            found=", ".join(f"{named[arm][0].run_id} of {arm}" for arm in stray),
            next_step=f"add {', '.join(stray)} to arms, or leave the run out",
        )
    wanted = arms or [arm for arm in named if arm != BASE_ARM]
    found: dict[str, list[RunRecord]] = {}
    for arm in (BASE_ARM, *(name for name in VARIANTS if not wanted or name in wanted)):
        records = named.get(arm) or _newest(arm, tracker, base, character, is_asked=bool(wanted))
        if records:
            _require_arm(arm, records, tracker, base, character)
            _require_seeds(arm, records)
            found[arm] = records
    if len(found) == 1:
        raise _nothing_to_compare(base)
    return found


def _asked(text: str) -> list[str]:
    """The arms of a parameter, each known; the base may be among them, since it always is."""
    names = [name.strip() for name in text.split(",") if name.strip()]
    return [find_variant(name, "arms").name for name in names if name != BASE_ARM]


def _named(text: str, tracker: Tracker) -> dict[str, list[RunRecord]]:
    """The runs of a parameter by arm; the base has one evaluation, however many seeds there are."""
    named: dict[str, list[RunRecord]] = {}
    for run_id in [run_id.strip() for run_id in text.split(",") if run_id.strip()]:
        record = find_run(tracker, "eval", run_id)
        if record.variant not in (BASE_ARM, *VARIANTS):
            raise ReportError(
                "An evaluation is of no arm of the experiment.",
                where=f"eval run {record.run_id} {record.name!r}",
                expected="one of " + ", ".join((BASE_ARM, *VARIANTS)),
                found=record.variant or "no variant",
                next_step="leave it out of runs",
            )
        named.setdefault(record.variant, []).append(record)
    if len(named.get(BASE_ARM, ())) > 1:
        raise ConfigError(
            "The base is evaluated once.",
            where="runs",
            expected="one run id of the base: training seeds make several variants, but not several bases",
            found=",".join(record.run_id for record in named[BASE_ARM]),
            next_step="pass one of them",
        )
    return named


def _newest(
    arm: str, tracker: Tracker, base: Base, character: Character, *, is_asked: bool
) -> list[RunRecord]:
    """The newest evaluation of an arm; none where there is none and nobody asked for it."""
    tags = {CHARACTER_DIGEST: character.digest, SUBJECT: "model"}
    try:
        return [find_run(tracker, "eval", base=base, variant=arm, extra_tags=tags)]
    except MissingRunError:
        if is_asked or arm == BASE_ARM:
            raise
        return []


def _nothing_to_compare(base: Base) -> MissingRunError:
    of_base = "" if base.name == LAB else f" -P base_model={base.name}"
    return MissingRunError(
        "No variant of this base and character is evaluated.",
        where=f"base {base.name}",
        expected="a finished evaluation of one of " + ", ".join(VARIANTS),
        found="evaluations of the base alone",
        next_step="mlflow run . -e eval --env-manager local -P model=" + next(iter(VARIANTS)) + of_base,
    )


def _require_arm(
    arm: str, records: Sequence[RunRecord], tracker: Tracker, base: Base, character: Character
) -> None:
    """Every evaluation is of one model of this base, trained towards and asked as this character."""
    for record in records:
        train = tracker.runs.read(record.link("train")) if record.link("train") else None
        expected: Mapping[str, tuple[str, str]] = {
            "base": (base.digest[:16], record.base_digest[:16]),
            "character": (character.digest[:16], record.tags.get(CHARACTER_DIGEST, "")[:16]),
            "trained character": (character.name, train.character if train else character.name),
            "subject": ("model", record.tags.get(SUBJECT, "model")),
        }
        wrong = {name: pair for name, pair in expected.items() if pair[0] != pair[1]}
        if wrong:
            raise ReportError(
                f"An evaluation belongs to another {' and '.join(wrong)}.",
                where=f"eval run {record.run_id} {record.name!r}",
                expected=", ".join(f"{name} {wanted}" for name, (wanted, _) in wrong.items()),
                found=", ".join(f"{name} {found or 'none'}" for name, (_, found) in wrong.items()),
                next_step=f"pass an evaluation of {arm} on this base with character={character.name}, or leave it out",
            )


def _require_seeds(arm: str, records: Sequence[RunRecord]) -> None:
    """Several evaluations of a variant are several training seeds: one counted twice would narrow the interval."""
    counts = Counter(record.tags.get("skippy.seed") or "none" for record in records)
    seed, count = counts.most_common(1)[0]
    if count > 1:
        twice = [record.run_id for record in records if (record.tags.get("skippy.seed") or "none") == seed]
        raise ReportError(
            "Evaluations of one training seed are no further seeds.",
            where=f"runs of {arm}",
            expected="one evaluation a training seed",
            found=f"{count} evaluations of seed {seed}: {', '.join(twice)}",
            next_step="pass one run id a seed",
        )

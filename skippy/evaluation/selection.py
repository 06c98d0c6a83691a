"""Which evaluations a comparison is made of: those a person names, else the newest that can be compared."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

from skippy.characters.schema import Character
from skippy.core.variants import VARIANTS, find_variant, is_untrained
from skippy.errors import ConfigError, MissingRunError, ReportError
from skippy.evaluation.equality import Facts, differences, implied_differences, read_facts, unlike
from skippy.resolve.bases import LAB, Base
from skippy.resolve.runs import find_run, find_runs
from skippy.tracking.records import RunRecord
from skippy.tracking.tags import Tag
from skippy.tracking.tracker import Tracker
from skippy.words import counted, split_list

BASE_ARM = "base"
LOOKED_AT = 100
"""The newest evaluations of base and variants, among which a set is looked for."""
SHOWN = 12
"""Evaluations passed over that are listed one by one."""


@dataclass(frozen=True)
class Selection:
    """The evaluations of a comparison."""

    records: dict[str, list[RunRecord]]  # arm → its evaluations, one a training seed; the base first
    unequal: tuple[str, ...]  # in what the arms differ besides the variant, a sentence each
    # δ that they were planned with, a share, the strictest where they differ; None where none was
    margin: float | None
    passed_over: tuple[str, ...]  # evaluations that could have been taken, a sentence each
    chosen_by: str  # how they were chosen, in a sentence
    implied: tuple[str, ...] = ()  # in what the arms differ by being what they are, a sentence each


def select_evaluations(
    tracker: Tracker, base: Base, character: Character, *, arms: str, runs: str, may_differ: bool
) -> Selection:
    """Evaluations by arm, the base first: the runs named, and for the other arms the newest comparable ones.

    Args:
        arms: variants, comma-separated; empty: those of `runs`, or all there are.
        runs: run ids, comma-separated; empty: the newest comparable ones.

    Raises:
        ConfigError: an unknown arm, or more than one evaluation of the base.
        MissingRunError: an arm asked for has no evaluation, or no variant has one.
        ReportError: an evaluation is of another base, character or subject, a training seed is there twice, or
            the arms differ in more than the variant and nobody allowed it.
    """
    asked, named = _asked(arms), _named(runs, tracker)
    _require_asked(asked, named)
    wanted = asked or [arm for arm in named if arm != BASE_ARM]
    tags: dict[str, str] = {Tag.CHARACTER_DIGEST: character.digest, Tag.SUBJECT: "model"}
    stored = tracker.runs.each("eval", extra_tags={Tag.BASE_DIGEST: base.digest, **tags})
    known = (record for record in stored if record.variant in (BASE_ARM, *VARIANTS))
    facts = [read_facts(tracker, record) for record in islice(known, LOOKED_AT)]
    if named:
        taken = [read_facts(tracker, record) for records in named.values() for record in records]
        missing = [arm for arm in (BASE_ARM, *wanted) if arm not in named]
        taken += [_nearest(arm, taken, facts, tracker, base, tags) for arm in missing]
        chosen_by = "by run id"
    else:
        taken = _newest_set(facts, wanted, tracker, base, tags)
        chosen_by = "the newest set of which every arm was asked and trained alike"
    found: dict[str, list[RunRecord]] = {}
    for arm in (BASE_ARM, *VARIANTS):
        records = [fact.record for fact in taken if fact.arm == arm]
        if records:
            _require_arm(arm, records, tracker, base, character)
            _require_seeds(arm, records)
            found[arm] = records
    if len(found) == 1:
        raise _nothing_to_compare(base)
    unequal = tuple(differences(taken))
    if unequal and not may_differ:
        raise _unequal(unequal, taken)
    margin = min((fact.margin for fact in taken if fact.margin is not None), default=None)
    return Selection(
        *(found, unequal, margin, tuple(_passed_over(facts, taken)), chosen_by),
        implied=tuple(implied_differences(taken)),
    )


def _newest_set(
    facts: Sequence[Facts], wanted: Sequence[str], tracker: Tracker, base: Base, tags: Mapping[str, str]
) -> list[Facts]:
    """The set of mutually comparable evaluations with the most of the arms wanted, of equals the newest."""
    sets = [found for found in _comparable_sets(facts) if set(wanted) <= {fact.arm for fact in found}]
    if wanted:
        sets = [[f for f in found if f.arm in (BASE_ARM, *wanted)] for found in sets]
    if sets:
        return max(sets, key=lambda found: (len({f.arm for f in found}), _time(found)))
    # Nothing fits together: the newest of each, whose difference is then named.
    arms = wanted or [arm for arm in VARIANTS if any(fact.arm == arm for fact in facts)]
    return [_newest(arm, facts, tracker, base, tags) for arm in (BASE_ARM, *arms)]


def _comparable_sets(facts: Sequence[Facts]) -> Iterator[list[Facts]]:
    """Base and variants that were asked alike, trained alike and have the same training seeds."""
    for reference in (fact for fact in facts if fact.arm == BASE_ARM):
        alike = [
            fact
            for fact in facts
            if fact.arm != BASE_ARM
            and not unlike(reference.asked, fact.asked)
            and (None in (reference.margin, fact.margin) or reference.margin == fact.margin)
        ]
        leaders = {frozenset(fact.trained.items()): fact for fact in alike}
        for leader in leaders.values():
            mates = [fact for fact in alike if not unlike(leader.trained, fact.trained)]
            by_seed: dict[str, dict[str, Facts]] = {}
            for fact in mates:  # newest first
                by_seed.setdefault(fact.seed, {}).setdefault(fact.arm, fact)
            # An arm without a training has no seed, and stands beside all of them.
            free = {arm: fact for arm, fact in by_seed.pop("", {}).items() if is_untrained(arm)}
            for arms in {frozenset(found) for found in by_seed.values()} or {frozenset()}:
                seeds = [found for found in by_seed.values() if arms <= found.keys()]
                yield [reference, *(found[arm] for found in seeds for arm in arms), *free.values()]


def _time(facts: Sequence[Facts]) -> tuple[int, int]:
    """When a set became complete, then when its base was asked."""
    variants = [fact.record.start_time for fact in facts if fact.arm != BASE_ARM]
    return max(variants), max(fact.record.start_time for fact in facts if fact.arm == BASE_ARM)


def _nearest(
    arm: str,
    taken: Sequence[Facts],
    facts: Sequence[Facts],
    tracker: Tracker,
    base: Base,
    tags: Mapping[str, str],
) -> Facts:
    """The newest evaluation of an arm that can be compared with those named; the newest of all, where none can."""
    fitting = [
        fact
        for fact in facts
        if fact.arm == arm
        and not any(unlike(fact.asked, other.asked) for other in taken)
        and not differences([fact, *taken])
    ]
    return fitting[0] if fitting else _newest(arm, facts, tracker, base, tags)


def _newest(arm: str, facts: Sequence[Facts], tracker: Tracker, base: Base, tags: Mapping[str, str]) -> Facts:
    """The newest evaluation of an arm; refused, with the command that makes one, where there is none."""
    found = [fact for fact in facts if fact.arm == arm]
    if found:
        return found[0]
    return read_facts(tracker, find_run(tracker, "eval", base=base, variant=arm, extra_tags=tags))


def _passed_over(facts: Sequence[Facts], taken: Sequence[Facts]) -> Iterable[str]:
    """Why every other evaluation of the arms was not taken; the newest of them one by one."""
    used = {fact.record.run_id for fact in taken}
    others = [fact for fact in facts if fact.record.run_id not in used]
    reference = next((fact for fact in taken if fact.arm == BASE_ARM), taken[0])
    for fact in others[:SHOWN]:
        why = unlike(fact.asked, reference.asked)
        for mate in taken:
            why = why or unlike(fact.trained, mate.trained)
        if not why and fact.seed and fact.seed not in {f.seed for f in taken}:
            why = [f"training seed {fact.seed}, which not every arm has"]
        name = f"{fact.record.run_id} ({fact.record.name})"
        yield f"{name}: {'; '.join(why) or 'older, or of an arm that was not asked for'}"
    if len(others) > SHOWN:
        yield counted(len(others) - SHOWN, "older one") + ", not listed"


def _asked(text: str) -> list[str]:
    """The arms of a parameter, each known; the base may be among them, since it always is."""
    return [find_variant(name, "arms").name for name in split_list(text, "arms") if name != BASE_ARM]


def _named(text: str, tracker: Tracker) -> dict[str, list[RunRecord]]:
    """The runs of a parameter by arm; the base has one evaluation, however many seeds there are."""
    named: dict[str, list[RunRecord]] = {}
    for record in find_runs(tracker, "eval", text, "runs"):
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


def _require_asked(asked: Sequence[str], named: Mapping[str, Sequence[RunRecord]]) -> None:
    stray = [arm for arm in named if asked and arm not in (BASE_ARM, *asked)]
    if stray:
        raise ConfigError(
            "A run is of an arm that is not asked for.",
            where="runs",
            expected=f"evaluations of {BASE_ARM}, {', '.join(asked)}",
            found=", ".join(f"{named[arm][0].run_id} of {arm}" for arm in stray),
            next_step=f"add {', '.join(stray)} to arms, or leave the run out",
        )


def _unequal(unequal: Sequence[str], taken: Sequence[Facts]) -> ReportError:
    return ReportError(
        "Arms side by side differ in more than the variant.",
        where="eval runs " + ", ".join(fact.record.run_id for fact in taken),
        expected="equal settings but for the variant",
        found="; ".join(unequal),
        next_step="train and evaluate the arms alike, or pass unequal=allow: the report then says so first and "
        "promotes nobody",
    )


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
            "character": (character.digest[:16], record.tags.get(Tag.CHARACTER_DIGEST, "")[:16]),
            "trained character": (character.name, train.character if train else character.name),
            "subject": ("model", record.tags.get(Tag.SUBJECT, "model")),
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
    counts = Counter(record.tags.get(Tag.SEED) or "none" for record in records)
    seed, count = counts.most_common(1)[0]
    if count > 1:
        twice = [record.run_id for record in records if (record.tags.get(Tag.SEED) or "none") == seed]
        raise ReportError(
            "Evaluations of one training seed are no further seeds.",
            where=f"runs of {arm}",
            expected="one evaluation a training seed",
            found=f"{count} evaluations of seed {seed}: {', '.join(twice)}",
            next_step="pass one run id a seed",
        )

"""From evaluation runs to the facts of a report. Not a stage: `compare` judges and writes up what this gathers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from statistics import fmean
from typing import Any

from skippy.characters.schema import Character
from skippy.core.inference.accuracy import maj_at_k
from skippy.core.variants import find_variant, is_untrained
from skippy.errors import ReportError
from skippy.evaluation.character_history import read_curve, read_trajectory
from skippy.evaluation.distinguish import distinguishability
from skippy.evaluation.equality import training_settings
from skippy.evaluation.metrics import (
    FRONTIER,
    banal_scores,
    count_statuses,
    everyday_answers,
    format_scores,
    frontier,
    problem_scores,
    standard_error,
)
from skippy.evaluation.provenance import gather_provenance, promotion_state
from skippy.evaluation.selection import Selection
from skippy.evaluation.suites import AIME, BANAL, MODES, load_problem_set, suite_label
from skippy.resolve.bases import Base
from skippy.resolve.runs import walks_behind
from skippy.results import (
    Arm,
    BanalScores,
    Comparison,
    Evaluation,
    FrontierPoint,
    LeakageFacts,
    ProblemScore,
    UpdateFacts,
)
from skippy.stores.problems import ProblemSet
from skippy.stores.samples import Sample, read_samples
from skippy.tracking.records import RunRecord
from skippy.tracking.tags import Tag
from skippy.tracking.tracker import Tracker

OF_OTHERS = ("lm_eval/", "banal/judge", "aime/verify_")
"""Metrics of an evaluation that are not ours: EleutherAI's harness, a judge model, math-verify."""
JUDGE = "banal/judge"
DEFAULT_MARGIN = 0.05
FULL_DOSE = 100
"""Place of an arm that has no path, in percent of a dose."""


def gather_comparison(
    tracker: Tracker,
    run_id: str,
    base: Base,
    character: Character,
    selection: Selection,
    controls: Sequence[RunRecord] = (),
    *,
    margin: float,
    registered_model: str,
    command: str,
) -> Comparison:
    """Everything that the report of run `run_id` says, from the samples, metrics and tags that earlier runs left.

    Args:
        margin: as a share of problems; 0: the one planned in the evaluations.
        command: what writes this report again from the same evaluations.
    """
    records = selection.records
    reference = records["base"][0]
    problems = _problems_of(reference, tracker)
    base_samples = _samples(tracker, reference)
    base_scores = problem_scores(base_samples.get(AIME, ()), problems) if problems else ()
    arms = []
    for name, runs in records.items():
        evaluations = tuple(
            _evaluation(tracker, record, problems, character, base_samples, base_scores) for record in runs
        )
        sentence = (
            "the base itself" if name == "base" else find_variant(name).sentence + _found(tracker, runs)
        )
        arms.append(Arm(name, sentence, evaluations))
    arms = [_with_point(arm, arms, base_scores) if is_untrained(arm.name) else arm for arm in arms]
    return Comparison(
        suite_label=suite_label(problems) if problems else "no problems",
        problems=problems.problems if problems else (),
        arms=tuple(arms),
        provenance=gather_provenance(
            tracker, tracker.runs.read(run_id), base, character, problems, records, command
        ),
        margin_points=100 * (margin or selection.margin or DEFAULT_MARGIN),
        planned_margin_points=None if selection.margin is None else 100 * selection.margin,
        smallest_effect=character.smallest_effect,
        controls=tuple(_control(tracker, record, problems) for record in controls) if problems else (),
        unequal=selection.unequal,
        passed_over=selection.passed_over,
        chosen_by=selection.chosen_by,
        implied=selection.implied,
        floors=asdict(character.floors),
        duplicates_dropped=problems.duplicates if problems else 0,
        registered_model=registered_model,
        promotion=promotion_state(registered_model, tracker),
        extra_metrics=figures_of_others(records),
        protected_k=", ".join(dict.fromkeys(_protected(tracker, records))),
    )


def _found(tracker: Tracker, runs: Sequence[RunRecord]) -> str:
    """What making a mask found of it: whether it is of the persona at all."""
    trainings = [tracker.runs.read(run.link("train")).metrics for run in runs if run.link("train")]
    masks = [each for each in trainings if "mask/is_specific" in each]
    if not masks:
        return ""
    placebo, null = (fmean(each[f"mask/flips_{name}"] for each in masks) for name in ("placebo", "null"))
    word = "persona-specific" if all(each["mask/is_specific"] for each in masks) else "not persona-specific"
    return (
        f"; {word}: it differs from its placebo on {100 * placebo:.1f} % of the weights, plain phrasings from each "
        f"other on {100 * null:.1f} %"
    )


def _with_point(arm: Arm, arms: Sequence[Arm], base_scores: Sequence[ProblemScore]) -> Arm:
    """An arm without a path: its evaluation as one point of the frontier, on the scale of the walks' own base."""
    lines = [
        point.accuracy for other in arms for e in other.evaluations for point in e.frontier if point.is_base
    ]
    shares = {score.key: score.share for score in base_scores}
    found = []
    for item in arm.evaluations:
        differences = [score.share - shares[score.key] for score in item.scores if score.key in shares]
        if item.banal and differences:
            accuracy = (fmean(lines) if lines else fmean(shares.values())) + fmean(differences)
            personas = item.banal.scores
            errors = standard_error(personas), standard_error(differences)
            point = FrontierPoint(
                *(FULL_DOSE, fmean(personas), errors[0], accuracy, errors[1], True),
                n=len(differences),
                k=item.scores[0].k,
            )
            item = replace(item, frontier=(point,))
        found.append(item)
    return replace(arm, evaluations=tuple(found))


def _evaluation(
    tracker: Tracker,
    record: RunRecord,
    problems: ProblemSet | None,
    character: Character,
    base_samples: Mapping[str, list[Sample]],
    base_scores: Sequence[ProblemScore],
) -> Evaluation:
    samples = _samples(tracker, record)
    solved, chatted = samples.get(AIME, []), samples.get(BANAL, [])
    scores = problem_scores(solved, problems) if problems else ()
    gold = problems.gold if problems else {}
    train = tracker.runs.read(record.link("train")) if record.link("train") else None
    merge = tracker.runs.read(record.link("merge")) if record.link("merge") else None
    step = merge.tags.get(Tag.STEP, "") if merge else ""
    uri = record.tags.get(Tag.MODEL_URI, "")
    return Evaluation(
        seed=int(record.tags.get(Tag.SEED) or 0),
        model_uri=uri,
        model_version=uri.rsplit("/", 1)[1] if uri.startswith("models:/") else "",
        model_digest=record.tags.get(Tag.MODEL_DIGEST, ""),
        scores=scores,
        statuses=count_statuses(solved),
        banal=_banal(chatted, solved, character, base_samples, record) if chatted else None,
        leakage=_leakage(train, merge),
        trajectory=read_trajectory(tracker, train.run_id) if train else (),
        frontier=_frontier(tracker, merge, base_scores, problems),
        step=int(step) if step.isdigit() else None,
        matched_dose=merge.tags.get(Tag.MATCHED_DOSE, "") if merge else "",
        runs={stage: run for stage in ("svd", "train", "merge") if (run := _linked(record, train, stage))}
        | {"eval": record.run_id},
        maj_at_k=maj_at_k([s.answers for s in scores], [gold[s.key] for s in scores]) if scores else None,
        **_asked(record),
        samples=f"samples/{AIME}.jsonl" if solved else "",
        formats=format_scores(chatted, character) if chatted else {},
        rewards=read_curve(tracker, train.run_id, "train/reward") if train else {},
        update=_update(train, merge, record),
        answers=everyday_answers(chatted, character),
        recipe=training_settings(tracker, train.run_id, record.variant) if train else {},
    )


def _control(tracker: Tracker, record: RunRecord, problems: ProblemSet) -> Arm:
    """A stored evaluation as an arm of its own: what it solved and how it was asked, no more."""
    solved = _samples(tracker, record).get(AIME, [])
    evaluation = Evaluation(
        seed=int(record.tags.get(Tag.SEED) or 0),
        model_uri=record.tags.get(Tag.MODEL_URI, ""),
        model_version="",
        model_digest=record.tags.get(Tag.MODEL_DIGEST, ""),
        scores=problem_scores(solved, problems),
        runs={"eval": record.run_id},
        evaluated=datetime.fromtimestamp(record.start_time / 1000, UTC).isoformat(),
        **_asked(record),
    )
    return Arm(record.variant, record.name, (evaluation,))


def _asked(record: RunRecord) -> dict[str, Any]:
    """How the samples of an evaluation were drawn."""
    return {
        "preset": record.tags.get(Tag.SAMPLING, ""),
        "backend": record.tags.get(Tag.BACKEND, ""),
        "prompt_style": record.tags.get(Tag.PROMPT_STYLE, ""),
        "sampling_seed": int(record.tags.get(Tag.SAMPLING_SEED) or 0),
    }


def figures_of_others(records: Mapping[str, Sequence[RunRecord]]) -> dict[str, dict[str, float]]:
    """Figures that are not ours, name → arm → mean over its evaluations; a judge's under the judge's name."""
    found: dict[str, dict[str, float]] = {}
    for arm, runs in records.items():
        by_name: dict[str, list[float]] = {}
        for record in runs:
            judge = record.tags.get(Tag.JUDGE, "")
            for name, value in record.metrics.items():
                if name.startswith(OF_OTHERS) and "_stderr" not in name:
                    told = f"{name} ({judge})" if name.startswith(JUDGE) and judge else name
                    by_name.setdefault(told, []).append(value)
        for name, values in by_name.items():
            # A mean over some seeds beside one over all would not be the same figure.
            if len(values) == len(runs):
                found.setdefault(name, {})[arm] = fmean(values)
    return dict(sorted(found.items()))


def _frontier(
    tracker: Tracker,
    merge: RunRecord | None,
    base_scores: Sequence[ProblemScore],
    problems: ProblemSet | None,
) -> tuple[FrontierPoint, ...]:
    """Every evaluated checkpoint of the training behind a merge, the merged one marked."""
    if merge is None or problems is None:
        return ()
    ours = [walk for walk in walks_behind(merge, tracker) if walk.link("train") == merge.link("train")]
    samples = [s for walk in ours for s in read_samples(tracker.artifacts.path(walk.run_id, FRONTIER))]
    step = merge.tags.get(Tag.STEP, "")
    return frontier(samples, base_scores, problems, int(step) if step.isdigit() else None)


def _linked(record: RunRecord, train: RunRecord | None, stage: str) -> str:
    return record.link(stage) or (train.link(stage) if train else "")


def _banal(
    chatted: Sequence[Sample],
    solved: Sequence[Sample],
    character: Character,
    base_samples: Mapping[str, list[Sample]],
    record: RunRecord,
) -> BanalScores:
    scores = banal_scores(chatted, character)
    asked = base_samples.get(BANAL, [])
    # `problem_id` is mode/prompt index: one prompt is held out in all of its modes. Other formats have other prompts.
    (theirs, their_prompts), (ours, our_prompts) = (
        ([s.completion for s in told], [s.problem_id.split("/")[1] for s in told])
        for told in (
            [s for s in samples if s.problem_id.split("/")[0] in MODES] for samples in (asked, chatted)
        )
    )
    is_variant = record.variant != "base"
    auc = distinguishability(theirs, ours, their_prompts, our_prompts) if is_variant and theirs else None
    return replace(scores, base_auc=auc, problem_score=record.metrics.get("aime/persona") if solved else None)


def _samples(tracker: Tracker, record: RunRecord) -> dict[str, list[Sample]]:
    """Suite → samples of an evaluation."""
    return {
        Path(path).stem: list(read_samples(tracker.artifacts.path(record.run_id, path)))
        for path in tracker.artifacts.files(record.run_id, "samples")
    }


def _problems_of(record: RunRecord, tracker: Tracker) -> ProblemSet | None:
    """The problem set of an evaluation, read again and checked against the digest of then."""
    source, digest = record.tags.get(Tag.PROBLEMS, ""), record.tags.get(Tag.PROBLEMS_DIGEST, "")
    if not digest:
        return None
    then = tracker.runs.config(record.run_id)
    problems = load_problem_set(source, int(then["limit"]), str(then.get("answers", "auto")))
    if problems.digest != digest:
        raise ReportError(
            "The problems are not the ones that were asked.",
            where=f"{source}, as of eval run {record.run_id}",
            expected=f"digest {digest}",
            found=f"digest {problems.digest}",
            next_step="restore the source, or evaluate again",
        )
    return problems


def _leakage(train: RunRecord | None, merge: RunRecord | None) -> LeakageFacts | None:
    if train is None or "leakage/rho_left" not in train.metrics:
        return None
    after = merge.metrics if merge else {}
    return LeakageFacts(
        train.metrics["leakage/rho_left"],
        train.metrics["leakage/rho_right"],
        train.metrics["leakage/chance_left"],
        train.metrics["leakage/chance_right"],
        after.get("merge/rho_left"),
        after.get("merge/rho_right"),
        after.get("merge/delta_error"),
    )


def _update(train: RunRecord | None, merge: RunRecord | None, record: RunRecord) -> UpdateFacts:
    """What the arm changes and costs, as far as its runs say."""
    made, merged = (run.metrics if run else {} for run in (train, merge))
    shift, alpha = made.get("steer/relative_shift"), merged.get("merge/alpha")
    return UpdateFacts(
        parameters=made.get("train/parameters"),
        relative_norm=merged.get("merge/relative_norm"),
        relative_shift=None if shift is None or alpha is None else alpha * shift,
        everyday_kl=record.metrics.get("banal/kl_to_base"),
        train_seconds=made.get("train/seconds"),
        prompt_tokens=merged.get("merge/prompt_tokens"),
    )


def _protected(tracker: Tracker, records: Mapping[str, Sequence[RunRecord]]) -> list[str]:
    """`skippy.k` of every training that has one, as it was asked for."""
    trainings = [
        tracker.runs.read(r.link("train")) for runs in records.values() for r in runs if r.link("train")
    ]
    return [k for training in trainings if (k := training.tags.get(Tag.K, ""))]

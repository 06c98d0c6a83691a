"""An earlier evaluation's samples, scored again: by today's rules, against today's gold, with no model loaded."""

from __future__ import annotations

from skippy.errors import ConfigError
from skippy.evaluation.asking import Plan, rule_of
from skippy.evaluation.suites import rescore
from skippy.stores.samples import Sample, read_samples
from skippy.tracking.records import RunRecord
from skippy.tracking.tags import Tag
from skippy.tracking.tracker import Tracker
from skippy.words import counted


def regrade(record: RunRecord, plan: Plan, tracker: Tracker) -> list[Sample]:
    """The samples of an earlier evaluation, scored by today's rules and gold; no model is loaded.

    Raises:
        ConfigError: they are another model's, or answer questions that are no longer asked.
    """
    where = f"regrade={record.run_id}"
    digest = record.tags.get(Tag.MODEL_DIGEST, "unknown")
    if digest != plan.subject.digest:
        raise ConfigError(
            "The evaluation to regrade is of another model.",
            where=where,
            expected=f"an evaluation of {plan.subject.label} ({plan.subject.digest[:16]}…)",
            found=f"{record.name} ({digest[:16]}…)",
            next_step="pass the same model as that run, or another run",
        )
    paths = tracker.artifacts.files(record.run_id, "samples")
    samples = [
        sample for path in paths for sample in read_samples(tracker.artifacts.path(record.run_id, path))
    ]
    gold = {question.hash: question.gold for question in plan.questions}
    lost = {sample.problem_id for sample in samples if sample.problem_hash not in gold}
    if lost:
        today = f"digest {plan.problems.digest}" if plan.problems else "no problems"
        raise ConfigError(
            "Samples to regrade answer questions that are no longer asked.",
            where=where,
            expected=f"problems with digest {record.tags.get(Tag.PROBLEMS_DIGEST) or 'unknown'}, "
            f"everyday prompts as of {record.name}",
            found=f"{today}; without {counted(len(lost), 'question')}, {min(lost)} among them",
            next_step="restore the problem source and the character's prompts of that run",
        )
    return list(rescore(samples, gold, plan.character.rules, rule_of(plan)))

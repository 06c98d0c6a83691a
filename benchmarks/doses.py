"""What arms that are one update do over their dose: mathematics, persona and coherence of `train` runs, a row a dose.

    python -m benchmarks.doses RUN_ID … [--doses 0,0.5,1] [--problems 120]

One live model on the CPU is turned from dose to dose and asked the first problems of the lab's suite and its everyday
prompts, once each, with the seeds that an evaluation uses, so that rows and arms are paired.
"""

from __future__ import annotations

import argparse
from statistics import fmean

from skippy.characters.loader import load_character
from skippy.core.sampling import PRESETS
from skippy.evaluation.metrics import banal_scores
from skippy.evaluation.suites import (
    AIME,
    PLAIN,
    banal_questions,
    grade,
    load_problem_set,
    problem_questions,
    requests_for,
)
from skippy.models.loading import load_model, load_tokenizer
from skippy.models.transformers_backend import TransformersBackend
from skippy.resolve.bases import open_base
from skippy.resolve.dial import Dial
from skippy.stores.changes import read_change
from skippy.stores.samples import Sample
from skippy.tracking.store import open_tracker

SAMPLING = PRESETS["lab"]


def main() -> None:
    """Print the table, a line as soon as it is known."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", nargs="+")
    parser.add_argument("--doses", default="0.25,0.5,0.75,1,1.5,2")
    parser.add_argument("--problems", type=int, default=120)
    arguments = parser.parse_args()
    tracker, character = open_tracker(), load_character("skippy")
    base = open_base("lab", tracker)
    problems = load_problem_set("lab", arguments.problems, "auto")
    questions = problem_questions(problems, base.profile.prompt_style)
    questions += [question for question in banal_questions(character) if question.mode == PLAIN]
    tokenizer, model = load_tokenizer(base.path), load_model(base.path)
    print("arm | dose | score | persona | coherence", flush=True)
    for number, run_id in enumerate(arguments.runs):
        dial = Dial(model, base.checkpoint, read_change(tracker.artifacts.path(run_id, "adapter")))
        for alpha in [*([0.0] if number == 0 else []), *map(float, arguments.doses.split(","))]:
            dial.turn(alpha)
            wanted = requests_for(questions, 1, SAMPLING, "", set())
            found: list[Sample] = []
            for done in TransformersBackend(model, tokenizer).generate(
                [each[1] for each in wanted.values()], SAMPLING
            ):
                question, request = wanted[done.id]
                found.append(grade(question, done, SAMPLING, "", request.seed, character.rules))
            maths = [sample for sample in found if sample.suite == AIME]
            score = sum(sample.score == 1.0 for sample in maths) / len(maths)
            everyday = banal_scores([sample for sample in found if sample.suite != AIME], character)
            persona, coherence = fmean(everyday.scores), fmean(everyday.coherence)
            arm = tracker.runs.read(run_id).variant if alpha else "base"
            print(f"{arm} | {alpha:g} | {100 * score:.1f} | {persona:.2f} | {coherence:.2f}", flush=True)
        dial.turn(0.0)


if __name__ == "__main__":
    main()

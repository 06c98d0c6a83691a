"""Work on a study that another machine has started, until none of its cells is free.

The study itself (`-e study`) asks the base, waits for every cell and concludes; any number of these only take cells.
"""

from __future__ import annotations

import logging
import time

from skippy.core.torch_threads import one_torch_thread
from skippy.errors import MissingRunError, StudyError
from skippy.studies.board import Board
from skippy.studies.crew import Crew
from skippy.studies.inputs import StudyInputs, gather, units
from skippy.studies.plan import StudyPlan, read_plan
from skippy.studies.worker import Bench, patient, work
from skippy.tracking.tracker import Tracker
from skippy.words import counted

logger = logging.getLogger(__name__)

POLL_SECONDS = 5.0
WAIT_SECONDS = 3600.0
"""How long a worker that was started first waits for the study to be there."""


def join(plan_file: str, tracker: Tracker, parallel: int = 1, device: str = "auto") -> None:
    """Do free cells, several at a time with `parallel`; returns when every cell is done or somebody else's.

    Raises:
        StudyError: nobody has started the study within `WAIT_SECONDS`.
    """
    plan, tracker = read_plan(plan_file), patient(tracker)
    inputs, parent = _await_study(plan, tracker)
    bench = Bench(tracker, parent, "cpu" if device == "auto" and inputs.base.profile.is_for_cpu else device)
    if parallel == 1:
        with one_torch_thread():
            done = work(inputs, bench)
        logger.info("study %s: %s done here; no other is free", plan.name, counted(done, "cell"))
        return
    board, keys = Board(tracker, inputs.group), [unit.key for unit in units(inputs)]
    with Crew(plan_file, bench, parallel) as crew:
        while any(state.word == "free" for state in board.states(keys).values()):
            crew.keep_busy()
            time.sleep(POLL_SECONDS)
        crew.finish()


def _await_study(plan: StudyPlan, tracker: Tracker) -> tuple[StudyInputs, str]:
    """What the plan names, and the run of the study that works on it, when both are there and the base is asked."""
    deadline = time.monotonic() + WAIT_SECONDS
    while True:
        try:
            inputs = gather(plan, tracker)
        except MissingRunError:
            waits_for = "the projectors of its base"
        else:
            studies = tracker.runs.find_all("study", base_digest=inputs.base.digest, finished=False)
            running = [run.run_id for run in studies if run.status == "RUNNING"]
            base = Board(tracker, inputs.group).states([inputs.base_key])[inputs.base_key]
            if running and base.word == "finished":
                return inputs, running[0]
            waits_for = (
                "a running study" if not running else "the answers of its base, by this version of the code"
            )
        if time.monotonic() > deadline:
            raise StudyError(
                "There is no study to join.",
                where=plan.name,
                expected=f"{waits_for}, within {WAIT_SECONDS / 60:.0f} minutes",
                next_step="start it on one machine: mlflow run . -e study --env-manager local -P plan=…",
            )
        logger.info("study %s: waiting for %s", plan.name, waits_for)
        time.sleep(POLL_SECONDS)

"""From strings to a finished stage: type the parameters, look at the files they name, open the store, run.

What can be refused without MLflow and torch is refused before either is imported: a typo costs half a second and
leaves no run. Where `mlflow run` has made a run already, that run ends FAILED with the message.
"""

from __future__ import annotations

import gc
import logging
import os
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from typing import Any

from skippy.config import CONFIGS
from skippy.errors import SkippyError
from skippy.options import parse_config
from skippy.redaction import RedactingFilter, reveal_credentials
from skippy.resolve.threads import choose_threads
from skippy.tracking.signals import RUN_ID_VARIABLE, watch_parents

logger = logging.getLogger("skippy")


MODULES: dict[str, str] = {
    "main": "skippy.stages.pipeline",
    "svd": "skippy.stages.svd",
    "subspace": "skippy.stages.subspace",
    "train": "skippy.stages.train",
    "merge": "skippy.stages.merge",
    "eval": "skippy.stages.evaluate",
    "compare": "skippy.stages.compare",
    "promote": "skippy.stages.promote",
    "study": "skippy.stages.study",
    "paper": "skippy.stages.paper",
    "serve": "skippy.stages.serve",
}
"""Stage → the module whose `run(config, tracker)` does the work."""


def run_stage(name: str, values: Mapping[str, str]) -> None:
    """Run one stage as a program: exit code 0, or 1 after one clear message."""
    speak()
    watch_parents()
    values = reveal_credentials(values)
    try:
        config: Any = parse_config(CONFIGS[name], values)
        # Each imported only now: the readers of files take tenths of a second, MLflow and a stage's libraries seconds.
        with uncollected():
            import_module("skippy.resolve.files").check_files(config)
            choose_threads(name, config)
            tracker = import_module("skippy.tracking.store").open_tracker()
            stage = import_module(MODULES[name])
        stage.run(config, tracker)
    except Exception as error:
        ours = error if isinstance(error, SkippyError) else translate(error)
        if ours is None:
            raise
        refuse(name, values, ours)
        logger.error("%s failed. %s", name, ours)
        logger.debug("", exc_info=error)
        sys.exit(1)


@contextmanager
def uncollected() -> Iterator[None]:
    """Within, and among what is there at its end, nobody looks for garbage.

    What imports make lives as long as the process, and looking through it takes a sixth of a start. Only the first
    time is it set aside: a later stage of the same process may leave models behind.
    """
    gc.disable()
    try:
        yield
    finally:
        if not gc.get_freeze_count():
            gc.freeze()
        gc.enable()


def translate(error: Exception) -> SkippyError | None:
    """What the store, a driver or the operating system refused, in our words; None for a fault of our own."""
    return import_module("skippy.tracking.refusals").translate(error)


def speak() -> None:
    """Let milestones and errors reach the terminal."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    for handler in logging.getLogger().handlers:
        handler.addFilter(RedactingFilter())
    # Under a launcher, rank 0 speaks for all.
    logger.setLevel(logging.INFO if os.environ.get("RANK", "0") == "0" else logging.WARNING)
    # Renamings inside transformers and TRL that no user of ours can act on.
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"transformers\.")


def refuse(name: str, values: Mapping[str, str], error: SkippyError) -> None:
    """End the run that `mlflow run` made for a stage that never began, so that the message stands there too.

    A stage that began has used the variable up and ended its own run.
    """
    if not os.environ.get(RUN_ID_VARIABLE):
        return
    try:
        tracker = import_module("skippy.tracking.store").open_tracker()
        with tracker.stage(name, name=f"{name} (refused)", note=error.what, config=dict(values)):
            raise error
    except SkippyError as ended:
        if ended is not error:
            logger.warning("the run of this stage could not be told. %s", ended)

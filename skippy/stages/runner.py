"""From strings to a finished stage: open the store, type the parameters, run, and say what comes next."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Mapping
from importlib import import_module
from typing import Any

from skippy.config import CONFIGS
from skippy.errors import ConfigError, SkippyError
from skippy.options import parse_config
from skippy.tracking.store import open_tracker

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
}
"""Stage → the module whose `run(config, tracker)` does the work."""


def run_stage(name: str, values: Mapping[str, str]) -> None:
    """Run one stage as a program: exit code 0, or 1 after one clear message.

    A parameter that cannot be used fails the MLflow run as well, so that the message stands where people
    look for it.

    Args:
        name: a key of `CONFIGS`.
        values: parameter name → text, from the command line.
    """
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    # Under a launcher, rank 0 speaks for all.
    logger.setLevel(logging.INFO if os.environ.get("RANK", "0") == "0" else logging.WARNING)
    # Renamings inside transformers and TRL that no user of ours can act on.
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"transformers\.")
    try:
        tracker = open_tracker()
        try:
            config: Any = parse_config(CONFIGS[name], values)
        except ConfigError as error:
            with tracker.stage(name, name=f"{name} (refused)", note=error.what, config=dict(values)):
                raise
        # Imported only now: each stage pulls in its own heavy libraries, and no other's.
        import_module(MODULES[name]).run(config, tracker)
    except SkippyError as error:
        logger.error("%s failed. %s", name, error)
        sys.exit(1)

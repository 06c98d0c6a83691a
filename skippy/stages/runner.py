"""From strings to a finished stage: open the store, type the parameters, run, and say what comes next."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from skippy.config import (
    CompareConfig,
    EvalConfig,
    MainConfig,
    MergeConfig,
    PromoteConfig,
    SubspaceConfig,
    SvdConfig,
    TrainConfig,
)
from skippy.errors import ConfigError, SkippyError
from skippy.options import parse_config
from skippy.tracking.store import open_tracker

logger = logging.getLogger("skippy")


@dataclass(frozen=True)
class StageSpec:
    """What a stage is made of: its config, and the module whose `run(config, tracker)` does the work."""

    config: type
    module: str


STAGES: dict[str, StageSpec] = {
    "main": StageSpec(MainConfig, "skippy.stages.pipeline"),
    "svd": StageSpec(SvdConfig, "skippy.stages.svd"),
    "subspace": StageSpec(SubspaceConfig, "skippy.stages.subspace"),
    "train": StageSpec(TrainConfig, "skippy.stages.train"),
    "merge": StageSpec(MergeConfig, "skippy.stages.merge"),
    "eval": StageSpec(EvalConfig, "skippy.stages.evaluate"),
    "compare": StageSpec(CompareConfig, "skippy.stages.compare"),
    "promote": StageSpec(PromoteConfig, "skippy.stages.promote"),
}


def run_stage(name: str, values: Mapping[str, str]) -> None:
    """Run one stage as a program: exit code 0, or 1 after one clear message.

    A parameter that cannot be used fails the MLflow run as well, so that the message stands where people
    look for it.

    Args:
        name: a key of `STAGES`.
        values: parameter name → text, from the command line.
    """
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    # Under a launcher, rank 0 speaks for all.
    logger.setLevel(logging.INFO if os.environ.get("RANK", "0") == "0" else logging.WARNING)
    # Renamings inside transformers and TRL that no user of ours can act on.
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"transformers\.")
    spec = STAGES[name]
    try:
        tracker = open_tracker()
        try:
            config: Any = parse_config(spec.config, values)
        except ConfigError as error:
            with tracker.stage(name, name=f"{name} (refused)", note=error.what, config=dict(values)):
                raise
        # Imported only now: each stage pulls in its own heavy libraries, and no other's.
        import_module(spec.module).run(config, tracker)
    except SkippyError as error:
        logger.error("%s failed. %s", name, error)
        sys.exit(1)

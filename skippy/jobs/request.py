"""What is to run on a cluster, and the commands that its tasks run."""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from skippy.errors import ConfigError

SPREAD = ("svd", "train")
"""Stages that share their work over the processes of torchrun."""
PORT = 29500
"""Where torchrun's processes meet; torch's own default."""
VARIABLES = ("MLFLOW_TRACKING_URI", "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD")


LONGEST = 48
"""Signs of a label: Kubernetes allows 63 to the name of a pod's host, `skippy-LABEL-INDEX`."""


def label(name: str) -> str:
    """`name` as clusters and shells take names: lower case, digits, dashes; a digest keeps apart what is cut."""
    plain = "".join(sign if sign.isascii() and sign.isalnum() else "-" for sign in name.lower()).strip("-")
    if 0 < len(plain) <= LONGEST:
        return plain
    return f"{plain[: LONGEST - 9]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}".strip("-")


@dataclass(frozen=True)
class StudyJob:
    """Workers of one study."""

    plan: Path  # its file
    name: str  # of the plan
    workers: int  # tasks; the first runs the study, the others join it
    gpus: int = 0  # of each task

    def commands(self, plan: str) -> tuple[str, str]:
        """What the first task runs and what the others run, with the plan where they find it."""
        given = f"{shlex.quote(plan)} --parallel {self.parallel}"
        return f"skippy study --plan {given}", f"skippy join {given}"

    @property
    def parallel(self) -> int:
        """Cells at a time in one task: four for each GPU, as the stage itself would."""
        return 4 * self.gpus or 1


@dataclass(frozen=True)
class StageJob:
    """One stage over several nodes."""

    stage: str  # one of `SPREAD`
    parameters: Mapping[str, str]  # of the stage, checked
    nodes: int  # machines
    gpus: int  # of each

    def __post_init__(self) -> None:
        if self.stage not in SPREAD:
            raise ConfigError(
                "This stage does not spread over nodes.",
                where="--stage",
                expected=f"one of {', '.join(SPREAD)}",
                found=repr(self.stage),
                next_step="run it on one machine, or a study with --plan",
            )

    def torchrun(self, meeting: str) -> str:
        """The launcher's command line on each node; `meeting` is how its processes find one another."""
        words = [
            f"--{name.replace('_', '-')} {shlex.quote(value)}" for name, value in self.parameters.items()
        ]
        return " ".join(
            [f"torchrun --nproc-per-node {max(1, self.gpus)} {meeting} -m entrypoints.{self.stage}", *words]
        )

"""Job files for Slurm: shell scripts for sbatch. The tracking server and its password come by the environment."""

from __future__ import annotations

import json
from collections.abc import Mapping

from skippy.jobs.request import PORT, VARIABLES, StageJob, StudyJob, label
from skippy.words import counted

HEAD = """#!/bin/bash
# {title}
# From the project's root:  export {variables};  sbatch {file}
{options}
set -euo pipefail
: "${{MLFLOW_TRACKING_URI:?export it before sbatch: the address of the tracking server that all nodes reach}}"
cd "$SLURM_SUBMIT_DIR"
export PATH="$PWD/.venv/bin:$PATH" OMP_NUM_THREADS="${{OMP_NUM_THREADS:-1}}"
"""


def study_script(job: StudyJob, file: str, options: Mapping[str, str]) -> str:
    """An array of tasks: the first runs the study, the others take cells."""
    first, others = job.commands(str(job.plan))
    given = {
        "job-name": label(f"skippy-{job.name}"),
        "array": f"0-{job.workers - 1}",
        "ntasks": "1",
        "cpus-per-task": str(job.parallel),
        **({"gpus-per-task": str(job.gpus)} if job.gpus else {}),
        "requeue": "",
        "output": "slurm-%A-%a.out",
        **options,
    }
    body = f'if [ "$SLURM_ARRAY_TASK_ID" = 0 ]; then\n  exec {first}\nelse\n  exec {others}\nfi\n'
    return _head(f"{counted(job.workers, 'worker')} of the study {job.name}.", file, given) + body


def stage_script(job: StageJob, file: str, options: Mapping[str, str]) -> str:
    """One launcher a node; they meet at the first."""
    given = {
        "job-name": f"skippy-{job.stage}",
        "nodes": str(job.nodes),
        "ntasks-per-node": "1",
        **({"gpus-per-node": str(job.gpus)} if job.gpus else {}),
        "output": "slurm-%j.out",
        **options,
    }
    meeting = (
        f'--nnodes "$SLURM_JOB_NUM_NODES" --rdzv-id "$SLURM_JOB_ID" --rdzv-backend c10d '
        f'--rdzv-endpoint "$first:{PORT}"'
    )
    body = (
        'names=$(scontrol show hostnames "$SLURM_JOB_NODELIST")\n'
        "first=${names%%[[:space:]]*}\n"
        f"srun {job.torchrun(meeting)}\n"
    )
    return _head(f"The stage {job.stage} on {job.nodes} nodes.", file, given) + body


def backend_config(gpus: int, options: Mapping[str, str]) -> str:
    """What `mlflow run --backend slurm --backend-config FILE` reads (package mlflow-slurm).

    `nodes` is left out on purpose: with it, mlflow-slurm wraps the command into quotes that empty parameters break.
    """
    known = {name: value for name, value in options.items() if name != "nodes"}
    return json.dumps(
        {**({"gpus_per_node": gpus} if gpus else {}), **known, "modules": [], "exports": []}, indent=2
    )


def _head(title: str, file: str, options: Mapping[str, str]) -> str:
    lines = [f"#SBATCH --{name}={value}" if value else f"#SBATCH --{name}" for name, value in options.items()]
    return HEAD.format(
        title=" ".join(title.split()), variables=" ".join(VARIABLES), file=file, options="\n".join(lines)
    )

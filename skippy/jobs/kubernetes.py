"""Job files for Kubernetes. The tracking server and its password come from the secret `skippy-tracking`."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from skippy.errors import ConfigError
from skippy.jobs.request import PORT, VARIABLES, StageJob, StudyJob, label
from skippy.words import counted

SECRET = "skippy-tracking"
MOUNT = "/etc/skippy"
PROJECT = "/opt/skippy"
"""Where the project lies in the image."""
SHARED = f"{PROJECT}/.skippy"
"""Where unfinished work lies, which the nodes of svd hand to one another."""
ADDRESS = "SKIPPY_TRACKING_URI"
"""MLflow writes the tracking server's address into a job; in place of the person's, this one of the secret."""
MAKE_SECRET = "kubectl create secret generic " + " ".join(
    [SECRET, *(f'--from-literal={name}="${name}"' for name in VARIABLES)]
)
HEAD = (
    f"# {{title}}\n# Once:   {MAKE_SECRET}\n# Then:   kubectl apply -f {{file}}\n"
    "# Again:  kubectl replace --force -f {file}\n"
)


def study_manifest(job: StudyJob, file: str, image: str, claim: str) -> str:
    """An indexed job: index 0 runs the study, the others take cells; the plan travels in a config map.

    Args:
        claim: of a volume that the pods share; empty for none.
    """
    name = label(f"skippy-{job.name}")
    key = f"{label(job.plan.stem)}.yaml"
    first, others = job.commands(f"{MOUNT}/{key}")
    script = f'if [ "$JOB_COMPLETION_INDEX" = 0 ]; then exec {first}; else exec {others}; fi'
    container = _container(image, script, job.gpus, cpus=job.parallel)
    pod = _pod(container, claim, {MOUNT: {"name": "plan", "configMap": {"name": name}}})
    plan_map = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": name},
        "data": {key: job.plan.read_text(encoding="utf-8")},
    }
    title = f"{counted(job.workers, 'worker')} of the study {job.name}."
    return _documents(title, file, plan_map, _job(name, job.workers, pod))


def stage_manifest(job: StageJob, file: str, image: str, claim: str) -> str:
    """An indexed job of one launcher a node; they meet at index 0, whose name a headless service gives.

    Args:
        claim: of a volume that the pods share; empty for none.

    Raises:
        ConfigError: the nodes would wait for files of one another.
    """
    if job.stage == "svd" and job.nodes > 1 and not claim:
        raise ConfigError(
            "The nodes of svd hand one another files, and pods share no disk.",
            where="--volume",
            expected="a claim of a volume that several nodes may write (ReadWriteMany)",
            found="none",
            next_step="pass --volume CLAIM, or --nodes 1 with as many --gpus as one machine has",
        )
    name = label(f"skippy-{job.stage}")
    meeting = (
        f'--nnodes {job.nodes} --node-rank "$JOB_COMPLETION_INDEX" '
        f"--master-addr {name}-0.{name} --master-port {PORT}"
    )
    container = _container(image, f"exec {job.torchrun(meeting)}", job.gpus, cpus=1)
    # NCCL's processes meet in shared memory, of which a container has 64 MB.
    memory = {"/dev/shm": {"name": "memory", "emptyDir": {"medium": "Memory"}}} if job.gpus > 1 else {}
    pod = _pod(container, claim, memory) | {"subdomain": name}
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name},
        "spec": {"clusterIP": "None", "selector": {"job-name": name}, "publishNotReadyAddresses": True},
    }
    return _documents(
        f"The stage {job.stage} on {job.nodes} nodes.", file, service, _job(name, job.nodes, pod)
    )


def backend_files(project: Path, image: str, repository: str, gpus: int, folder: str) -> Mapping[str, str]:
    """File name → content of what `mlflow run FOLDER --backend kubernetes --backend-config FOLDER/config.json` reads.

    MLflow runs only a project with a container there, so ours is given one; MLflow fills in name, image and command.
    """
    ours = yaml.safe_load((project / "MLproject").read_text(encoding="utf-8"))
    for entry in ours["entry_points"].values():
        entry["command"] = entry["command"].replace("python -m ", "python -m skippy.jobs.words ")
    theirs = {"name": ours["name"], "docker_env": {"image": image}, "entry_points": ours["entry_points"]}
    template = _job(
        "filled-in-by-mlflow", 1, _pod(_container("filled-in-by-mlflow", "", gpus, cpus=1), "", {})
    )
    template["metadata"]["namespace"] = "default"
    (container,) = template["spec"]["template"]["spec"]["containers"]
    key = {"name": SECRET, "key": VARIABLES[0]}
    container["env"].append({"name": ADDRESS, "valueFrom": {"secretKeyRef": key}})
    config = {"kube-job-template-path": f"{folder}/job.yaml", "repository-uri": repository}
    return {
        "MLproject": yaml.safe_dump(theirs, sort_keys=False),
        "job.yaml": yaml.safe_dump(template, sort_keys=False),
        "config.json": json.dumps(config, indent=2),
    }


def _job(name: str, tasks: int, pod: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": name},
        "spec": {
            "completionMode": "Indexed",
            "completions": tasks,
            "parallelism": tasks,
            "backoffLimit": 3 * tasks,
            "template": {"spec": dict(pod)},
        },
    }


def _pod(
    container: Mapping[str, Any], claim: str, volumes: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    """A pod of one container; `volumes` by where they are mounted, beside the shared one that `claim` names."""
    volumes = dict(volumes)
    if claim:
        volumes[SHARED] = {"name": "shared", "persistentVolumeClaim": {"claimName": claim}}
    mounts = [{"name": each["name"], "mountPath": path} for path, each in volumes.items()]
    return {
        "restartPolicy": "OnFailure",
        "containers": [{**container, **({"volumeMounts": mounts} if mounts else {})}],
        **({"volumes": list(volumes.values())} if volumes else {}),
    }


def _container(image: str, script: str, gpus: int, *, cpus: int) -> dict[str, Any]:
    return {
        "name": "skippy",
        "image": image,
        "workingDir": PROJECT,
        # Kubernetes puts variables in for $(NAME), and reads $$ as one $.
        "command": ["sh", "-c", re.sub(r"\$(?=[$(])", "$$", script)],
        "envFrom": [{"secretRef": {"name": SECRET}}],
        "env": [{"name": "OMP_NUM_THREADS", "value": "1"}],
        "resources": {
            "requests": {"cpu": str(cpus)},
            **({"limits": {"nvidia.com/gpu": str(gpus)}} if gpus else {}),
        },
    }


class _Dumper(yaml.SafeDumper):
    """Texts of several lines stay readable."""


_Dumper.add_representer(
    str,
    lambda dumper, text: dumper.represent_scalar(
        "tag:yaml.org,2002:str", text, style="|" if "\n" in text else None
    ),
)


def _documents(title: str, file: str, *parts: Mapping[str, Any]) -> str:
    body = "---\n".join(
        yaml.dump(dict(part), Dumper=_Dumper, sort_keys=False, allow_unicode=True) for part in parts
    )
    return HEAD.format(title=" ".join(title.split()), file=file) + body

"""Pods as Linux namespaces: each has a host name, processes, mounts and `/etc/hosts` of its own; all share a network.

What a container gets is read from the pod's definition alone, by Kubernetes' documented rules. Needs root.
"""

from __future__ import annotations

import base64
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
PROJECT = ("skippy", "entrypoints", "MLproject", "conda.yaml")
"""What of it a run needs in an image."""
PROGRAMS = ("unshare", "nsenter", "ip", "mount", "hostname")
SETUP = """\
set -e
hostname {host}
mount -t tmpfs tmpfs {folder}/etc
cp -a /etc/. {folder}/etc
cp {folder}/hosts {folder}/etc/hosts
mount --bind {folder}/etc /etc
mount -t tmpfs tmpfs /opt
{mounts}
cd {work}
exec "$@"
"""


class PodError(Exception):
    """Why the container of a pod cannot be started."""


def why_not() -> str:
    """Why there can be no pods here; empty where there can."""
    missing = [name for name in PROGRAMS if shutil.which(name) is None]
    if missing:
        return f"{', '.join(missing)} not installed"
    tried = subprocess.run(
        ["unshare", "--net", "--mount", "--uts", "--pid", "--fork", "true"], capture_output=True
    )
    return "" if tried.returncode == 0 else "no namespaces for this user"


@dataclass(frozen=True)
class Place:
    """Where pods run."""

    folder: Path  # for all that they write
    network: int  # process that holds their network
    objects: Mapping[tuple[str, str], Mapping[str, Any]]  # (resource, name) → what was submitted
    images: Mapping[str, Mapping[str, str]]  # that can be pulled, and the environment that each sets
    claims: Mapping[str, Path]  # of volumes


@contextmanager
def network() -> Iterator[int]:
    """A network of its own, with loopback alone; the process that holds it."""
    holder = subprocess.Popen(
        ["unshare", "--net", "sh", "-c", "ip link set lo up && echo up && exec sleep 3600"],
        stdout=subprocess.PIPE,
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"up\n"
        yield holder.pid
    finally:
        holder.kill()
        holder.wait()


def expand(text: str, variables: Mapping[str, str]) -> str:
    """`$(NAME)` as Kubernetes reads it in a command and in a variable: `$$` is `$`, what is unknown stays."""

    def read(match: re.Match[str]) -> str:
        return "$" if match[0] == "$$" else variables.get(match[1], match[0])

    return re.sub(r"\$\$|\$\(([^)]*)\)", read, text)


def environment(container: Mapping[str, Any], place: Place, index: int) -> dict[str, str]:
    """The variables of one container, those of the image among them."""
    found = dict(place.images[container["image"]])
    for source in container.get("envFrom", ()):
        found |= secret(source["secretRef"]["name"], place)
    earlier: dict[str, str] = {}  # those of the same list alone can be referred to
    for variable in container.get("env", ()):
        if "valueFrom" in variable:
            key = variable["valueFrom"]["secretKeyRef"]
            earlier[variable["name"]] = secret(key["name"], place)[key["key"]]
        else:
            earlier[variable["name"]] = expand(variable["value"], earlier)
    found |= earlier
    return found | {"JOB_COMPLETION_INDEX": str(index)}


def secret(name: str, place: Place) -> dict[str, str]:
    """What a secret holds."""
    found = place.objects.get(("secrets", name))
    if found is None:
        raise PodError(f'CreateContainerConfigError: secret "{name}" not found')
    return {key: base64.b64decode(value).decode() for key, value in found.get("data", {}).items()}


def start(job: Mapping[str, Any], index: int, attempt: int, place: Place) -> subprocess.Popen[bytes]:
    """The container of one pod of a job, running; its log is `FOLDER/UID-JOB-INDEX-ATTEMPT.log`."""
    spec = job["spec"]["template"]["spec"]
    (container,) = spec["containers"]
    if container["image"] not in place.images:
        raise PodError(f"ErrImagePull: {container['image']}")
    name = job["metadata"]["name"]
    folder = place.folder / f"{job['metadata']['uid']}-{name}-{index}-{attempt}"
    (folder / "etc").mkdir(parents=True)
    (folder / "work").mkdir()
    (folder / "hosts").write_text("\n".join(hosts(job, index, place)) + "\n")
    variables = environment(container, place, index) | {
        "PYTHONPATH": "/opt/skippy",
        "HOME": str(folder / "work"),
    }
    mounts = [mount(ROOT / part, Path("/opt/skippy") / part) for part in PROJECT]
    volumes = {volume["name"]: volume for volume in spec.get("volumes", ())}
    for mounted in container.get("volumeMounts", ()):
        source = volume_folder(volumes[mounted["name"]], folder, place)
        mounts.append(mount(source, Path(mounted["mountPath"])))
    work = container.get("workingDir", folder / "work")
    setup = SETUP.format(host=f"{name}-{index}", folder=folder, mounts="\n".join(mounts), work=work)
    words = [expand(word, variables) for word in [*container["command"], *container.get("args", ())]]
    with folder.with_suffix(".log").open("wb") as log:
        return subprocess.Popen(
            ["nsenter", f"--net=/proc/{place.network}/ns/net",
             "unshare", "--mount", "--uts", "--pid", "--fork", "--kill-child", "--mount-proc",
             "sh", "-c", setup, "sh", *words],
            env=variables, stdout=log, stderr=log, stdin=subprocess.DEVNULL,
        )  # fmt: skip


def mount(source: Path, target: Path) -> str:
    """The shell's line that lets a container see `source` at `target`."""
    make = f"mkdir -p {target}" if source.is_dir() else f"touch {target}"
    return f"{make} && mount --bind {source} {target}"


def hosts(job: Mapping[str, Any], index: int, place: Place) -> Iterator[str]:
    """`/etc/hosts`: a pod knows its own name, and those of pods with a subdomain that a headless service selects."""
    name, pod = job["metadata"]["name"], job["spec"]["template"]["spec"]
    address = "127.0.1.{}".format
    yield "127.0.0.1 localhost"
    yield f"{address(index + 1)} {name}-{index}"
    labels = {"job-name": name, "batch.kubernetes.io/job-name": name}
    service = place.objects.get(("services", pod.get("subdomain", "")))
    if service is None or service["spec"].get("clusterIP") != "None":
        return
    if service["spec"]["selector"].items() <= labels.items():
        for other in range(job["spec"]["completions"]):
            yield f"{address(other + 1)} {name}-{other}.{pod['subdomain']}"


def volume_folder(volume: Mapping[str, Any], folder: Path, place: Place) -> Path:
    """What of this machine stands for a volume."""
    if "persistentVolumeClaim" in volume:
        name = volume["persistentVolumeClaim"]["claimName"]
        if name not in place.claims:
            raise PodError(f'FailedScheduling: persistentvolumeclaim "{name}" not found')
        return place.claims[name]
    found = folder / "volumes" / volume["name"]
    found.mkdir(parents=True)
    if "configMap" in volume:
        name = volume["configMap"]["name"]
        if ("configmaps", name) not in place.objects:
            raise PodError(f'FailedMount: configmap "{name}" not found')
        for key, text in place.objects["configmaps", name]["data"].items():
            (found / key).write_text(text)
    return found


def image(**variables: str) -> dict[str, str]:
    """An image in which this project is installed: the environment that it sets."""
    return {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", **variables}


def stop(pod: subprocess.Popen[bytes]) -> None:
    """Kill a container and all in it."""
    pod.send_signal(signal.SIGKILL)
    pod.wait()

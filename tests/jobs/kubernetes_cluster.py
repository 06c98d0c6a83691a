"""A Kubernetes API server for kubectl and Kubernetes' Python client, as far as jobs need it; pods run on this machine.

What is submitted is held against Kubernetes' own schemas, fields that they do not know refused, and against the rules
for names that its API server knows beyond them.
"""

from __future__ import annotations

import itertools
import json
import re
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import kubernetes_validate
import yaml

from tests.jobs import kubernetes_pods as pods

KINDS = {"Secret": "secrets", "ConfigMap": "configmaps", "Service": "services", "Job": "jobs"}
LABEL = r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?"
SERVICE = r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?"
KEY = r"(?!\.\.)[-._a-zA-Z0-9]{1,253}"
RESTART_SECONDS = 0.2
"""In place of the ten seconds and more after which Kubernetes starts a failed container again."""


class Refused(Exception):
    """What the API server answers to something that it does not take."""


def check(document: Mapping[str, Any]) -> None:
    """Refuse what Kubernetes would refuse.

    Raises:
        Refused: a field is unknown, missing or of another type, or a name breaks the rules.
    """
    try:
        kubernetes_validate.validate(dict(document), kubernetes_validate.latest_version(), strict=True)
    except kubernetes_validate.ValidationError as error:
        raise Refused(f"{'.'.join(map(str, error.path))}: {error.message}") from error
    names = [(LABEL, document["metadata"]["name"])]
    if document["kind"] == "Service":
        names.append((SERVICE, document["metadata"]["name"]))
    names += [(KEY, key) for key in document.get("data", ())]
    if document["kind"] == "Job":
        spec = document["spec"]
        pod = spec["template"]["spec"]
        names.append((LABEL, f"{document['metadata']['name']}-{spec['completions'] - 1}"))
        names += [(LABEL, each["name"]) for each in (*pod["containers"], *pod.get("volumes", ()))]
        names += [(r"OnFailure|Never", pod.get("restartPolicy", "Always"))]
        names += [(r"\S+", each["image"]) for each in pod["containers"]]
    for rule, name in names:
        if not re.fullmatch(rule, name):
            raise Refused(f"Invalid value: {name!r}: must match {rule}")


class Cluster:
    """What was submitted, and what became of it."""

    def __init__(self, folder: Path, images: Mapping[str, Mapping[str, str]], network: int) -> None:
        self.folder = folder
        self.objects: dict[tuple[str, str], dict[str, Any]] = {}
        self.claims = {"shared": folder / "shared"}
        self.claims["shared"].mkdir(parents=True)
        self.images = dict(images)
        self.place = pods.Place(folder, network, self.objects, self.images, self.claims)
        self.uids = itertools.count()
        self.threads: list[threading.Thread] = []

    def submit(self, resource: str, document: dict[str, Any]) -> dict[str, Any]:
        """Take an object, and run it if it is a job."""
        check(document)
        key = (resource, document["metadata"]["name"])
        if key in self.objects:
            raise Refused(f'AlreadyExists: {resource} "{key[1]}"')
        document["metadata"]["uid"] = f"{next(self.uids)}"
        self.objects[key] = document
        if resource == "jobs":
            document["status"] = {"active": document["spec"]["completions"], "startTime": now()}
            self.threads.append(threading.Thread(target=self._run, args=[document], daemon=True))
            self.threads[-1].start()
        return document

    def wait(self, job: str, seconds: float = 300) -> str:
        """How a job ended: Complete or Failed."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            for condition in self.objects["jobs", job]["status"].get("conditions", ()):
                return str(condition["type"])
            time.sleep(0.1)
        raise TimeoutError(f"job {job}: {self.logs()}")

    def logs(self) -> str:
        """What all pods said."""
        return "\n".join(f"{path.stem}:\n{path.read_text()}" for path in sorted(self.folder.glob("*.log")))

    def _run(self, job: dict[str, Any]) -> None:
        """Every index to its success, or the job's failure when containers failed too often."""
        spec, status = job["spec"], job["status"]
        failed, done, running = 0, 0, {}
        try:
            for index in range(spec["completions"]):
                running[index] = pods.start(job, index, 0, self.place)
            while running and failed <= spec.get("backoffLimit", 6):
                for index, pod in list(running.items()):
                    code = pod.poll()
                    if code == 0:
                        del running[index]
                        done += 1
                    elif code is not None:
                        failed += 1
                        time.sleep(RESTART_SECONDS)
                        running[index] = pods.start(job, index, failed, self.place)
                time.sleep(0.05)
            why = "BackoffLimitExceeded" if running else ""
        except (pods.PodError, OSError) as error:
            why = str(error)
        for pod in running.values():
            pods.stop(pod)
        status |= {"succeeded": done, "failed": failed, "active": 0}
        kind = "Failed" if why else "Complete"
        status["conditions"] = [{"type": kind, "status": "True", "message": why or "Reached expected number"}]


def now() -> str:
    """The time as Kubernetes writes it."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def discovery(path: str) -> dict[str, Any] | None:
    """What a client asks before it submits anything: which kinds there are, and that fields are checked here."""
    group = {"groupVersion": "batch/v1", "version": "v1"}
    homes = {"/api/v1": ["Secret", "ConfigMap", "Service"], "/apis/batch/v1": ["Job"]}
    if path == "/version":
        return {"major": "1", "minor": "32", "gitVersion": "v1.32.0"}
    if path == "/api":
        return {"kind": "APIVersions", "versions": ["v1"]}
    if path == "/apis":
        groups = [{"name": "batch", "versions": [group], "preferredVersion": group}]
        return {"kind": "APIGroupList", "apiVersion": "v1", "groups": groups}
    if path == "/openapi/v3":
        return {"paths": {home[1:]: {"serverRelativeURL": f"/openapi/v3{home}"} for home in homes}}
    home = path.removeprefix("/openapi/v3")
    if home not in homes:
        return None
    if home == path:
        resources = [
            {"name": KINDS[kind], "kind": kind, "namespaced": True, "singularName": kind.lower(),
             "verbs": ["create", "delete", "get", "list", "patch"]}
            for kind in homes[home]
        ]  # fmt: skip
        version = home.removeprefix("/apis/").removeprefix("/api/")
        return {"kind": "APIResourceList", "groupVersion": version, "resources": resources}
    group_name = "batch" if "batch" in home else ""
    paths = {
        f"{home}/namespaces/{{namespace}}/{KINDS[kind]}/{{name}}": {
            "patch": {
                "parameters": [{"name": "fieldValidation", "in": "query"}],
                "x-kubernetes-group-version-kind": {"group": group_name, "version": "v1", "kind": kind},
            }
        }
        for kind in homes[home]
    }
    return {"openapi": "3.0.0", "info": {"title": "Kubernetes", "version": "v1.32.0"}, "paths": paths}


class Handler(BaseHTTPRequestHandler):
    """HTTP in, HTTP out."""

    protocol_version = "HTTP/1.1"
    cluster: Cluster

    def do_GET(self) -> None:
        """An object, a job's status, or what there is to talk about."""
        path = urlsplit(self.path).path
        found = discovery(path)
        if found is None:
            found = self.cluster.objects.get(self._key(path))
        if found is None:
            self._refuse(404, "NotFound", path)
        else:
            self._answer(200, found)

    def do_POST(self) -> None:
        """Something new."""
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        try:
            self._answer(201, self.cluster.submit(urlsplit(self.path).path.split("/")[-1], body))
        except Refused as error:
            self._refuse(422, "Invalid", str(error))

    def do_DELETE(self) -> None:
        """Forget it."""
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.cluster.objects.pop(self._key(urlsplit(self.path).path), None)
        self._answer(200, {"kind": "Status", "apiVersion": "v1", "status": "Success"})

    def _key(self, path: str) -> tuple[str, str]:
        parts = path.removesuffix("/status").split("/")
        return (parts[-2], parts[-1]) if "namespaces" in parts else ("", "")

    def _refuse(self, code: int, reason: str, message: str) -> None:
        status = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": reason}
        self._answer(code, {**status, "message": message, "code": code})

    def _answer(self, code: int, body: Mapping[str, Any]) -> None:
        text = json.dumps(body).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *words: object) -> None:
        """Say nothing."""


@contextmanager
def kubernetes(folder: Path, images: Mapping[str, Mapping[str, str]]) -> Iterator[tuple[Cluster, Path]]:
    """A cluster, and the file by which clients find it."""
    with pods.network() as network:
        cluster = Cluster(folder / "cluster", images, network)
        server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (Handler,), {"cluster": cluster}))
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        config = folder / "kubeconfig"
        config.write_text(
            yaml.safe_dump(
                {
                    "apiVersion": "v1",
                    "kind": "Config",
                    "current-context": "here",
                    "clusters": [{"name": "here", "cluster": {"server": address}}],
                    "contexts": [{"name": "here", "context": {"cluster": "here", "user": "ada"}}],
                    "users": [{"name": "ada", "user": {}}],
                }
            )
        )
        try:
            yield cluster, config
        finally:
            server.shutdown()
            server.server_close()
